"""The network of an artifact, in PyTorch, and the pictures that it is judged on."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor, nn

from nyquist.models.networks.architectures import create, create_from_module
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.samples import Samples
from nyquist.models.spec import Preprocessing
from nyquist.server.artifact.manifest import REFERENCE_FILE, SAMPLES_FILE, Manifest
from nyquist.server.wire.errors import ArtifactError


class Reference:
    """A frozen network that takes and gives numpy arrays, as a served model does.

    Args:
        network: takes a batch of served inputs, gives logits.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network.eval()

    def predict(self, pictures: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the logits in eager PyTorch. (B, *input shape) -> (B, C)."""
        with torch.inference_mode():
            logits: Tensor = self._network(torch.from_numpy(pictures))
        return logits.numpy()


def load_reference(folder: Path, manifest: Manifest, modules: Collection[str] = ()) -> Reference:
    """Build what an artifact was made from, behind its preprocessing; see load_network."""
    described = manifest.preprocessing
    preprocessing = Preprocessing(
        described.layout, described.mean, described.scale, described.resize
    )
    return Reference(PreprocessedNetwork(load_network(folder, manifest, modules), preprocessing))


def load_network(folder: Path, manifest: Manifest, modules: Collection[str] = ()) -> nn.Module:
    """Build the network that an artifact was made from, with its weights.

    Args:
        folder: of the model, the one that holds config.pbtxt.
        manifest: of the version wanted.
        modules: whose code may be run for a network that is made by module:function; a manifest
            alone may not choose what is imported.

    Raises:
        ArtifactError: the weights are damaged, or are not those of the architecture named; or that
            is of a module which is not allowed.
    """
    architecture = manifest.architecture
    module, own, _ = architecture.name.partition(":")
    if own and module not in modules:
        raise ArtifactError(
            f"{manifest.name!r} is made by {architecture.name!r}; "
            f"allow that module to run with --allow-module {module}"
        )
    weights = _read_tensors(folder, manifest, REFERENCE_FILE)
    try:
        build = create_from_module if own else create
        network = build(architecture.name, **architecture.options)
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
