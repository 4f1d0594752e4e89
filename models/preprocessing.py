"""From the picture that a client sends to what the network was trained on, inside the graph."""

from dataclasses import dataclass
from math import isfinite
from typing import Literal

from torch import Tensor, nn

Layout = Literal["CHW", "HWC"]


@dataclass(frozen=True)
class Preprocessing:
    """(x - mean) / scale, in float32, axes in the network's order.

    Attributes:
        layout: order of the axes of one input picture.
        mean: subtracted from each value, in the input's own units.
        scale: divisor of each value, in the input's own units.

    Raises:
        ValueError: the layout is unknown, or the scale not above zero.
    """

    layout: Layout = "CHW"
    mean: float = 0.0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.layout not in ("CHW", "HWC"):
            raise ValueError(f"unknown layout {self.layout!r}; choose from CHW, HWC")
        if not (isfinite(self.scale) and self.scale > 0):
            raise ValueError(f"scale must be above 0 and finite, got {self.scale}")

    @property
    def shift_axes(self) -> tuple[int, int]:
        """Axes of height and width in a batch of inputs."""
        return (2, 3) if self.layout == "CHW" else (1, 2)


class PreprocessedNetwork(nn.Module):
    """A network that takes pictures as clients send them.

    CHW: (B, C, H, W) -> what `network` returns; HWC: (B, H, W, C) likewise, of any number type.

    Args:
        network: takes float32 (B, C, H, W).
        preprocessing: what stands in front of it.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network, self.preprocessing = network, preprocessing

    def forward(self, image: Tensor) -> Tensor:
        x = image
        if self.preprocessing.layout == "HWC":
            # contiguous: or the exporter, seeing channels_last, writes shape arithmetic
            x = x.permute(0, 3, 1, 2).contiguous()
        x = x.float()
        if (self.preprocessing.mean, self.preprocessing.scale) != (0.0, 1.0):
            x = (x - self.preprocessing.mean) / self.preprocessing.scale
        return self.network(x)
