"""How one version of a model becomes ready to answer.

folder -> version -> manifest, checksums; or graph, config.pbtxt -> engine -> warm -> LoadedModel
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.artifact import manifest as artifact
from nyquist.server.artifact.graph_description import Described, describe_graph
from nyquist.server.artifact.graph_facts import read_graph_facts
from nyquist.server.artifact.layout import (
    ConfigFile,
    bare_versions,
    complete_versions,
    read_config_file,
    with_tensors,
)
from nyquist.server.artifact.manifest import Manifest, read_manifest
from nyquist.server.artifact.model_config import check_model_config
from nyquist.server.artifact.model_files import read_model_file, read_weights
from nyquist.server.artifact.versions import wanted_versions
from nyquist.server.runtime.arena import give_memory_back
from nyquist.server.runtime.calibration import best_batch_size, open_engines
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import CPU, Execution
from nyquist.server.runtime.session_settings import SessionSettings, read_sessions
from nyquist.server.scheduling.limits import BatchLimits, batch_limits
from nyquist.server.serving.warmup import warmup_batches
from nyquist.server.wire.errors import ArtifactError, InferenceFailed
from nyquist.server.wire.feeds import Feeds
from nyquist.server.wire.framing import AXES
from nyquist.server.wire.pb import model_config_pb2 as pb
from nyquist.server.wire.signature import DYNAMIC, Signature, TensorSpec
from nyquist.server.wire.tensors import DTYPES

MOST_UNBATCHED_BYTES = 63 * 1024 * 1024
"""What an input may take whose first axis is open and no batch: a message of 64 MiB, about."""
LIKELY_SIDE = 224
"""Of a picture whose size nobody has named, to warm with."""


@dataclass(frozen=True)
class LoadedModel:
    """A model that is checked, open and warm.

    Attributes:
        described: what it is, as its manifest says, or where it has none its graph.
        labels: of the classes of each output that has any, in their order.
        config: its config.pbtxt.
        engines: its sessions, one for each instance.
        low_latency: one session more, for few requests.
        limits: of its batches and queue, as config.pbtxt says.
        load_s: time that loading took.
    """

    described: Described
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
    files = _read_files(folder, version, file)
    described, config = files.described, files.config
    try:
        limits, (first, *others) = batch_limits(config), read_sessions(config)
    except ArtifactError as error:
        raise ArtifactError(f"{file.path}: {error}") from error
    batched = limits.max_batch_size
    if not batched:
        limits = replace(limits, max_batch_size=_most_rows(described.inputs[0]), merge=False)
    picture = _picture(described.signature, config)

    def open_engine(settings: SessionSettings) -> Engine:
        engine = Engine(files.graph, execution, batched, settings, files.weights)
        _check_inputs(engine, described.inputs, batched)
        _check_outputs(engine.warm(picture), described.outputs, engine.fixed_batch or 1)
        give_memory_back()  # opening takes twice what a session keeps, and the next one comes
        return engine

    ungrouped = not config.instance_group
    sessions = open_engines(first, execution, open_engine, fill_cores=ungrouped)
    engines, threads = sessions.engines, sessions.engines[0].threads
    engines += [open_engine(replace(one, intra_op_threads=threads)) for one in others]
    best_size = best_batch_size(engines[0], batched) if batched else 0
    for engine in engines[1:]:
        if batched and engine.provider == CPU and not 0 < sessions.keeps_busy < len(engines):
            engine.warm(picture, best_size)  # others may never be needed
    limits = replace(limits, best_size=best_size, keeps_busy=sessions.keeps_busy, few=sessions.few)
    for name, runs, sample in warmup_batches(config, described.signature, files.read):
        for engine in [*engines, *([sessions.low_latency] if sessions.low_latency else [])]:
            _run_sample(engine, name, runs, sample)
    give_memory_back()  # what batches took that were only tried out
    load_s = perf_counter() - start
    return LoadedModel(
        described, files.labels, config, tuple(engines), sessions.low_latency, limits, load_s
    )


@dataclass(frozen=True)
class _Files:
    """What is read of a version: the graph, and what is said of it."""

    described: Described
    config: pb.ModelConfig
    labels: Mapping[str, tuple[str, ...]]
    graph: bytes
    weights: Mapping[str, bytes]
    read: Callable[[str], bytes]


def _read_files(folder: Path, version: int | None, file: ConfigFile) -> _Files:
    """Read a version, by its manifest where it has one, else as its graph describes itself."""
    if version is None:
        policy = pb.ModelVersionPolicy()
        there = file.versions(folder)
        version = wanted_versions(there, policy, folder.name, file.model_file)[-1]
    if version not in complete_versions(folder):
        bare = bare_versions(folder, file.model_file)
        if version in bare:
            return _read_bare(folder, version, file)
        raise ArtifactError(f"{folder} has no complete version {version}")
    manifest = read_manifest(folder, version, file.allowed)
    config = file.checked(manifest)
    path = f"{version}/{artifact.LABELS_FILE}"
    labels = tuple(manifest.read_file(folder, path, file.allowed).decode().splitlines())
    labelled = dict.fromkeys(_labelled(labels, manifest, config), labels)
    graph = manifest.read_file(folder, f"{version}/{artifact.MODEL_FILE}", file.allowed)
    weights = read_weights(
        read_graph_facts(graph).weight_files,
        lambda path: manifest.read_file(folder, path, file.allowed),
        version,
    )
    read = partial(_read_plain, folder, allowed=file.allowed)
    return _Files(manifest, with_tensors(config, manifest), labelled, graph, weights, read)


def _read_bare(folder: Path, version: int, file: ConfigFile) -> _Files:
    """Read a version that has no manifest, as Triton's users have them."""
    check_model_config(file.config, file.path)
    if file.config.name not in ("", folder.name):
        raise ArtifactError(
            f"{file.path} is for a model {file.config.name!r}, its folder is {folder.name!r}"
        )
    path = f"{version}/{file.model_file}"
    graph = read_model_file(folder, path, file.allowed)
    try:
        described, config = describe_graph(
            folder.name, version, graph, file.config, batch_is_set=file.batch_is_set
        )
        weights = read_weights(
            described.weight_files,
            lambda path: read_model_file(folder, path, file.allowed),
            version,
        )
    except ArtifactError as error:
        raise ArtifactError(f"{folder / path}: {error}") from error
    labels = {
        output.name: _read_labels(folder, output.label_filename, file)
        for output in config.output
        if output.label_filename
    }
    read = partial(_read_plain, folder, allowed=file.allowed)
    return _Files(described, config, labels, graph, weights, read)


