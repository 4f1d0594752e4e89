"""Networks by name: `create("compact", downsampling="blur")`."""

from collections.abc import Callable

from torch import nn

from models.compact import CompactClassifier
from models.downsampling import Downsampling, DownsamplingKind
from models.efficientnet_lite import EfficientNetLite0
from models.padding import PadMode

Option = str | int | float


def compact(
    downsampling: DownsamplingKind,
    taps: int = 3,
    pad_mode: PadMode = "circular",
    num_classes: int = 10,
    in_channels: int = 1,
) -> nn.Module:
    """Return the compact classifier; the arguments are those of Downsampling and of the class."""
    how = Downsampling(downsampling, taps=taps, pad_mode=pad_mode)
    return CompactClassifier(how, num_classes=num_classes, in_channels=in_channels)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "compact": compact,
    "efficientnet_lite0": EfficientNetLite0,
}


def create(name: str, **options: Option) -> nn.Module:
    """Build a network with fresh weights, in training mode.

    Args:
        name: one of ARCHITECTURES.
        options: of the architecture, by keyword.

    Raises:
        ValueError: the name is unknown, or an option has a value that it may not have.
        TypeError: the architecture has no such option.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; choose from {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[name](**options)
