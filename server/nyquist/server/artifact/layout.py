"""The model repository on disk: which models there are, in which versions, and how configured.

repository -> folders of models -> complete versions -> manifest, config.pbtxt
"""

import hashlib
import logging
from pathlib import Path

from google.protobuf import text_format

from nyquist.server.artifact.manifest import CONFIG_FILE, MANIFEST_FILE, Manifest, read_plain_file
from nyquist.server.artifact.model_config import parse_model_config
from nyquist.server.artifact.versions import wanted_versions
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb

logger = logging.getLogger(__name__)


def model_folders(repository: Path) -> list[Path]:
    """Return the folders that hold a model: those with a config.pbtxt, by name.

    Raises:
        ArtifactError: the repository is no folder.
    """
    if not repository.is_dir():
        raise ArtifactError(
            f"there is no model repository at {repository}; "
            "make one with python export/build.py, or name another with --repository"
        )
    folders = sorted(repository.iterdir())
    return [
        folder
        for folder in folders
        if not folder.name.startswith(".") and (folder / CONFIG_FILE).is_file()
    ]


def complete_versions(folder: Path) -> list[int]:
    """Return the versions of a model that are complete, ascending: a manifest is written last."""
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if entry.name.isascii()
        and entry.name.isdecimal()
        and str(int(entry.name)) == entry.name != "0"
        and (entry / MANIFEST_FILE).is_file()
    )


def latest_version(folder: Path) -> int:
    """Return the highest complete version of a model.

    Raises:
        ArtifactError: there is none.
    """
    return wanted_versions(complete_versions(folder), pb.ModelVersionPolicy(), folder.name)[-1]


def read_policy(folder: Path) -> pb.ModelVersionPolicy:
    """Read which versions of a model its config.pbtxt wants to be served.

    Raises:
        ArtifactError: it cannot be read, or is none.
    """
    path = folder / CONFIG_FILE
    text = read_plain_file(path)
    try:
        return text_format.Parse(text.decode(), pb.ModelConfig()).version_policy
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def read_config(folder: Path, manifest: Manifest) -> pb.ModelConfig:
    """Read config.pbtxt, which an operator may have edited since the build.

    Raises:
        ArtifactError: it cannot be read, or is not that of this model.
    """
    path = folder / CONFIG_FILE
    content = read_plain_file(path)
    try:
        config = parse_model_config(content.decode(), path)
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path} is no text: {error}") from error
    found = [(tensor.name, tuple(tensor.dims)) for tensor in config.input]
    found += [(tensor.name, tuple(tensor.dims)) for tensor in config.output]
    expected = [(tensor.name, tensor.shape) for tensor in (manifest.input, *manifest.outputs)]
    if config.name != manifest.name or (found and found != expected):
        raise ArtifactError(
            f"{path} describes {config.name!r} with {found}, its manifest {manifest.name!r} with "
            f"{expected}"
        )
    if hashlib.sha256(content).hexdigest() != manifest.files.get(CONFIG_FILE):
        logger.info("%s was edited since version %d was built", path, manifest.version)
    return config
