"""The model repository on disk: which models there are, in which versions, and how configured.

repository -> folders of models -> versions, with a manifest or bare -> config.pbtxt
"""

import json
import logging
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from google.protobuf import json_format

from nyquist.server.artifact.manifest import (
    BESIDE_A_GRAPH,
    CONFIG_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
)
from nyquist.server.artifact.model_config import check_model_config, parse_model_config
from nyquist.server.artifact.model_files import read_model_file
from nyquist.server.artifact.versions import wanted_versions
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb

_BATCH_SIZE = re.compile(rb"^[^#\n]*\bmax_batch_size\s*:", re.MULTILINE)

OVERRIDE = Path("the config of the load")
MOST_NESTED = 32

logger = logging.getLogger(__name__)


def model_folders(*repositories: Path) -> list[Path]:
    """Return the folders that hold a model, by name: with a config.pbtxt, or N/model.onnx.

    Raises:
        ArtifactError: a repository is no folder or may not be read, or two of them have a model
            of the same name.
    """
    found: dict[str, Path] = {}
    for repository in repositories:
        if repository.is_file():
            raise ArtifactError(f"{repository} is a file, a model repository is a folder")
        if not repository.is_dir():
            raise ArtifactError(
                f"there is no model repository at {repository}; "
                "make one with nyquist build, or name another with --repository"
            )
        for folder in _entries(repository):
            if folder.name.startswith(".") or not _is_model(folder):
                continue
            if folder.name in found:
                raise ArtifactError(
                    f"model {folder.name!r} lies in two repositories, {found[folder.name].parent} "
                    f"and {repository}; it can be served from one"
                )
            found[folder.name] = folder
    return [found[name] for name in sorted(found)]


def _entries(repository: Path) -> list[Path]:
    try:
        return list(repository.iterdir())
    except PermissionError as error:
        raise ArtifactError(f"{repository} may not be read by user {os.geteuid()}") from error


def _is_model(folder: Path) -> bool:
    """Say whether a folder is one of a model; what may not be looked into is none."""
    try:
        if (folder / CONFIG_FILE).is_file():
            return True
        return folder.is_dir() and bool(complete_versions(folder) or bare_versions(folder))
    except PermissionError:
        _tell_closed(folder)
        return False


@cache
def _tell_closed(folder: Path) -> None:
    """Say of a folder, once, that it may not be looked into; a volume has one that nobody need."""
    if folder.name != "lost+found":
        logger.warning("%s may not be read by user %d: it is passed over", folder, os.geteuid())


def complete_versions(folder: Path) -> list[int]:
    """Return the versions of a model that are complete, ascending: a manifest is written last."""
    return [int(entry.name) for entry in _versions(folder) if (entry / MANIFEST_FILE).is_file()]


def bare_versions(folder: Path, model_file: str = MODEL_FILE) -> list[int]:
    """Return the versions of a model that are a graph without a manifest, ascending.

    An artifact that still lacks its manifest is none: what it has beside its graph tells it.
    """
    return [
        int(entry.name)
        for entry in _versions(folder)
        if (entry / model_file).is_file()
        and not any((entry / one).exists() for one in (MANIFEST_FILE, *BESIDE_A_GRAPH))
    ]


def _versions(folder: Path) -> list[Path]:
    """Return the folders with the names of versions, ascending."""
    found = [
        entry
        for entry in folder.iterdir()
        if entry.name.isascii()
        and entry.name.isdecimal()
        and str(int(entry.name)) == entry.name != "0"
    ]
    return sorted(found, key=lambda entry: int(entry.name))


