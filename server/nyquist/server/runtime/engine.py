"""One onnxruntime session: a batch in, its outputs out, on the provider that truly runs.

plan -> session -> what was got -> warm -> run ... terminate -> probe
"""

import ctypes
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from math import prod
from time import perf_counter
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default since onnxruntime 1.29
import onnxruntime as ort

from nyquist.server.runtime.arena import SHARED, share_arena
from nyquist.server.runtime.bound_runs import BoundRuns
from nyquist.server.runtime.cores import available_cores
from nyquist.server.runtime.session_plan import CPU, CUDA, GRAPHS, TENSORRT, Execution, SessionPlan
from nyquist.server.runtime.session_settings import SessionSettings
from nyquist.server.wire.errors import ArtifactError, InferenceFailed, StartError
from nyquist.server.wire.feeds import Feeds

Array = NDArray[np.generic]

ANY_SESSION = SessionSettings()
DRIVER = "libcuda.so.1"
STRING, BFLOAT16 = "tensor(string)", "tensor(bfloat16)"
ONNX_BFLOAT16 = 16
TIMING_S = 0.15
TIMED_RUNS = 8

logger = logging.getLogger(__name__)


def bucket_sizes(max_batch_size: int, preferred: Sequence[int] = ()) -> tuple[int, ...]:
    """Return the batch sizes of a CUDA session: 1, 2, 4, ..., the preferred and the largest."""
    powers = [1 << k for k in range(max_batch_size.bit_length())]
    return tuple(sorted({*powers, *preferred, max_batch_size}))


def missing_rows(size: int, buckets: Sequence[int]) -> int:
    """Return how many rows a batch of `size` lacks to the next bucket; 0 where there is none."""
    return min((bucket - size for bucket in buckets if bucket >= size), default=0)


def pad_batch(batch: Array, rows: int) -> Array:
    """Append rows of zeros. (B, ...) -> (B + rows, ...)."""
    if not rows:
        return batch
    return np.concatenate([batch, np.zeros((rows, *batch.shape[1:]), batch.dtype)])


