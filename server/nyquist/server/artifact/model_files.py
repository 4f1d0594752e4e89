"""The files of a model, which may be links: read if they end where a model may have its files.

path -> opened, links followed -> where it ended -> inside the repository, the model's own folder or
a folder that the operator allows -> bytes

The file that is open is asked for its place, not the path once more: a link that is exchanged
between two looks leads nowhere else.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from nyquist.server.wire.errors import ArtifactError


def read_model_file(folder: Path, path: str, allowed: Sequence[Path] = ()) -> bytes:
    """Read a file of a model.

    Args:
        folder: of the model, itself a link or not; the folder around it is the repository.
        path: below it.
        allowed: folders outside the repository in which links may end too.

    Raises:
        ArtifactError: it cannot be read, is no file, or ends anywhere else.
    """
    file = folder / path
    roots = [Path(os.path.realpath(root)) for root in (folder.parent, folder, *allowed)]
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as opened:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ArtifactError(f"{file} is no file")
            place = _place_of(descriptor)
            if not any(place.is_relative_to(root) for root in roots):
                raise ArtifactError(
                    f"{file} leads to {place}, which is outside {folder.parent}; move it inside, "
                    "or allow its folder with --link-folder"
                )
            return opened.read()
    except OSError as error:
        raise ArtifactError(f"{file} cannot be read: {error.strerror}") from error


def read_weights(
    names: Iterable[str], read: Callable[[str], bytes], version: int
) -> dict[str, bytes]:
    """Read the files that hold a graph's weights, which lie beside it.

    Args:
        names: as the graph has them.
        read: reads a file by its path below the model's folder.
        version: whose folder holds them.

    Raises:
        ArtifactError: one cannot be read, or is not below that folder.
    """
    names = list(names)
    check_weight_names(names)
    return {name: read(f"{version}/{name}") for name in names}


def check_weight_names(names: Iterable[str]) -> None:
    """Refuse files of weights that are not below the folder of their graph.

    Raises:
        ArtifactError: one is not.
    """
    for name in names:
        if not name or name.startswith("/") or ".." in Path(name).parts:
            raise ArtifactError(f"the graph has weights in {name!r}, they stay in its folder")


def _place_of(descriptor: int) -> Path:
    """Return where an open file lies, without a link on the way."""
    if sys.platform == "darwin":
        import fcntl

        place = fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024))
        return Path(os.fsdecode(place.rstrip(b"\0")))
    return Path(f"/proc/self/fd/{descriptor}").readlink()
