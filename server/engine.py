"""One onnxruntime session: a batch in, its outputs out, on the provider that truly runs.

asked for -> session options -> session -> what was got -> warm -> run
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default since onnxruntime 1.29
import onnxruntime as ort

from server.errors import ArtifactError, InferenceFailed, StartError

Provider = Literal["auto", "cuda", "cpu"]
Array = NDArray[np.generic]

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Execution:
    """What the operator asks of every session.

    Attributes:
        provider: cuda, cpu, or auto: CUDA if this onnxruntime has it, the CPU where it fails.
        require_cuda: refuse to start rather than run any node on the CPU.
        threads: intra-op threads of a session; 0 leaves it to onnxruntime, one for each core.

    Raises:
        StartError: the CPU is asked for and CUDA required.
    """

    provider: Provider = "auto"
    require_cuda: bool = False
    threads: int = 0

    def __post_init__(self) -> None:
        if self.require_cuda and self.provider == "cpu":
            raise StartError("--require-cuda contradicts --provider cpu; ask for cuda or auto")

    def providers(self, available: Sequence[str]) -> list[tuple[str, dict[str, str]]]:
        """Return the execution providers to ask onnxruntime for, with their options.

        HEURISTIC, because EXHAUSTIVE stalls on every new shape and DEFAULT is up to 50 times
        slower on cuDNN 9 (microsoft/onnxruntime#22705).
        """
        cuda: tuple[str, dict[str, str]] = (CUDA, {"cudnn_conv_algo_search": "HEURISTIC"})
        if self.require_cuda:
            return [cuda]
        if self.provider == "cuda" or (self.provider == "auto" and CUDA in available):
            return [cuda, (CPU, {})]
        return [(CPU, {})]

    def session_config(self) -> dict[str, str]:
        """Return onnxruntime's session configuration entries.

        Spinning is off: it doubles the CPU time of a request and starves the event loop. The
        process-wide thread pool of the Python API cannot be told so; each session has its own.
        """
        config = {
            "session.intra_op.allow_spinning": "0",
            "session.inter_op.allow_spinning": "0",
        }
        if self.require_cuda:
            config["session.disable_cpu_ep_fallback"] = "1"
        return config


def bucket_sizes(max_batch_size: int) -> tuple[int, ...]:
    """Return the batch sizes that a CUDA session runs at: 1, 2, 4, ... and the largest."""
    powers = [1 << k for k in range(max_batch_size.bit_length())]
    return tuple(sorted({*powers, max_batch_size}))


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
        max_batch_size: the largest batch that `run` will be given.

    Raises:
        ArtifactError: onnxruntime cannot open the model.
        StartError: CUDA is required and not to be had.
    """

    def __init__(self, model: bytes, execution: Execution, max_batch_size: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = execution.threads
        options.log_severity_level = 3  # what a fallback means is logged here, in one line
        for key, value in execution.session_config().items():
            options.add_session_config_entry(key, value)
        asked = execution.providers(ort.get_available_providers())
        self._session = _open(model, options, asked, execution)
        self.provider: str = self._session.get_providers()[0]
        self.fell_back = asked[0][0] == CUDA and self.provider != CUDA
        self._buckets = bucket_sizes(max_batch_size) if self.provider == CUDA else ()
        self._max_batch_size = max_batch_size
        self._outputs = [output.name for output in self._session.get_outputs()]
        (self._input,) = self._session.get_inputs()

    def padding(self, size: int) -> int:
        """Return how many empty rows `run` adds to a batch of this size; 0 on the CPU."""
        return missing_rows(size, self._buckets)

    def run(self, batch: Array) -> dict[str, Array]:
        """Compute every output of the graph. batch: (B, ...) -> {name: (B, ...)}.

        Raises:
            InferenceFailed: onnxruntime failed.
        """
        padded = pad_batch(batch, self.padding(len(batch)))
        try:
            outputs = self._session.run(self._outputs, {self._input.name: padded})
        except Exception as error:
            logger.exception("onnxruntime failed on a batch of %d", len(batch))
            raise InferenceFailed("the model failed on this batch") from error
        return {
            name: output[: len(batch)] for name, output in zip(self._outputs, outputs, strict=True)
        }

    def warm(self, picture: Array) -> None:
        """Run each shape once that will be run later, so that no request pays for its set-up.

        On CUDA these are the buckets, on the CPU batch 1 and the largest. picture: one input.

        Raises:
            InferenceFailed: the session loads but does not run (a missing cuDNN, say).
        """
        for size in self._buckets or sorted({1, self._max_batch_size}):
            self.run(np.broadcast_to(picture, (size, *picture.shape)).copy())


def _open(
    model: bytes,
    options: ort.SessionOptions,
    asked: list[tuple[str, dict[str, str]]],
    execution: Execution,
) -> ort.InferenceSession:
    if execution.require_cuda and CUDA not in ort.get_available_providers():
        raise StartError(
            "CUDA is required and this onnxruntime has none: install the extra gpu, not cpu"
        )
    known = [entry for entry in asked if entry[0] in ort.get_available_providers()]
    try:
        session = ort.InferenceSession(model, options, providers=known)
    except Exception as error:
        if execution.require_cuda:
            reason = str(error).splitlines()[0]
            raise StartError(f"CUDA is required and cannot run this model: {reason}") from error
        raise ArtifactError(f"onnxruntime cannot open the model: {error}") from error
    if execution.require_cuda and CUDA not in session.get_providers():
        raise StartError("CUDA is required and no CUDA device answers")
    return session