class Engine:
    """A session for one caller at a time: two callers of one session are slower than one.

    Args:
        model: the bytes of an ONNX file; from bytes, no file beside it can be pulled in.
        execution: what the operator asks for.
        max_batch_size: the largest batch that `run` will be given; 0: each as it comes, unpadded.
        settings: what the model asks for.
        weights: the bytes of the files beside the ONNX file, by the names that it has for them.

    Raises:
        ArtifactError: onnxruntime cannot open the model, or the GPU it asks for is not to be had.
        StartError: CUDA is required and not to be had.
    """

    def __init__(
        self,
        model: bytes,
        execution: Execution,
        max_batch_size: int,
        settings: SessionSettings = ANY_SESSION,
        weights: Mapping[str, bytes] = MappingProxyType({}),
    ) -> None:
        available = ort.get_available_providers()
        plan = execution.plan(settings, available, available_cores())
        if not max_batch_size:
            plan = plan.without_graphs()
        try:
            self._session, self._graphs = open_runs(model, plan, settings, available, weights)
        except ArtifactError as error:
            if execution.require_cuda:
                raise StartError(f"CUDA is required: {error}") from error
            raise
        self.provider: str = self._session.get_providers()[0]
        self.threads = plan.intra_op_threads
        self.fell_back = plan.providers[0][0] != self.provider
        self._buckets: tuple[int, ...] = ()
        if max_batch_size and (self._graphs or self.provider == TENSORRT):
            self._buckets = bucket_sizes(max_batch_size, settings.batch_sizes)
        elif max_batch_size and self.provider == CUDA:  # another size than before costs up to 0.5 s
            self._buckets = (max_batch_size,)
        self._outputs = [output.name for output in self._session.get_outputs()]
        inputs = self._session.get_inputs()
        self.input_names = tuple(one.name for one in inputs)
        self._plain = not _is_special(self._session)
        self._bfloat16 = {one.name for one in inputs if one.type == BFLOAT16}
        self._by_value = self._bfloat16 or any(
            one.type == BFLOAT16 for one in self._session.get_outputs()
        )
        first = inputs[0].shape[0] if inputs and inputs[0].shape else None
        self.fixed_batch: int = first if isinstance(first, int) else 0
        self._run_options = ort.RunOptions()
        self._probe: Array | Feeds | None = None

    def padding(self, size: int) -> int:
        """Return how many empty rows `run` adds to a batch of this size; 0 on the CPU."""
        return missing_rows(size, self._buckets) if self._buckets else 0

    def run(self, batch: Array | Feeds) -> dict[str, Array]:
        """Compute every output of the graph. batch: (B, ...) -> {name: (B, ...)}.

        Raises:
            InferenceFailed: onnxruntime failed.
        """
        if not self._plain or isinstance(batch, Feeds):
            return self._run_special(batch)
        size = len(batch)
        missing = self.padding(size)
        padded = pad_batch(batch, missing) if missing else batch
        try:
            if self._graphs is not None:
                outputs = self._graphs.run(padded)
            else:
                feeds = {self.input_names[0]: padded}
                outputs = self._session.run(self._outputs, feeds, self._run_options)
        except Exception as error:
            raise InferenceFailed("the model failed on this batch") from error
        if missing:
            outputs = [output[:size] for output in outputs]
        return dict(zip(self._outputs, outputs, strict=True))

    def _run_special(self, batch: Array | Feeds) -> dict[str, Array]:
        """Do as `run` with what is not one array of numbers, or does not give such."""
        feeds = (
            batch if isinstance(batch, Feeds) else Feeds({self.input_names[0]: batch}, len(batch))
        )
        size = len(feeds)
        missing = self.padding(size)
        arrays = feeds.padded(missing).arrays
        try:
            if self._by_value:
                values = {name: self._value(name, array) for name, array in arrays.items()}
                given = self._session.run_with_ort_values(self._outputs, values, self._run_options)
                outputs = [_array_of(value) for value in given]
            else:
                outputs = self._session.run(self._outputs, arrays, self._run_options)
        except Exception as error:
            raise InferenceFailed("the model failed on this batch") from error
        if missing:
            outputs = [output[:size] for output in outputs]
        return dict(zip(self._outputs, outputs, strict=True))

    def _value(self, name: str, array: Array) -> ort.OrtValue:
        """Return what onnxruntime takes; numpy lacks BF16, which comes as its bits."""
        whole = np.ascontiguousarray(array)
        if name not in self._bfloat16:
            return ort.OrtValue.ortvalue_from_numpy(whole)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(whole, ONNX_BFLOAT16)

    def warm(self, picture: Array | Feeds, size: int = 1) -> dict[str, Array]:
        """Run what will be run later, so that no request pays for its set-up.

        Args:
            picture: one input; or Feeds of one row, or of as many as the graph takes.
            size: of the batch; on CUDA each of the sizes that will be run instead; of no account
                where the graph takes batches of one size alone, or knows no batches.

        Returns:
            Every output: for that batch, or where it is one of several sizes, for one picture.

        Raises:
            InferenceFailed: the session loads but does not run (a missing cuDNN, say); this is the
                administrator's to read, and has onnxruntime's reason.
        """
        if isinstance(picture, Feeds):
            self._probe = picture
        else:
            self._probe = np.repeat(picture[None], self.fixed_batch or 1, axis=0)
        for rows in self._buckets or (size,):
            outputs = self.tried(self._batch(rows))
        if not self._buckets:
            return outputs
        return {
            name: output[:1] if output.shape[:1] == (rows,) else output
            for name, output in outputs.items()
        }

    def _batch(self, size: int) -> Array | Feeds:
        """Return so many of the picture that it was warmed with, or as many as the graph takes."""
        assert self._probe is not None  # noqa: S101 - for mypy: it is warm
        if self.fixed_batch or size == 1:
            return self._probe
        if isinstance(self._probe, Feeds):
            return self._probe.repeated(size)
        return np.repeat(self._probe, size, axis=0)

    def tried(self, batch: Array | Feeds) -> dict[str, Array]:
        """Do as `run`, with onnxruntime's own reason where it fails.

        Raises:
            InferenceFailed: it failed.
        """
        try:
            return self.run(batch)
        except InferenceFailed as failed:
            reason = " ".join(str(failed.__cause__).split())
            raise InferenceFailed(
                f"onnxruntime does not run the model on {_in_words(batch)}: {reason}"
            ) from failed

    def time_batch(self, size: int, clock: Callable[[], float] = perf_counter) -> float:
        """Return the least time that so many pictures take, in a few runs. Once it is warm.

        Args:
            size: of the batch.
            clock: in seconds; of the thread's CPU, it does not count others' work on the machine,
                but sees one thread alone.
        """
        batch = self._batch(size)
        times: list[float] = []
        while len(times) < 2 or (len(times) < TIMED_RUNS and sum(times) < TIMING_S):
            began = clock()
            self.tried(batch)
            times.append(clock() - began)
        return min(times)

    def probe(self) -> None:
        """Run the picture of `warm` again, to learn whether the session still works.

        Raises:
            InferenceFailed: it does not.
        """
        self._run_options.terminate = False
        if self._graphs is not None:
            self._graphs.resume()
        if self._probe is not None:
            self.run(self._probe)

    def terminate(self) -> None:
        """Ask the run in progress to end, from another thread; all others fail until `probe`.

        onnxruntime looks between two nodes of the graph: one that never ends is not ended by this.
        """
        self._run_options.terminate = True
        if self._graphs is not None:
            self._graphs.terminate()


