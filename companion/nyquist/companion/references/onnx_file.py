"""An ONNX file as the reference of an artifact, run by onnxruntime without optimisation."""

from pathlib import Path

from torch import nn

from nyquist.server.artifact.manifest import ONNX_FILE, Manifest
from nyquist.server.wire.errors import ArtifactError


def load_onnx_file(folder: Path, manifest: Manifest) -> nn.Module:
    """Return the file that an artifact was made from, as a network.

    Raises:
        ArtifactError: it is damaged, or onnxruntime is not installed, which a companion of networks
            in PyTorch does without.
    """
    content = manifest.read_file(folder, f"{manifest.version}/{ONNX_FILE}")
    name = f"{ONNX_FILE} of {manifest.name!r}"
    try:
        from nyquist.models.onnx_network import OnnxNetwork
    except ImportError as error:
        raise ArtifactError(f"{name} needs onnxruntime, which is not installed") from error
    try:
        return OnnxNetwork(content, name)
    except ValueError as error:
        raise ArtifactError(str(error)) from error
