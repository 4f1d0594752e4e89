"""Adaptive polyphase sampling: subsample on the grid that the picture itself selects.

>>> import torch
>>> x = torch.zeros(1, 1, 4, 4)
>>> x[0, 0, 1, 3] = 1  # on the grid that a plain stride drops
>>> PolyphasePool2d(stride=2)(x).tolist()
[[[[0.0, 1.0], [0.0, 0.0]]]]
"""

import torch
from torch import Tensor, nn

from nyquist.models.layers.padding import pad2d


def polyphase_components(x: Tensor, stride: int) -> Tensor:
    """Split a map into its stride * stride subsampled grids.

    Component k * stride + l holds x[..., k::stride, l::stride]. A size that the stride does not
    divide is first continued circularly. (B, C, H, W) -> (B, stride ** 2, C, H', W') with
    H' = ceil(H / stride), W' = ceil(W / stride).
    """
    batch, channels, height, width = x.shape
    x = pad2d(x, (0, -width % stride, 0, -height % stride), "circular")
    rows, columns = -(-height // stride), -(-width // stride)
    grids = x.reshape(batch, channels, rows, stride, columns, stride)
    return grids.permute(0, 3, 5, 1, 2, 4).reshape(batch, stride * stride, channels, rows, columns)


def largest_component(components: Tensor) -> Tensor:
    """Return the index of the component with the largest l2 norm. (B, K, C, H, W) -> (B,).

    The squares are summed in float64: a circular shift adds the same squares in another order,
    and in float32 the rounding of that order could exchange two components of near-equal norm.
    """
    energy = components.square().double().sum(dim=(2, 3, 4))  # (B, K)
    return energy.argmax(dim=1)


def norm_margin(components: Tensor) -> Tensor:
    """Return by how much the largest l2 norm exceeds the next, as a share of it; 0 is a tie.

    (B, K, C, H, W) -> float64 (B,), 0..1. Below the rounding of what computed the map, about 1e-6
    behind convolutions in float32, two runtimes may select different components.
    """
    energy = components.square().double().sum(dim=(2, 3, 4))
    largest, second = energy.topk(2, dim=1).values.sqrt().unbind(dim=1)
    return (largest - second) / largest.clamp_min(torch.finfo(torch.float64).tiny)


def select_component(components: Tensor, index: Tensor) -> Tensor:
    """Return for each picture its component `index`. (B, K, C, H, W), (B,) -> (B, C, H, W)."""
    chosen = index.view(-1, 1, 1, 1, 1).expand(-1, 1, *components.shape[2:])
    return components.gather(1, chosen).squeeze(1)


def polyphase_pool2d(x: Tensor, stride: int) -> Tensor:
    """Keep, for each picture, its component of largest l2 norm. -> (B, C, ceil(H/s), ceil(W/s))."""
    components = polyphase_components(x, stride)
    return select_component(components, largest_component(components))


class PolyphasePool2d(nn.Module):
    """Shift-equivariant subsampling (Chaman and Dokmanic, "Truly shift-invariant CNNs", 2021).

    A circular shift of the input permutes the components, and the largest stays the largest: the
    output only shifts. Under circular padding and a global pooling head the logits of a network
    built on it do not change at all. (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride));
    exact only where stride divides H and W.

    Args:
        stride: subsampling factor, at least 1.

    Raises:
        ValueError: stride is below 1.

    Two components of exactly the same norm (a mirror-symmetric map has them) are not told apart:
    the first is taken, and that may be the other one once the map has moved.
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return polyphase_pool2d(x, self.stride)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"


class PolyphasePair(nn.Module):
    """Subsample a residual branch and its shortcut on the grid that the branch selects.

    Were each to select its own, their sum would not move with the picture.
    (B, C, H, W), (B, D, H, W) -> (B, C, H', W'), (B, D, H', W') with H' = ceil(H / stride).

    Args:
        stride: subsampling factor, at least 1.

    Raises:
        ValueError: stride is below 1.
    """

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        self.stride = stride

    def forward(self, branch: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        components = polyphase_components(branch, self.stride)
        index = largest_component(components)
        other = polyphase_components(shortcut, self.stride)
        return select_component(components, index), select_component(other, index)

    def extra_repr(self) -> str:
        return f"stride={self.stride}"
