"""Which part of the picture a position of a feature map does see: the mean size of its gradient.

Luo et al., "Understanding the Effective Receptive Field in Deep Convolutional Neural Networks",
NeurIPS 2016: |dy / dx| averaged over many inputs. Never over an input of zeros, at which ReLUs pass
nothing and ties of a maximum all go to the first element.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nyquist.models.analysis.module_graph import evaluating


@dataclass(frozen=True)
class EffectiveField:
    """The effective receptive field of one position.

    Attributes:
        weights: share of the gradient's size at each pixel, float64 (H, W), sum 1.
        position: row and column of the feature map that was looked through.
        inputs: pictures averaged over.
    """

    weights: Tensor
    position: tuple[int, int]
    inputs: int

    @property
    def centroid(self) -> tuple[float, float]:
        """Mean row and column, pixels."""
        rows, columns = self.weights.sum(1), self.weights.sum(0)
        return _mean(rows), _mean(columns)

    @property
    def covariance(self) -> Tensor:
        """Second central moments of row and column, square pixels, float64 (2, 2)."""
        height, width = self.weights.shape
        row, column = self.centroid
        down = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width) - row
        across = torch.arange(width, dtype=torch.float64).expand(height, width) - column
        offsets = torch.stack([down.flatten(), across.flatten()])  # (2, H * W)
        return (offsets * self.weights.flatten()) @ offsets.T

    @property
    def spread(self) -> float:
        """Standard deviation in pixels of the round Gaussian of the same area: det ** (1 / 4)."""
        return float(torch.linalg.det(self.covariance).clamp(min=0)) ** 0.25

    def mass_square(self, share: float = 0.95) -> int:
        """Return the side, in pixels and odd, of the least square that holds `share` of the field.

        It is centred on the pixel of the centroid; what lies outside the picture counts nothing.

        Raises:
            ValueError: the share is not above 0 and at most 1.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, got {share}")
        height, width = self.weights.shape
        row, column = round(self.centroid[0]), round(self.centroid[1])
        down = (torch.arange(height) - row).abs()[:, None]
        across = (torch.arange(width) - column).abs()[None, :]
        distance = torch.maximum(down, across)  # (H, W), Chebyshev
        mass = torch.zeros(int(distance.max()) + 1, dtype=torch.float64)
        mass.index_add_(0, distance.flatten(), self.weights.flatten())
        reached = mass.cumsum(0) >= share - 1e-12
        return 2 * int(reached.int().argmax()) + 1


def effective_field(
    network: nn.Module,
    pictures: Tensor,
    layer: str = "",
    position: tuple[int, int] | None = None,
    seed: int = 0,
) -> EffectiveField:
    """Measure the effective receptive field in evaluation mode.

    Each picture is looked at through a random combination, +1 or -1, of the output's channels:
    summed with one sign, gradients of different channels would cancel in the same way everywhere.

    Args:
        network: takes (B, C, H, W).
        pictures: (B, C, H, W), real or random; about 50 give a smooth field.
        layer: name of the module whose output is looked at, "" for the network's own.
        position: row and column of that output, its middle if not given.
        seed: of the signs.

    Raises:
        ValueError: a picture is constant, the output is no map, or no gradient comes back.
    """
    constant = (pictures.flatten(1).std(1, correction=0) == 0).nonzero().flatten().tolist()
    if constant:
        raise ValueError(
            f"pictures {constant} are constant: gates are closed and maxima tie there; "
            "use noise or photographs"
        )
    pictures = pictures.detach().clone().requires_grad_()
    output = feature_map(network, pictures, layer)
    row, column = position or (output.shape[2] // 2, output.shape[3] // 2)
    looked_at = output[:, :, row, column]  # (B, C')
    signs = torch.randint(0, 2, looked_at.shape, generator=torch.Generator().manual_seed(seed))
    (gradient,) = torch.autograd.grad((looked_at * (2 * signs - 1)).sum(), pictures)
    weights = gradient.double().abs().mean(dim=(0, 1))
    if not weights.sum() > 0:
        raise ValueError(f"no gradient reaches the pictures from position {(row, column)}")
    return EffectiveField(weights / weights.sum(), (row, column), len(pictures))


def feature_map(network: nn.Module, pictures: Tensor, layer: str = "") -> Tensor:
    """Return what a module of the network puts out, (B, C', h, w), in evaluation mode.

    Args:
        network: takes `pictures`.
        pictures: (B, C, H, W).
        layer: name of the module, "" for the network itself.

    Raises:
        ValueError: there is no such module, or its output is no map.
    """
    modules = dict(network.named_modules())
    if layer not in modules:
        raise ValueError(f"no layer {layer!r}; choose from {', '.join(filter(None, modules))}")
    seen: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> None:
        seen.append(output.clone())  # what follows may work in place

    handle = modules[layer].register_forward_hook(keep)
    try:
        with evaluating(network):
            network(pictures)
    finally:
        handle.remove()
    if not seen or seen[-1].ndim != 4:
        shape = tuple(seen[-1].shape) if seen else "nothing"
        raise ValueError(f"layer {layer!r} puts out {shape}, a map (B, C, H, W) is needed")
    return seen[-1]


def _mean(shares: Tensor) -> float:
    return float((shares * torch.arange(len(shares), dtype=shares.dtype)).sum())
