"""A reference that somebody gives as a file: a program of torch.export, or an ONNX file.

net.pt2 -> PyTorch -> Reference
net.onnx -> onnxruntime, not optimised, in one thread -> Reference
"""

from pathlib import Path

from torch import nn

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


def read_reference(path: Path, output: str = "") -> Reference:
    """Read a reference, by the end of its name.

    Args:
        path: of a `.pt2` or an `.onnx` file.
        output: of an ONNX file, that answers; see OnnxNetwork.

    Raises:
        StartError: it is no file, neither of the two, or one that cannot be used.
    """
    if path.suffix not in (".pt2", ".onnx"):
        raise StartError(f"--reference is a .pt2 or an .onnx file, got {path}")
    if not path.is_file():
        found = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise StartError(f"--reference {path} {found}")
    try:
        if path.suffix == ".onnx":
            return Reference(_onnx_network(path, output), "ONNX file, not PyTorch")
        return Reference(read_program(path.read_bytes(), str(path)))
    except (OSError, ValueError) as error:
        raise StartError(str(error)) from error


def _onnx_network(path: Path, output: str) -> nn.Module:
    try:
        from nyquist.models.onnx_network import OnnxNetwork
    except ImportError as error:
        raise StartError(f"{path} needs onnxruntime: install nyquist-serving[cpu]") from error
    return OnnxNetwork(path, str(path), output)
