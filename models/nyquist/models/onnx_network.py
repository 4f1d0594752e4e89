"""An ONNX file as a network that is its own reference: there is none in PyTorch. Needs no onnx."""

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in nyquist.server.runtime.engine
import onnxruntime as ort


class OnnxNetwork(nn.Module):
    """A file that takes float32 (B, C, H, W) and gives logits, as onnxruntime runs it unoptimised.

    One thread and one operator after the other leave nothing to the runtime but what the file says.

    Args:
        content: of the file, weights inside; or its path, where they may lie beside it.
        name: for messages.
        output: that answers; one that it lacks, or none: `logits`, or its first.

    Attributes:
        outputs: names of all that it gives.
        all_outputs: whether it returns them all, as a dict.

    Raises:
        ValueError: onnxruntime does not run it, in its own words, or it takes several inputs.
    """

    def __init__(self, content: bytes | Path, name: str, output: str = "") -> None:
        super().__init__()
        self.content = content if isinstance(content, bytes) else content.read_bytes()
        self.name = name
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised
        try:
            self._session = ort.InferenceSession(content, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes share no other base
            raise ValueError(f"onnxruntime does not run {name}: {first_line(error)}") from error
        inputs = [one.name for one in self._session.get_inputs()]
        if len(inputs) != 1:
            raise ValueError(f"{name} takes {len(inputs)} inputs, a reference takes one")
        (self.input,) = inputs
        outputs = [one.name for one in self._session.get_outputs()]
        self.outputs = tuple(outputs)
        self.all_outputs = False
        self._output = next((one for one in (output, "logits") if one in outputs), outputs[0])

    def __deepcopy__(self, _: dict[int, Any]) -> "OnnxNetwork":
        """Refuse: who copies a network looks into its modules. Raises ValueError."""
        raise ValueError(f"{self.name} has no modules to look into")

    def forward(self, image: Tensor) -> Tensor | dict[str, Tensor]:
        asked = self.outputs if self.all_outputs else (self._output,)
        try:
            found = self._session.run([*asked], {self.input: image.numpy()})
        except Exception as error:  # likewise
            raise RuntimeError(first_line(error)) from error
        tensors = [torch.from_numpy(each) for each in found]
        return dict(zip(asked, tensors, strict=True)) if self.all_outputs else tensors[0]


def first_line(error: BaseException) -> str:
    """Return what an error says, in one line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
