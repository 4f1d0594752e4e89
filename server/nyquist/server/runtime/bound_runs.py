"""Runs at fixed addresses, as CUDA graphs need them: capture once for each shape, then replay.

batch -> the input buffer of its shape, on the device -> run -> output buffers -> arrays
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from nyquist.server.wire.errors import ArtifactError

GRAPH_ID = "gpu_graph_id"
NO_GRAPH = "-1"
DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}


def _check_sizes(session: ort.InferenceSession) -> None:
    """Return if only the batch of a session's tensors is open.

    Raises:
        ArtifactError: it is not.
    """
    if len(session.get_inputs()) != 1:
        raise ArtifactError("enable_cuda_graph needs a model with one input")
    for tensor in (*session.get_inputs(), *session.get_outputs()):
        if tensor.type not in DTYPES or not all(isinstance(n, int) for n in tensor.shape[1:]):
            raise ArtifactError(
                f"enable_cuda_graph needs tensors of fixed size, {tensor.name!r} is "
                f"{tensor.type} {tensor.shape}"
            )


@dataclass(frozen=True)
class _Bound:
    input: ort.OrtValue
    outputs: tuple[ort.OrtValue, ...]
    binding: ort.IOBinding
    options: ort.RunOptions


class BoundRuns:
    """Runs a session with one set of device buffers for each batch size.

    Args:
        session: with one input; only its first axis, the batch, may be dynamic.
        device: where the buffers lie, "cuda" or "cpu".
        device_id: of the device.

    Raises:
        ArtifactError: the sizes or types of input and outputs are not known beforehand.
    """

    def __init__(self, session: ort.InferenceSession, device: str, device_id: int) -> None:
        _check_sizes(session)
        self._session, self._place = session, (device, device_id)
        (self._input,), self._outputs = session.get_inputs(), session.get_outputs()
        self._bound: dict[int, _Bound] = {}
        self._terminated = False

    def run(self, batch: NDArray[Any]) -> list[NDArray[Any]]:
        """Compute every output of the graph, in its order. batch: (B, ...)."""
        rows = len(batch)
        if rows not in self._bound:
            self._bound[rows] = self._bind(rows)
        bound = self._bound[rows]
        if self._terminated:  # a shape that was bound just now may have been missed
            bound.options.terminate = True
        bound.input.update_inplace(np.ascontiguousarray(batch))
        self._session.run_with_iobinding(bound.binding, bound.options)
        return [np.array(output.numpy()) for output in bound.outputs]

    def check(self) -> None:
        """Hold a replayed run against a plain one: a wrong graph would answer wrongly in silence.

        Raises:
            ArtifactError: it fails, or gives another answer.
        """
        dtype = DTYPES[self._input.type]
        noise = np.random.default_rng(0).uniform(size=(2, 1, *self._input.shape[1:]))
        captured, replayed = (noise * (255 if dtype is np.uint8 else 1)).astype(dtype)
        plain = ort.RunOptions()
        plain.add_run_config_entry(GRAPH_ID, NO_GRAPH)
        try:
            self.run(captured)
            found = self.run(replayed)
            expected = self._session.run(None, {self._input.name: replayed}, plain)
        except Exception as error:
            raise ArtifactError(f"a CUDA graph fails: {error}") from error
        for one, other in zip(found, expected, strict=True):
            if not np.allclose(one, other, rtol=1e-2, atol=1e-2, equal_nan=True):
                raise ArtifactError("a CUDA graph gives other answers than a plain run")

    def terminate(self) -> None:
        """Ask the run in progress to end, from another thread; all others fail until `resume`."""
        self._terminated = True
        for bound in tuple(self._bound.values()):
            bound.options.terminate = True

    def resume(self) -> None:
        """Let runs begin again."""
        self._terminated = False
        for bound in self._bound.values():
            bound.options.terminate = False

    def _bind(self, rows: int) -> _Bound:
        source, *results = (
            ort.OrtValue.ortvalue_from_shape_and_type(
                (rows, *tensor.shape[1:]), DTYPES[tensor.type], *self._place
            )
            for tensor in (self._input, *self._outputs)
        )
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input.name, source)
        for tensor, value in zip(self._outputs, results, strict=True):
            binding.bind_ortvalue_output(tensor.name, value)
        options = ort.RunOptions()
        options.add_run_config_entry(GRAPH_ID, str(rows))
        return _Bound(source, tuple(results), binding, options)