def _is_special(session: ort.InferenceSession) -> bool:
    """Say whether a session takes anything but one array of numbers, or gives what numpy lacks."""
    inputs = session.get_inputs()
    types = {one.type for one in (*inputs, *session.get_outputs())}
    one = inputs[0] if len(inputs) == 1 else None
    return one is None or not one.shape or one.type == STRING or BFLOAT16 in types


def _array_of(value: ort.OrtValue) -> Array:
    if value.data_type() != BFLOAT16:
        return value.numpy()
    shape = value.shape()
    held = ctypes.string_at(value.data_ptr(), 2 * prod(shape))
    return np.frombuffer(held, np.uint16).reshape(shape)


def _in_words(batch: Array | Feeds) -> str:
    if not isinstance(batch, Feeds):
        return f"{batch.dtype} {list(batch.shape)}"
    return ", ".join(
        f"{name}: {array.dtype} {list(array.shape)}" for name, array in batch.arrays.items()
    )


def open_runs(
    model: bytes,
    plan: SessionPlan,
    settings: SessionSettings,
    available: Sequence[str],
    weights: Mapping[str, bytes] = MappingProxyType({}),
) -> tuple[ort.InferenceSession, BoundRuns | None]:
    """Open a session and, on CUDA, the graphs by which it runs; None if it runs without.

    Whenever the batch has another size than in the run before, cuDNN plans every convolution anew.
    A graph that was captured for each size needs no plan.

    Raises:
        ArtifactError: it cannot be opened, or not with the graphs that the model insists on.
    """
    try:
        session = open_session(model, plan, available, weights)
        if not plan.graphs or session.get_providers()[0] != CUDA:
            return session, None
        graphs = BoundRuns(session, "cuda", settings.device_id)
        graphs.check()
    except ArtifactError as error:
        if not plan.graphs or settings.cuda.get(GRAPHS):
            raise
        session = open_session(model, plan.without_graphs(), available, weights)
        logger.warning("no CUDA graphs, each batch is filled up to the largest: %s", error)
        return session, None
    return session, graphs


@cache
def find_cuda() -> str:
    """Load CUDA and cuDNN where the extra cuda has put them: no loader looks for them there.

    Returns:
        What onnxruntime would fail without, each time and at length: the driver; "" where it is.
    """
    try:
        ctypes.CDLL(DRIVER)
    except OSError:
        lacking = (
            f"there is no NVIDIA driver here ({DRIVER}): a container is given the host's by the "
            "NVIDIA Container Toolkit and --gpus all"
        )
        logger.warning("no CUDA: %s", lacking)
        return lacking
    ort.preload_dlls()
    return ""


def open_session(
    model: bytes,
    plan: SessionPlan,
    available: Sequence[str],
    weights: Mapping[str, bytes] = MappingProxyType({}),
) -> ort.InferenceSession:
    """Open a session as planned. onnxruntime drops a provider that it cannot have in silence.

    Raises:
        ArtifactError: it cannot be opened, or only without the provider that the plan insists on.
    """
    if plan.must and plan.must not in available:
        raise ArtifactError(
            f"{plan.must} is asked for and this onnxruntime has none: install the extra gpu, not "
            "cpu, or choose --provider cpu"
        )
    known = [asked for asked in plan.providers if asked[0] in available]
    if any(name != CPU for name, _ in known) and (lacking := find_cuda()):
        if plan.must:
            raise ArtifactError(f"{plan.must} is asked for and {lacking}")
        known = [(CPU, {})]
    options = _session_options(plan, weights)
    if plan.memory_arena and all(name == CPU for name, _ in known):
        share_arena()
        options.add_session_config_entry(SHARED, "1")
    try:
        session = ort.InferenceSession(model, options, providers=known)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"onnxruntime cannot open the model: {reason}") from error
    if plan.must and plan.must not in session.get_providers():
        raise ArtifactError(f"{plan.must} is asked for and no such device answers")
    return session


def _session_options(plan: SessionPlan, weights: Mapping[str, bytes]) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = plan.intra_op_threads
    options.inter_op_num_threads = plan.inter_op_threads
    if plan.parallel:
        options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, plan.optimization)
    options.enable_cpu_mem_arena = plan.memory_arena
    options.enable_mem_pattern = plan.memory_pattern
    options.log_severity_level = 3  # what a fallback means is logged by the server, in one line
    for key, value in plan.entries.items():
        options.add_session_config_entry(key, value)
    if weights:
        sizes = [len(content) for content in weights.values()]
        options.add_external_initializers_from_files_in_memory(
            list(weights), list(weights.values()), sizes
        )
    return options
