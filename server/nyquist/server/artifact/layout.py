"""The model repository on disk: which models there are, in which versions, and how configured.

repository -> folders of models -> complete versions -> manifest, config.pbtxt
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from nyquist.server.artifact.manifest import CONFIG_FILE, MANIFEST_FILE, Manifest
from nyquist.server.artifact.model_config import check_model_config, parse_model_config
from nyquist.server.artifact.model_files import read_model_file
from nyquist.server.artifact.versions import wanted_versions
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb

logger = logging.getLogger(__name__)


def model_folders(*repositories: Path) -> list[Path]:
    """Return the folders that hold a model: those with a config.pbtxt, by name.

    Raises:
        ArtifactError: a repository is no folder, or two of them have a model of the same name.
    """
    found: dict[str, Path] = {}
    for repository in repositories:
        if not repository.is_dir():
            raise ArtifactError(
                f"there is no model repository at {repository}; "
                "make one with nyquist build, or name another with --repository"
            )
        for folder in repository.iterdir():
            if folder.name.startswith(".") or not _is_model(folder):
                continue
            if folder.name in found:
                raise ArtifactError(
                    f"model {folder.name!r} lies in two repositories, {found[folder.name].parent} "
                    f"and {repository}; it can be served from one"
                )
            found[folder.name] = folder
    return [found[name] for name in sorted(found)]


def _is_model(folder: Path) -> bool:
    """Say whether a folder is one of a model; what may not be looked into (lost+found) is none."""
    try:
        return (folder / CONFIG_FILE).is_file()
    except PermissionError:
        return False


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


@dataclass(frozen=True)
class ConfigFile:
    """A model's config.pbtxt, read and parsed once for all its versions.

    Attributes:
        path: of the file.
        config: what it says.
        sha256: of its bytes.
        allowed: folders in which links of the model may end; see `read_model_file`.
    """

    path: Path
    config: pb.ModelConfig
    sha256: str
    allowed: tuple[Path, ...] = ()

    def checked(self, manifest: Manifest) -> pb.ModelConfig:
        """Return what it says of one version; an operator may have edited it since the build.

        Raises:
            ArtifactError: it is not that of this model, or asks for what is not served.
        """
        config = self.config
        check_model_config(config, self.path)
        found = [(tensor.name, tuple(tensor.dims)) for tensor in config.input]
        found += [(tensor.name, tuple(tensor.dims)) for tensor in config.output]
        expected = [(tensor.name, tensor.shape) for tensor in (manifest.input, *manifest.outputs)]
        if config.name != manifest.name or (found and found != expected):
            raise ArtifactError(
                f"{self.path} describes {config.name!r} with {found}, its manifest "
                f"{manifest.name!r} with {expected}"
            )
        if self.sha256 != manifest.files.get(CONFIG_FILE):
            logger.info("%s was edited since version %d was built", self.path, manifest.version)
        return config


def read_config_file(folder: Path, allowed: Sequence[Path] = ()) -> ConfigFile:
    """Read config.pbtxt.

    Args:
        folder: of the model.
        allowed: folders in which links may end; see `read_model_file`.

    Raises:
        ArtifactError: it cannot be read, or is none.
    """
    path = folder / CONFIG_FILE
    content = read_model_file(folder, CONFIG_FILE, allowed)
    config = parse_model_config(content, path)
    return ConfigFile(path, config, sha256(content).hexdigest(), tuple(allowed))


def read_config(folder: Path, manifest: Manifest) -> pb.ModelConfig:
    """Read config.pbtxt for one version alone; see `ConfigFile`.

    Raises:
        ArtifactError: it cannot be read, or is not that of this model.
    """
    return read_config_file(folder).checked(manifest)
