"""The model repository on disk: which models there are, and how one becomes ready to answer.

folder -> version -> manifest -> checksums -> engine -> warm -> LoadedModel
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from google.protobuf import text_format

from nyquist.server.artifact import manifest as artifact
from nyquist.server.artifact.manifest import Manifest, read_manifest
from nyquist.server.artifact.model_config import batch_limits, parse_model_config
from nyquist.server.artifact.versions import wanted_versions
from nyquist.server.runtime.calibration import best_batch_size, open_engines
from nyquist.server.runtime.engine import CPU, Engine, Execution
from nyquist.server.runtime.session_settings import SessionSettings, read_sessions
from nyquist.server.scheduling.request_queue import BatchLimits
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb
from nyquist.server.wire.tensors import DTYPES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A model that is checked, open and warm.

    Attributes:
        manifest: what it is.
        labels: of its classes, in their order.
        config: its config.pbtxt.
        engines: its sessions, one for each instance.
        low_latency: one session more, for requests that are alone.
        limits: of its batches and queue, as config.pbtxt says.
        load_s: time that loading took.
    """

    manifest: Manifest
    labels: tuple[str, ...]
    config: pb.ModelConfig
    engines: tuple[Engine, ...]
    low_latency: Engine | None
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


def complete_versions(folder: Path) -> list[int]:
    """Return the versions of a model that are complete, ascending: a manifest is written last."""
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if entry.name.isascii()
        and entry.name.isdecimal()
        and str(int(entry.name)) == entry.name != "0"
        and (entry / artifact.MANIFEST_FILE).is_file()
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
    path = folder / artifact.CONFIG_FILE
    text = artifact.read_plain_file(path)
    try:
        return text_format.Parse(text.decode(), pb.ModelConfig()).version_policy
    except (UnicodeDecodeError, text_format.ParseError) as error:
        raise ArtifactError(f"{path}: {error}") from error


def load_model(folder: Path, execution: Execution, version: int | None = None) -> LoadedModel:
    """Check, open and warm a version of the model in `folder`; None is the latest.

    Raises:
        ArtifactError: a file is missing, damaged or contradicts another.
        StartError: CUDA is required and not to be had.
        InferenceFailed: the session opens but does not run.
    """
    start = perf_counter()
    manifest = read_manifest(folder, version or latest_version(folder))
    config = read_config(folder, manifest)
    labels_file = f"{manifest.version}/{artifact.LABELS_FILE}"
    labels = tuple(manifest.read_file(folder, labels_file).decode().splitlines())
    _check_labels(labels, manifest)
    limits = batch_limits(config)
    graph = manifest.read_file(folder, f"{manifest.version}/{artifact.MODEL_FILE}")
    least, _ = manifest.input.bounds
    picture = np.zeros(least, DTYPES[manifest.input.datatype])

    def open_engine(settings: SessionSettings) -> Engine:
        engine = Engine(graph, execution, limits.max_batch_size, settings)
        engine.warm(picture)
        return engine

    first, *others = read_sessions(config)
    ungrouped = not config.instance_group
    sessions = open_engines(first, execution, open_engine, fill_cores=ungrouped)
    engines, threads = sessions.engines, sessions.engines[0].threads
    engines += [open_engine(replace(one, intra_op_threads=threads)) for one in others]
    best_size = best_batch_size(engines[0], limits.max_batch_size)
    for engine in engines[1:]:
        if engine.provider == CPU and not sessions.spread_from:  # or it may never be needed
            engine.warm(picture, best_size)
    limits = replace(limits, best_size=best_size, spread_from=sessions.spread_from)
    load_s = perf_counter() - start
    return LoadedModel(
        manifest, labels, config, tuple(engines), sessions.low_latency, limits, load_s
    )


def read_config(folder: Path, manifest: Manifest) -> pb.ModelConfig:
    """Read config.pbtxt, which an operator may have edited since the build.

    Raises:
        ArtifactError: it cannot be read, or is not that of this model.
    """
    path = folder / artifact.CONFIG_FILE
    content = artifact.read_plain_file(path)
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
    if hashlib.sha256(content).hexdigest() != manifest.files.get(artifact.CONFIG_FILE):
        logger.info("%s was edited since version %d was built", path, manifest.version)
    return config


def _check_labels(labels: Sequence[str], manifest: Manifest) -> None:
    classes = manifest.outputs[0].shape[-1]
    if labels and len(labels) != classes:
        raise ArtifactError(
            f"{manifest.name!r} has {len(labels)} labels for {classes} classes of "
            f"{manifest.outputs[0].name!r}"
        )
