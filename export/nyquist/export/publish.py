"""Write an artifact whole: a reader sees the old one or the new one, never a mixture.

files -> temporary folder beside the target -> fsync -> manifest -> exchange
"""

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from google.protobuf import text_format

from nyquist.export.outcome import DEFAULT_KEEP
from nyquist.models.spec import INPUT, ModelSpec
from nyquist.server.artifact import manifest as artifact
from nyquist.server.artifact.layout import complete_versions
from nyquist.server.artifact.manifest import Manifest, read_manifest
from nyquist.server.artifact.model_config import PLATFORM
from nyquist.server.scheduling.limits import DEFAULT_MAX_QUEUE_SIZE
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb
from nyquist.server.wire.signature import TensorSpec

LOCK_FILE = ".lock"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


class RepositoryBusy(Exception):
    """Another build writes to this repository."""


@contextmanager
def locked(repository: Path) -> Iterator[None]:
    """Keep other builds away from a repository, which is made if there is none.

    Raises:
        RepositoryBusy: another build is at work there.
        OSError: the folder cannot be written.
    """
    repository.mkdir(parents=True, exist_ok=True)
    with (repository / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RepositoryBusy(f"another build is writing to {repository}") from error
        yield


def model_config(spec: ModelSpec, tensors: tuple[TensorSpec, ...]) -> str:
    """Return config.pbtxt, in the protobuf text format.

    Args:
        spec: of the model.
        tensors: its outputs.
    """
    config = pb.ModelConfig(name=spec.name, platform=PLATFORM, max_batch_size=spec.max_batch_size)
    pixels = spec.datatype == "UINT8"
    config.input.add(
        name=INPUT,
        data_type=pb.DataType.Value(f"TYPE_{spec.datatype}"),
        format=pb.ModelInput.FORMAT_NHWC if pixels else pb.ModelInput.FORMAT_NCHW,
        dims=spec.shape,
    )
    for tensor in tensors:
        output = config.output.add(name=tensor.name, data_type=pb.TYPE_FP32, dims=tensor.shape)
        own = {spec.answers.output, "probabilities"}
        if spec.labels and tensor.name in own:
            output.label_filename = artifact.LABELS_FILE
    config.dynamic_batching.default_queue_policy.max_queue_size = DEFAULT_MAX_QUEUE_SIZE
    return text_format.MessageToString(config)


def checksums(files: Mapping[str, bytes]) -> dict[str, str]:
    """Return the sha256 of each file."""
    return {path: hashlib.sha256(content).hexdigest() for path, content in files.items()}


def publish(
    repository: Path,
    name: str,
    files: Mapping[str, bytes],
    manifest_of: Callable[[int, dict[str, str]], Manifest],
    keep: int = DEFAULT_KEEP,
) -> Manifest:
    """Put a version of a model into the repository in one step.

    The same content again is the version that is there; changed content is the next one. Settings
    that an operator made in config.pbtxt stay while they fit the new tensors.

    Args:
        repository: its folder.
        name: of the model.
        files: of the version, by name; config.pbtxt and labels.txt also become the model's own.
        manifest_of: describes a version, given its number and the sha256 of its files.
        keep: most versions that stay, this one included.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    repository.mkdir(parents=True, exist_ok=True)
    target = repository / name
    versions = complete_versions(target) if target.is_dir() else []
    shared = {path: files[path] for path in (artifact.CONFIG_FILE, artifact.LABELS_FILE)}
    own = {path: files[path] for path in files if path != artifact.CONFIG_FILE}
    version = _version_for(target, versions, checksums(own))
    placed = {**shared, **{f"{version}/{path}": content for path, content in own.items()}}
    manifest = manifest_of(version, checksums(placed))
    placed[f"{version}/{artifact.MANIFEST_FILE}"] = manifest.to_json().encode()
    placed[artifact.CONFIG_FILE] = _edited_config(target, versions, shared[artifact.CONFIG_FILE])
    older = [number for number in versions if number != version][-(keep - 1) :] if keep > 1 else []
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=repository) as scratch:
        fresh = Path(scratch) / name
        for number in older:
            shutil.copytree(target / str(number), fresh / str(number))
        for path, content in placed.items():
            _write(fresh / path, content)
        for folder in (fresh / str(version), fresh):
            _sync(folder)
        if target.exists():
            exchange(fresh, target)
        else:
            fresh.rename(target)
        _sync(repository)
    return manifest


def _version_for(folder: Path, versions: list[int], found: dict[str, str]) -> int:
    """Return the number that content of these checksums gets."""
    if not versions:
        return 1
    latest = versions[-1]
    try:
        listed = read_manifest(folder, latest).files
    except ArtifactError:
        return latest + 1
    same = {f"{latest}/{path}": digest for path, digest in found.items()}
    below = {path: digest for path, digest in listed.items() if path.startswith(f"{latest}/")}
    return latest if below == same else latest + 1


def _edited_config(folder: Path, versions: list[int], built: bytes) -> bytes:
    """Return the config.pbtxt that an operator edited, if it still fits; else what was built."""
    try:
        edited = (folder / artifact.CONFIG_FILE).read_bytes()
        listed = read_manifest(folder, versions[-1]).files[artifact.CONFIG_FILE]
        if hashlib.sha256(edited).hexdigest() == listed:
            return built
        theirs, ours = (text_format.Parse(text, pb.ModelConfig()) for text in (edited, built))
    except (OSError, ArtifactError, IndexError, KeyError, text_format.ParseError):
        return built
    fits = (theirs.name, theirs.platform) == (ours.name, ours.platform)
    fits = fits and [*theirs.input, *theirs.output] == [*ours.input, *ours.output]
    return edited if fits else built


def exchange(first: Path, second: Path) -> None:
    """Let two folders of one file system change places, in one step where the system can.

    Linux can (renameat2, since 3.15); where the file system cannot, `second` is away for an
    instant.

    Raises:
        OSError: neither way works.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    failed = libc.renameat2(
        _AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE
    )
    if not failed:
        return
    code = ctypes.get_errno()
    if code not in (errno.EINVAL, errno.ENOSYS):
        raise OSError(code, os.strerror(code), str(second))
    aside = first.with_name(f"{first.name}.old")
    second.rename(aside)
    first.rename(second)
    aside.rename(first)


def remove_leftovers(repository: Path) -> None:
    """Delete the temporary folders of builds that were killed."""
    for folder in repository.glob(".*.*"):
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
