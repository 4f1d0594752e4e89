"""The network of an artifact, in PyTorch, and the pictures that it is judged on."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from nyquist.companion.references.onnx_file import load_onnx_file
from nyquist.models.networks.architectures import create
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.programs import read_program
from nyquist.models.samples import Samples
from nyquist.models.spec import Preprocessing, Stabilisation
from nyquist.models.stabilised import StabilisedNetwork
from nyquist.server.artifact.manifest import (
    ONNX_FILE,
    PROGRAM_FILE,
    REFERENCE_FILE,
    SAMPLES_FILE,
    Manifest,
)
from nyquist.server.wire.errors import ArtifactError


class Reference:
    """A frozen network that takes and gives numpy arrays, as a served model does.

    Args:
        network: takes a batch of served inputs, gives logits.
        words: what computes them, as people are told.
    """

    words = "PyTorch"

    def __init__(self, network: nn.Module, words: str = words) -> None:
        self._network, self.words = network.eval(), words

    def predict(self, pictures: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the logits in eager PyTorch. (B, *input shape) -> (B, C)."""
        with torch.inference_mode():
            logits: Tensor = self._network(torch.from_numpy(pictures))
        return logits.numpy()


def load_reference(folder: Path, manifest: Manifest) -> Reference:
    """Build what an artifact was made from, behind what stands before it; see load_network."""
    described = manifest.preprocessing
    preprocessing = Preprocessing(
        described.layout, described.mean, described.scale, described.resize
    )
    network: nn.Module = PreprocessedNetwork(load_network(folder, manifest), preprocessing)
    if manifest.stabilisation is not None:
        stabilisation = Stabilisation(**dict(manifest.stabilisation))
        network = StabilisedNetwork(network, stabilisation, described.layout)
    return Reference(network, manifest.reference)


def load_network(folder: Path, manifest: Manifest) -> nn.Module:
    """Build the network that an artifact was made from, with its weights.

    Args:
        folder: of the model, the one that holds config.pbtxt.
        manifest: of the version wanted.

    Raises:
        ArtifactError: the reference is damaged, or has weights that are not those of the
            architecture named; or there is none, since the artifact is of an older build.
    """
    architecture = manifest.architecture
    if f"{manifest.version}/{PROGRAM_FILE}" in manifest.files:
        content = manifest.read_file(folder, f"{manifest.version}/{PROGRAM_FILE}")
        try:
            return read_program(content, f"{PROGRAM_FILE} of {manifest.name!r}")
        except ValueError as error:
            raise ArtifactError(str(error)) from error
    if f"{manifest.version}/{ONNX_FILE}" in manifest.files:
        return load_onnx_file(folder, manifest)
    if ":" in architecture.name:
        raise ArtifactError(
            f"{manifest.name!r} is of {architecture.name}, which is not imported here, and its "
            f"artifact has no {PROGRAM_FILE}: build it again"
        )
    weights = _read_tensors(folder, manifest, REFERENCE_FILE)
    try:
        network = create(architecture.name, **architecture.options)
        network.load_state_dict(weights)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(
            f"{manifest.name!r} does not fit architecture {architecture.name!r}: {error}"
        ) from error
    return network


def load_samples(folder: Path, manifest: Manifest) -> Samples:
    """Read the pictures of an artifact. Raises ArtifactError if they are damaged."""
    tensors = _read_tensors(folder, manifest, SAMPLES_FILE)
    return Samples(tensors["images"], tensors["labels"])


def _read_tensors(folder: Path, manifest: Manifest, file: str) -> dict[str, Tensor]:
    """Read a file of tensors, which holds no code. Raises ArtifactError if it is damaged."""
    content = manifest.read_file(folder, f"{manifest.version}/{file}")
    try:
        return load(content)
    except SafetensorError as error:
        raise ArtifactError(f"{file} of {manifest.name!r} is damaged: {error}") from error
