"""Which versions of a model are there, which are wanted, and whether their files have changed.

complete versions -> version policy -> wanted versions -> mark of each
"""

from collections.abc import Iterable
from pathlib import Path

from nyquist.server.artifact.manifest import MANIFEST_FILE, MODEL_FILE
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb

Mark = tuple[tuple[str, int, int, int], ...]
"""Path, inode, size and time of change of each file: another mark is another artifact."""


def wanted_versions(
    complete: Iterable[int],
    policy: pb.ModelVersionPolicy,
    name: str,
    model_file: str = MODEL_FILE,
) -> list[int]:
    """Return the versions that a policy asks for: the latest one where it says nothing.

    Those that it names stay named where only some of them are there: the others fail when they are
    loaded, and withhold none.

    Raises:
        ArtifactError: none of them is there.
    """
    there = sorted(complete)
    wanted = there
    if policy.HasField("specific"):
        wanted = sorted(set(policy.specific.versions))
    elif not policy.HasField("all"):
        wanted = there[-(policy.latest.num_versions or 1) :]
    if wanted and not set(wanted) & set(there):
        raise ArtifactError(
            f"{name} has no complete version {wanted}, which its version_policy names; has {there}"
        )
    if not wanted:
        raise ArtifactError(
            f"{name} has no complete version: no N/{MANIFEST_FILE}, no N/{model_file}"
        )
    return wanted


def mark_of(folder: Path, version: int | None = None) -> Mark:
    """Return the mark of a version and of what all versions share, or of the whole model.

    Raises:
        ArtifactError: the folder cannot be read.
    """
    own = "*" if version is None else str(version)
    try:
        files = sorted([*folder.glob("*"), *folder.glob(f"{own}/*")])
        return tuple(_mark_of_file(folder, path) for path in files if path.is_file())
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be read: {error.strerror}") from error


def _mark_of_file(folder: Path, path: Path) -> tuple[str, int, int, int]:
    status = path.stat()  # of what a link leads to: it may change where the link does not
    return (str(path.relative_to(folder)), status.st_ino, status.st_size, status.st_mtime_ns)
