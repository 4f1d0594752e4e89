"""What a network is: layers, architectures, their weights and the zoo of served models. PyTorch.

>>> from nyquist import models
>>> network = models.create("resnet18", downsampling="blur", num_classes=10)
>>> "resnet50" in models.list()
True
>>> models.BlurPool2d(taps=5, stride=2)
BlurPool2d(taps=5, stride=2, pad_mode=reflect)

The imports of torch are inside, so that a command may choose its threads before torch starts.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from nyquist.models.analysis import GradientFlowMonitor, GradientMonitor
    from nyquist.models.layers import (
        AntialiasedConv,
        AntialiasedMaxPool,
        AntialiasedStridedConv,
        BlurPool2d,
        ConvPool,
        Downsampling,
        LinearBlurConv,
        PolyphasePool2d,
        PoolingDownBlock,
        StridedConv,
        StridedDownBlock,
    )

__all__ = [
    "AntialiasedConv",
    "AntialiasedMaxPool",
    "AntialiasedStridedConv",
    "BlurPool2d",
    "ConvPool",
    "Downsampling",
    "GradientFlowMonitor",
    "GradientMonitor",
    "LinearBlurConv",
    "PolyphasePool2d",
    "PoolingDownBlock",
    "StridedConv",
    "StridedDownBlock",
    "create",
    "list",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401 # what the layers have under this name
    """Return a layer or a watch on gradients; see __all__."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from nyquist.models import analysis, layers

    return getattr(analysis if name.startswith("Gradient") else layers, name)


def create(
    name: str, *, weights: str | Path | None = None, **options: str | int | float
) -> "nn.Module":
    """Build a network, with fresh weights or those of a file, in training mode.

    Args:
        name: one of list().
        weights: a checkpoint of any layout that nyquist.models.checkpoints.load_checkpoint reads.
        options: of the architecture; see nyquist.models.networks.architectures.create.

    Raises:
        ValueError: the name is unknown, an option has a value that it may not have, or the weights
            are not those of this network.
        TypeError: the architecture has no such option.
        FileNotFoundError: there are no such weights.
    """
    from nyquist.models import checkpoints
    from nyquist.models.networks import architectures

    network = architectures.create(name, **options)
    if weights is not None:
        checkpoints.load_checkpoint(network, weights)
    return network


def list() -> tuple[str, ...]:  # noqa: A001 # models.list(), as in timm
    """Return the names that `create` knows."""
    from nyquist.models.networks import architectures

    return tuple(architectures.ARCHITECTURES)
