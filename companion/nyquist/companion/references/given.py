"""A reference that somebody gives as a file: a program of torch.export, or an ONNX file.

net.pt2 -> PyTorch -> Reference
net.onnx -> onnxruntime, not optimised, in one thread -> OnnxReference
"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nyquist.companion.references.network import Reference
from nyquist.models.programs import read_program
from nyquist.server.artifact.manifest import Tolerances
from nyquist.server.wire.errors import StartError

TOLERANCES = Tolerances(
    parity=1e-4,  # as the build holds its own float32 graphs to
    agreement=0.0,
    accuracy=0.0,
    accuracy_drop=1.0,
    confidence=0.0,
    consistency=0.0,
    consistency_drop=1.0,
)
"""What answers are held to where no manifest says it: to be those of the reference."""


class OnnxReference:
    """An ONNX file as it came: every node alone, in one thread.

    Args:
        path: of the file; its external data lies beside it.
        output: that answers; empty, or one that it lacks: `logits`, or its first.

    Raises:
        StartError: onnxruntime is not there or cannot read it, or it takes several inputs.
    """

    words = "ONNX file, not PyTorch"

    def __init__(self, path: Path, output: str = "") -> None:
        try:
            import onnxruntime as ort  # here, because a companion does without it otherwise
        except ImportError as error:
            raise StartError(f"{path} needs onnxruntime: install nyquist-serving[cpu]") from error
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what is wrong is raised as well
        try:
            self._session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's classes are children of Exception alone
            reason = str(error).strip().partition("\n")[0]
            raise StartError(f"{path} is no ONNX file that runs here: {reason}") from error
        inputs = [one.name for one in self._session.get_inputs()]
        if len(inputs) != 1:
            raise StartError(f"{path} takes {len(inputs)} inputs, a reference takes one")
        (self._input,) = inputs
        outputs = [one.name for one in self._session.get_outputs()]
        self._output = next((name for name in (output, "logits") if name in outputs), outputs[0])

    def predict(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """Compute the answers. (B, *input shape) -> (B, C)."""
        (answers,) = self._session.run([self._output], {self._input: pictures})
        return answers


def read_reference(path: Path, output: str = "") -> Reference | OnnxReference:
    """Read a reference, by the end of its name.

    Args:
        path: of a `.pt2` or an `.onnx` file.
        output: of an ONNX file, that answers; see OnnxReference.

    Raises:
        StartError: it is no file, neither of the two, or one that cannot be used.
    """
    if path.suffix not in (".pt2", ".onnx"):
        raise StartError(f"--reference is a .pt2 or an .onnx file, got {path}")
    if not path.is_file():
        found = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise StartError(f"--reference {path} {found}")
    if path.suffix == ".onnx":
        return OnnxReference(path, output)
    try:
        return Reference(read_program(path.read_bytes(), str(path)))
    except (OSError, ValueError) as error:
        raise StartError(str(error)) from error
