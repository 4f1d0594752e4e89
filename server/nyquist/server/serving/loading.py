"""How one version of a model becomes ready to answer.

folder -> version -> manifest -> checksums -> engine -> warm -> LoadedModel
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.artifact import manifest as artifact
from nyquist.server.artifact.layout import ConfigFile, latest_version, read_config_file
from nyquist.server.artifact.manifest import Manifest, read_manifest
from nyquist.server.runtime.calibration import best_batch_size, open_engines
from nyquist.server.runtime.engine import CPU, Engine, Execution
from nyquist.server.runtime.session_settings import SessionSettings, read_sessions
from nyquist.server.scheduling.limits import BatchLimits, batch_limits
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb
from nyquist.server.wire.signature import TensorSpec
from nyquist.server.wire.tensors import DTYPES


@dataclass(frozen=True)
class LoadedModel:
    """A model that is checked, open and warm.

    Attributes:
        manifest: what it is.
        labels: of the classes of each output that has any, in their order.
        config: its config.pbtxt.
        engines: its sessions, one for each instance.
        low_latency: one session more, for requests that are alone.
        limits: of its batches and queue, as config.pbtxt says.
        load_s: time that loading took.
    """

    manifest: Manifest
    labels: Mapping[str, tuple[str, ...]]
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
        ArtifactError: a file is missing, damaged or contradicts another, or the graph gives
            something else than is declared.
        StartError: CUDA is required and not to be had.
        InferenceFailed: the session opens but does not run.
    """
    start = perf_counter()
    file = config_file or read_config_file(folder)
    manifest = read_manifest(folder, version or latest_version(folder), file.allowed)
    config = file.checked(manifest)
    labels_file = f"{manifest.version}/{artifact.LABELS_FILE}"
    labels = tuple(manifest.read_file(folder, labels_file, file.allowed).decode().splitlines())
    labelled = dict.fromkeys(_labelled(labels, manifest, config), labels)
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
        if engine.input_name != manifest.input.name:
            raise ArtifactError(
                f"input {manifest.input.name!r} is declared; the graph has {engine.input_name!r}"
            )
        _check_outputs(engine.warm(picture), manifest.outputs)
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
        manifest, labelled, config, tuple(engines), sessions.low_latency, limits, load_s
    )


def _labelled(labels: Sequence[str], manifest: Manifest, config: pb.ModelConfig) -> list[str]:
    """Return the outputs that the labels of an artifact are those of.

    config.pbtxt says so. One without outputs leaves the first that has as many classes.

    Raises:
        ArtifactError: such an output has another number of classes.
    """
    classes = {output.name: prod(output.shape) for output in manifest.outputs}
    named = [output.name for output in config.output if output.label_filename]
    if not labels:
        return []
    if not config.output:
        named = [name for name, count in classes.items() if count == len(labels)][:1]
        named = named or [manifest.outputs[0].name]
    for name in named:
        if classes[name] != len(labels):
            raise ArtifactError(
                f"{manifest.name!r} has {len(labels)} labels for {classes[name]} classes of "
                f"{name!r}"
            )
    return named


def _check_outputs(found: Mapping[str, NDArray[Any]], declared: Sequence[TensorSpec]) -> None:
    """Compare what a graph gave for one picture with what is said of it.

    Raises:
        ArtifactError: an output is missing, or has another datatype or shape.
    """
    for output in declared:
        said = f"{output.datatype} {[-1, *output.shape]}"
        if output.name not in found:
            raise ArtifactError(
                f"output {output.name!r} is declared, {said}; the graph has {', '.join(found)}"
            )
        array = found[output.name]
        fits = array.shape[:1] == (1,) and output.fits(array.shape[1:])
        if array.dtype != DTYPES[output.datatype] or not fits:
            raise ArtifactError(
                f"output {output.name!r} is declared as {said}; "
                f"for one picture the graph gives {array.dtype} {list(array.shape)}"
            )
