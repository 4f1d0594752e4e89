"""How one version of a model becomes ready to answer.

folder -> version -> manifest -> checksums -> engine -> warm -> LoadedModel
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from nyquist.server.artifact import manifest as artifact
from nyquist.server.artifact.layout import ConfigFile, latest_version, read_config_file
from nyquist.server.artifact.manifest import Manifest, read_manifest
from nyquist.server.runtime.calibration import best_batch_size, open_engines
from nyquist.server.runtime.engine import CPU, Engine, Execution
from nyquist.server.runtime.session_settings import SessionSettings, read_sessions
from nyquist.server.scheduling.limits import BatchLimits, batch_limits
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb
from nyquist.server.wire.tensors import DTYPES


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


def load_model(
    folder: Path,
    execution: Execution,
    version: int | None = None,
    config_file: ConfigFile | None = None,
) -> LoadedModel:
    """Check, open and warm a version of a model.

    Args:
        folder: of the model.
        execution: what runs it.
        version: None is the latest.
        config_file: of the model, where it has been read already.

    Raises:
        ArtifactError: a file is missing, damaged or contradicts another.
        StartError: CUDA is required and not to be had.
        InferenceFailed: the session opens but does not run.
    """
    start = perf_counter()
    file = config_file or read_config_file(folder)
    manifest = read_manifest(folder, version or latest_version(folder), file.allowed)
    config = file.checked(manifest)
    labels_file = f"{manifest.version}/{artifact.LABELS_FILE}"
    labels = tuple(manifest.read_file(folder, labels_file, file.allowed).decode().splitlines())
    _check_labels(labels, manifest)
    try:
        limits, (first, *others) = batch_limits(config), read_sessions(config)
    except ArtifactError as error:
        raise ArtifactError(f"{folder / artifact.CONFIG_FILE}: {error}") from error
    graph_file = f"{manifest.version}/{artifact.MODEL_FILE}"
    graph = manifest.read_file(folder, graph_file, file.allowed)
    least, _ = manifest.input.bounds
    picture = np.zeros(least, DTYPES[manifest.input.datatype])

    def open_engine(settings: SessionSettings) -> Engine:
        engine = Engine(graph, execution, limits.max_batch_size, settings)
        engine.warm(picture)
        return engine

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


def _check_labels(labels: Sequence[str], manifest: Manifest) -> None:
    classes = manifest.outputs[0].shape[-1]
    if labels and len(labels) != classes:
        raise ArtifactError(
            f"{manifest.name!r} has {len(labels)} labels for {classes} classes of "
            f"{manifest.outputs[0].name!r}"
        )
