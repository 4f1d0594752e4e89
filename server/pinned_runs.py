"""Runs from and into page-locked memory of the host, which a GPU reads and writes by itself.

batch -> input buffer of its size -> device -> run -> output buffers -> arrays

Copies from plain memory go through a buffer of the driver instead, and hold the caller up.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from server.bound_runs import DTYPES, check_sizes
from server.errors import ArtifactError

NVIDIA = int(ort.OrtDeviceVendorId.NVIDIA)


def page_locked_memory(
    device_id: int, devices: Iterable[ort.OrtEpDevice]
) -> ort.OrtMemoryInfo | None:
    """Return the page-locked memory that onnxruntime has for a CUDA device; None if it has none.

    Args:
        device_id: as CUDA counts.
        devices: what `onnxruntime.get_ep_devices()` lists.
    """
    for device in devices:
        memory = device.memory_info(ort.OrtDeviceMemoryType.HOST_ACCESSIBLE)
        if memory and device.device.vendor_id == NVIDIA and memory.device_id == device_id:
            return memory
    return None


@dataclass(frozen=True)
class _Buffers:
    """The tensors of one batch size; the arrays are views of them, None where not page-locked."""

    binding: ort.IOBinding
    source: ort.OrtValue | None
    results: tuple[ort.OrtValue, ...] | None


class PinnedRuns:
    """Runs a session with one set of page-locked buffers for each batch size.

    Args:
        session: with one input; only its first axis, the batch, may be dynamic.
        memory: of the buffers; None is the CPU's plain memory, which costs and gains nothing.
        inputs: whether pictures are page-locked.
        outputs: whether answers are.

    Raises:
        ArtifactError: the sizes or types of input and outputs are not known beforehand.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        memory: ort.OrtMemoryInfo | None,
        *,
        inputs: bool,
        outputs: bool,
    ) -> None:
        check_sizes(session, "page-locked memory")
        self._session, self._memory = session, memory
        self._pin_input, self._pin_outputs = inputs, outputs
        (self._input,), self._outputs = session.get_inputs(), session.get_outputs()
        self._options = ort.RunOptions()
        self._buffers: dict[int, _Buffers] = {}

    def run(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Compute every output of the graph, in its order. batch: (B, ...)."""
        rows = len(batch)
        if rows not in self._buffers:
            self._buffers[rows] = self._make_buffers(rows)
        buffers = self._buffers[rows]
        binding, source, results = buffers.binding, buffers.source, buffers.results
        if source is None:
            binding.bind_cpu_input(self._input.name, np.ascontiguousarray(batch))
        else:
            np.copyto(_view(source), batch)
            binding.bind_ortvalue_input(self._input.name, source)  # copies to the device, each time
        binding.synchronize_inputs()
        self._session.run_with_iobinding(binding, self._options)
        binding.synchronize_outputs()
        if results is None:
            return binding.copy_outputs_to_cpu()
        return [_view(result).copy() for result in results]

    def check(self) -> None:
        """Hold a run against a plain one: a wrong copy would be a wrong answer, and say nothing.

        Raises:
            ArtifactError: it fails, or gives another answer.
        """
        kind = DTYPES[self._input.type]
        brightest = 255 if kind is np.uint8 else 1
        noise = np.random.default_rng(0).uniform(0, brightest, (1, *self._input.shape[1:]))
        picture = noise.astype(kind)
        try:
            found = self.run(picture)
        except Exception as error:
            raise ArtifactError(f"page-locked memory fails: {error}") from error
        plain = self._session.run(None, {self._input.name: picture})
        for one, other in zip(found, plain, strict=True):
            if not np.allclose(one, other, rtol=1e-2, atol=1e-2, equal_nan=True):
                raise ArtifactError("page-locked memory gives other answers")

    def terminate(self) -> None:
        """Ask the run in progress to end, from another thread; all others fail until `resume`."""
        self._options.terminate = True

    def resume(self) -> None:
        """Let runs begin again."""
        self._options.terminate = False

    def _make_buffers(self, rows: int) -> _Buffers:
        binding = self._session.io_binding()
        source = self._tensor(self._input, rows) if self._pin_input else None
        if not self._pin_outputs:
            for output in self._outputs:
                binding.bind_output(output.name)
            return _Buffers(binding, source, None)
        results = tuple(self._tensor(output, rows) for output in self._outputs)
        for output, value in zip(self._outputs, results, strict=True):
            binding.bind_ortvalue_output(output.name, value)
        return _Buffers(binding, source, results)

    def _tensor(self, tensor: ort.NodeArg, rows: int) -> ort.OrtValue:
        return ort.OrtValue.ortvalue_from_shape_and_type(
            (rows, *tensor.shape[1:]), DTYPES[tensor.type], memory_info=self._memory
        )


def _view(value: ort.OrtValue) -> NDArray[Any]:
    """Return the memory of a tensor as an array.

    Raises:
        ArtifactError: onnxruntime gives a copy; what is written to it would go nowhere.
    """
    array: NDArray[Any] = value.numpy()
    if array.ctypes.data != value.data_ptr():
        raise ArtifactError("onnxruntime does not show its page-locked memory")
    return array