def passed_over(folder: Path, model_file: str = MODEL_FILE) -> list[str]:
    """Return the folders that hold a graph or a manifest and are no versions for their names."""
    versions = _versions(folder)
    return sorted(
        entry.name
        for entry in folder.iterdir()
        if entry not in versions
        and any((entry / one).is_file() for one in (model_file, MANIFEST_FILE))
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
        path: of the file; of what a load brings in its place, words for it.
        config: what it says.
        sha256: of its bytes; empty where there is no such file.
        batch_is_set: whether it says a max_batch_size, were it 0.
        allowed: folders in which links of the model may end; see `read_model_file`.
    """

    path: Path
    config: pb.ModelConfig
    sha256: str
    batch_is_set: bool
    allowed: tuple[Path, ...] = ()

    @property
    def model_file(self) -> str:
        """Name of the graph's file, in the folder of each version."""
        return self.config.default_model_filename or MODEL_FILE

    def versions(self, folder: Path) -> list[int]:
        """Return the versions of the model that can be served, with a manifest or without."""
        return sorted({*complete_versions(folder), *bare_versions(folder, self.model_file)})

    def wanted(self, folder: Path) -> list[int]:
        """Return the versions of the model that its policy asks for, there or not.

        Raises:
            ArtifactError: none of them is there, or the folder cannot be read.
        """
        try:
            there = self.versions(folder)
        except OSError as error:
            raise ArtifactError(f"{folder} cannot be read: {error.strerror}") from error
        return wanted_versions(there, self.config.version_policy, folder.name, self.model_file)

    def checked(self, manifest: Manifest) -> pb.ModelConfig:
        """Return what it says of one version; an operator may have edited it since the build.

        Raises:
            ArtifactError: it is not that of this model, or asks for what is not served.
        """
        config = self.config
        if not self.sha256:
            raise ArtifactError(f"{self.path} cannot be read: No such file or directory")
        check_model_config(config, self.path)
        if config.max_batch_size < 1:
            raise ArtifactError(
                f"{self.path}: max_batch_size is {config.max_batch_size}, least is 1"
            )
        if self.model_file != MODEL_FILE:
            raise ArtifactError(
                f"{self.path}: default_model_filename is {self.model_file!r}, that of an artifact "
                f"is {MODEL_FILE!r}"
            )
        found = {one.name: (_datatype(one.data_type), tuple(one.dims)) for one in config.input}
        found |= {one.name: (_datatype(one.data_type), tuple(one.dims)) for one in config.output}
        tensors = (manifest.input, *manifest.outputs)
        expected = {tensor.name: (tensor.datatype, tensor.shape) for tensor in tensors}
        fits = found.items() <= expected.items()
        if config.name not in ("", manifest.name) or not fits:
            raise ArtifactError(
                f"{self.path} describes {config.name!r} with {found}, its manifest "
                f"{manifest.name!r} with {expected}"
            )
        if self.sha256 != manifest.files.get(CONFIG_FILE):
            logger.info("%s was edited since version %d was built", self.path, manifest.version)
        return config


def _datatype(data_type: int) -> str:
    return pb.DataType.Name(data_type).removeprefix("TYPE_")


def with_tensors(config: pb.ModelConfig, manifest: Manifest) -> pb.ModelConfig:
    """Return a configuration with the tensors of the manifest, where it names none."""
    full = pb.ModelConfig()
    full.CopyFrom(config)
    full.name = manifest.name
    taken, layout = manifest.input, manifest.preprocessing.layout
    if not config.input:
        full.input.add(
            name=taken.name,
            data_type=pb.DataType.Value(f"TYPE_{taken.datatype}"),
            format=pb.ModelInput.FORMAT_NHWC if layout == "HWC" else pb.ModelInput.FORMAT_NCHW,
            dims=taken.shape,
        )
    for output in () if config.output else manifest.outputs:
        data_type = pb.DataType.Value(f"TYPE_{output.datatype}")
        full.output.add(name=output.name, data_type=data_type, dims=output.shape)
    return full


def read_config_file(folder: Path, allowed: Sequence[Path] = ()) -> ConfigFile:
    """Read config.pbtxt; a model without one has an empty one.

    Args:
        folder: of the model.
        allowed: folders in which links may end; see `read_model_file`.

    Raises:
        ArtifactError: it cannot be read, or is none.
    """
    path = folder / CONFIG_FILE
    if not (path.exists() or path.is_symlink()):
        return ConfigFile(path, pb.ModelConfig(), "", batch_is_set=False, allowed=tuple(allowed))
    content = read_model_file(folder, CONFIG_FILE, allowed)
    config = parse_model_config(content, path)
    said = bool(_BATCH_SIZE.search(content))
    return ConfigFile(path, config, sha256(content).hexdigest(), said, tuple(allowed))


def overriding_config(text: str, allowed: Sequence[Path] = ()) -> ConfigFile:
    """Read a configuration that a load brings in place of config.pbtxt: JSON of the same schema.

    Args:
        text: of the JSON.
        allowed: folders in which links may end; see `read_model_file`.

    Raises:
        ArtifactError: it is no such JSON.
    """
    try:
        keys = json.loads(text).keys()  # Parse takes an array for an empty object
        config = json_format.Parse(text, pb.ModelConfig(), max_recursion_depth=MOST_NESTED)
    except (json_format.ParseError, AttributeError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise ArtifactError(f"{OVERRIDE} is no JSON of a ModelConfig: {line}") from error
    said = not keys.isdisjoint(("max_batch_size", "maxBatchSize"))
    digest = sha256(text.encode()).hexdigest()
    return ConfigFile(OVERRIDE, config, digest, said, tuple(allowed))


def read_config(folder: Path, manifest: Manifest) -> pb.ModelConfig:
    """Read config.pbtxt for one version alone; see `ConfigFile`.

    Raises:
        ArtifactError: it cannot be read, or is not that of this model.
    """
    return read_config_file(folder).checked(manifest)