def _read_plain(folder: Path, name: str, allowed: Sequence[Path]) -> bytes:
    """Read a file that a configuration names."""
    if name.startswith("/") or ".." in Path(name).parts:
        raise ArtifactError(f"{folder.name}: {name!r} is named, a model's files stay in its folder")
    return read_model_file(folder, name, allowed)


def _run_sample(engine: Engine, name: str, runs: int, sample: NDArray[Any] | Feeds) -> None:
    try:
        for _ in range(runs):
            engine.tried(sample)
    except InferenceFailed as error:
        raise InferenceFailed(f"model_warmup {name!r}: {error}") from error


def _read_labels(folder: Path, name: str, file: ConfigFile) -> tuple[str, ...]:
    try:
        return tuple(_read_plain(folder, name, file.allowed).decode().splitlines())
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{folder / name} is no UTF-8: {error}") from error


def _most_rows(tensor: TensorSpec) -> int:
    """Return how long the first axis may be where a model has no batch."""
    if tensor.batch != DYNAMIC:
        return tensor.batch or 1
    least, _ = tensor.bounds
    return max(1, MOST_UNBATCHED_BYTES // (prod(least) * DTYPES[tensor.datatype].itemsize))


def _picture(signature: Signature, config: pb.ModelConfig) -> NDArray[Any] | Feeds:
    """Return what a model is warmed with: zeros, as one picture; or as one row of every input."""
    arrays = {}
    for tensor in signature.inputs:
        inner = _warm_shape(tensor, config)
        rows = () if tensor.batch is None else (1 if tensor.batch == DYNAMIC else tensor.batch,)
        shape = tensor.to_graph((*rows, *inner))
        empty = "" if tensor.datatype == "BYTES" else 0
        arrays[tensor.name] = np.full(shape, empty, DTYPES[tensor.datatype])
    if signature.plain:
        return arrays[signature.inputs[0].name][0]
    return Feeds(arrays, 1)


def _warm_shape(tensor: TensorSpec, config: pb.ModelConfig) -> tuple[int, ...]:
    """Return the shape of the picture to warm with: the least, or what model_warmup names."""
    least, _ = tensor.bounds
    for warmup in config.model_warmup:
        dims = tuple(warmup.inputs[tensor.name].dims) if tensor.name in warmup.inputs else ()
        dims = dims if config.max_batch_size else dims[1:]
        if tensor.fits(dims):
            return dims
    if not tensor.unbounded:
        return least
    return tuple(
        LIKELY_SIDE if size == DYNAMIC and len(least) == AXES else low
        for size, low in zip(tensor.shape, least, strict=True)
    )


def _check_inputs(engine: Engine, declared: Sequence[TensorSpec], max_batch_size: int) -> None:
    """Refuse a graph whose inputs have other names than declared, or that takes no such batch."""
    names = [tensor.name for tensor in declared]
    if sorted(names) != sorted(engine.input_names):
        raise ArtifactError(
            f"input {_quoted(names)} is declared; the graph has {_quoted(engine.input_names)}"
        )
    if max_batch_size and engine.fixed_batch not in (0, max_batch_size):
        raise ArtifactError(
            f"the graph takes batches of {engine.fixed_batch} alone, max_batch_size is "
            f"{max_batch_size}"
        )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


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


def _check_outputs(
    found: Mapping[str, NDArray[Any]], declared: Sequence[TensorSpec], rows: int
) -> None:
    """Compare what a graph gave for a batch of `rows` with what is said of it.

    Raises:
        ArtifactError: an output is missing, or has another datatype or shape.
    """
    for output in declared:
        said = f"{output.datatype} {list(output.in_graph)}"
        if output.name not in found:
            raise ArtifactError(
                f"output {output.name!r} is declared, {said}; the graph has {', '.join(found)}"
            )
        array = found[output.name]
        fits = _fits(array.shape, output, rows)
        if array.dtype != DTYPES[output.datatype] or not fits:
            raise ArtifactError(
                f"output {output.name!r} is declared as {said}; "
                f"for a batch of {rows} the graph gives {array.dtype} {list(array.shape)}"
            )


def _fits(shape: tuple[int, ...], output: TensorSpec, rows: int) -> bool:
    """Say whether a graph may give this shape for a batch of `rows`."""
    expected = output.in_graph
    if len(shape) != len(expected) or any(
        said not in (DYNAMIC, size) for size, said in zip(shape, expected, strict=True)
    ):
        return False
    outside = output.from_graph(shape)
    first = rows if output.batch == DYNAMIC else output.batch
    return not outside or (outside[0] == first and output.fits(outside[1:]))
