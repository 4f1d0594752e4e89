"""The model repository on disk: which models there are, and how one becomes ready to answer.

folder -> version -> manifest -> checksums -> engine -> warm -> LoadedModel
"""

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from google.protobuf import text_format

from server import manifest as artifact
from server.engine import CPU, Engine, Execution
from server.errors import ArtifactError
from server.manifest import Manifest, read_manifest
from server.model_config import batch_limits, parse_model_config
from server.pb import model_config_pb2 as pb
from server.session_settings import SessionSettings, read_sessions
from server.tensors import DTYPES
from server.versions import wanted_versions
from server.waiting_room import BatchLimits

logger = logging.getLogger(__name__)

SMALL_S = 0.005
"""A network is small if a picture takes no longer with one thread."""
WORTH_IT, WORTH_IT_SMALL = 1.5, 1.8
"""How many times quicker all threads must be than one to be taken; for a small network, more."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is checked, open and warm.

    Attributes:
        manifest: what it is.
        labels: of its classes, in their order.
        config: its config.pbtxt.
        engines: its sessions, one for each instance.
        limits: of its batches and queue, as config.pbtxt says.
        picture_s: that one picture takes, on an instance that is free.
        load_s: time that loading took.
    """

    manifest: Manifest
    labels: tuple[str, ...]
    config: pb.ModelConfig
    engines: tuple[Engine, ...]
    limits: BatchLimits
    picture_s: float
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
    engines, picture_s = open_engines(
        first, execution, open_engine, fill_cores=not config.instance_group
    )
    threads = engines[0].threads
    engines += [open_engine(replace(one, intra_op_threads=threads)) for one in others]
    load_s = perf_counter() - start
    return LoadedModel(manifest, labels, config, tuple(engines), limits, picture_s, load_s)


def open_engines(
    settings: SessionSettings,
    execution: Execution,
    open_engine: Callable[[SessionSettings], Engine],
    *,
    fill_cores: bool,
) -> tuple[list[Engine], float]:
    """Open one session with all threads, or sessions of one thread if those are not much slower.

    Threads that have to be woken for each layer cost CPU. Where they save little time, a session
    on each core answers more pictures; a small network has one, since the event loop needs a core.
    Only where neither the model nor the operator has chosen the threads.

    Args:
        settings: of the first session.
        execution: what the operator asks for.
        open_engine: opens a session and warms it.
        fill_cores: whether there may be more sessions than this one.

    Returns:
        The engines, and the time that one of them takes for a picture.
    """
    engine = open_engine(settings)
    threads, picture_s = engine.threads, engine.time_picture()
    chosen = settings.intra_op_threads or execution.threads
    if chosen or threads == 1 or engine.provider != CPU:
        return [engine], picture_s
    lone = replace(settings, intra_op_threads=1)
    single = open_engine(lone)
    single_s = single.time_picture()
    small = single_s <= SMALL_S
    if single_s > (WORTH_IT_SMALL if small else WORTH_IT) * picture_s:
        engines, taken_s = [engine], picture_s
    else:
        copies = threads - 1 if fill_cores and not small else 0
        engines, taken_s = [single, *(open_engine(lone) for _ in range(copies))], single_s
    logger.info(
        "%d sessions of %d threads: a picture takes %.2f ms with 1 thread, %.2f ms with %d",
        len(engines),
        engines[0].threads,
        1e3 * single_s,
        1e3 * picture_s,
        threads,
    )
    return engines, taken_s


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
