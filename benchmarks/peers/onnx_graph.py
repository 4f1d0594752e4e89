"""What every peer's runtime does with a graph; imports nothing of Nyquist.

Threads are what suits one caller at a time: spinning off, because it takes the cores from the
server's own loop.
"""

import os

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime as ort  # it reads the environment when it is imported


class Graph:
    """An ONNX file, open on the CPU.

    Args:
        path: of the file.
        threads: intra-op.
    """

    def __init__(self, path: str, threads: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        (self.input,) = self._session.get_inputs()
        self.output = self._session.get_outputs()[0].name

    @property
    def dtype(self) -> type:
        """Return numpy's type of the input."""
        return {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[self.input.type]

    def run(self, batch: np.ndarray) -> np.ndarray:
        """Compute the first output. (B, ...) -> (B, classes)."""
        return self._session.run([self.output], {self.input.name: batch})[0]
