"""The model repository on disk: which models there are, and how one becomes ready to answer.

folder -> latest version -> manifest -> checksums -> engine -> warm -> LoadedModel
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

from server import manifest as artifact
from server.engine import Engine, Execution
from server.errors import ArtifactError
from server.manifest import Manifest, read_manifest
from server.model_config import batch_limits, parse_model_config
from server.session_settings import read_sessions
from server.tensors import DTYPES
from server.waiting_room import BatchLimits

LABELS_FILE = "labels.txt"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is checked, open and warm.

    Attributes:
        manifest: what it is.
        labels: of its classes, in their order.
        engines: its sessions, one for each instance.
        limits: of its batches and queue, as config.pbtxt says.
        load_s: time that loading took.
    """

    manifest: Manifest
    labels: tuple[str, ...]
    engines: tuple[Engine, ...]
    limits: BatchLimits
    load_s: float


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
        if not folder.name.startswith(".") and (folder / artifact.CONFIG_FILE).is_file()
    ]


def latest_version(folder: Path) -> int:
    """Return the highest version of a model that is complete: its manifest is written last.

    Raises:
        ArtifactError: there is none.
    """
    versions = [
        int(entry.name)
        for entry in folder.iterdir()
        if entry.name.isascii()
        and entry.name.isdecimal()
        and (entry / artifact.MANIFEST_FILE).is_file()
    ]
    if not versions:
        raise ArtifactError(f"{folder} has no complete version: no N/{artifact.MANIFEST_FILE}")
    return max(versions)


def load_model(folder: Path, execution: Execution) -> LoadedModel:
    """Check, open and warm the latest version of the model in `folder`.

    Raises:
        ArtifactError: a file is missing, damaged or contradicts another.
        StartError: CUDA is required and not to be had.
        InferenceFailed: the session opens but does not run.
    """
    start = perf_counter()
    manifest = read_manifest(folder, latest_version(folder))
    text = manifest.read_file(folder, artifact.CONFIG_FILE).decode()
    config = parse_model_config(text, folder / artifact.CONFIG_FILE)
    labels = tuple(manifest.read_file(folder, LABELS_FILE).decode().splitlines())
    _check_labels(labels, manifest)
    limits = batch_limits(config)
    graph = manifest.read_file(folder, f"{manifest.version}/{artifact.MODEL_FILE}")
    picture = np.zeros(manifest.input.shape, DTYPES[manifest.input.datatype])
    engines = []
    for settings in read_sessions(config):
        engines.append(Engine(graph, execution, limits.max_batch_size, settings))
        engines[-1].warm(picture)
    return LoadedModel(manifest, labels, tuple(engines), limits, perf_counter() - start)


def _check_labels(labels: Sequence[str], manifest: Manifest) -> None:
    classes = manifest.outputs[0].shape[-1]
    if labels and len(labels) != classes:
        raise ArtifactError(
            f"{manifest.name!r} has {len(labels)} labels for {classes} classes of "
            f"{manifest.outputs[0].name!r}"
        )
