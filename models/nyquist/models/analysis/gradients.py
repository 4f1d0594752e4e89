"""How a downsampling layer hands gradients back to its input.

>>> noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
>>> gradient_statistics(nn.MaxPool2d(2), noise).sparsity
0.75
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Downsampler = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class GradientStatistics:
    """What reaches the input of a layer when its output gets noise of mean 1 as gradient.

    Attributes:
        sparsity: share of input elements whose gradient is exactly zero, 0..1.
        mean_magnitude: mean absolute gradient of an input element.
        deviation: standard deviation over input elements.
        sum_ratio: sum of the gradients of the input over that of the output; 1 where the sum is
            preserved.
        norm_ratio: the same for the Euclidean norm.
    """

    sparsity: float
    mean_magnitude: float
    deviation: float
    sum_ratio: float
    norm_ratio: float


def input_gradient(layer: Downsampler, x: Tensor, output_gradient: Tensor) -> Tensor:
    """Return the gradient that the input gets. (B, C, H, W), as `x`.

    Args:
        layer: a module or a function.
        x: input.
        output_gradient: shaped as the output of the layer.
    """
    x = x.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(layer(x), x, output_gradient)
    return gradient


def gradient_statistics(layer: Downsampler, x: Tensor, seed: int = 0) -> GradientStatistics:
    """Measure a layer on one batch.

    Args:
        layer: a module or a function.
        x: input (B, C, H, W); noise shows the layer itself, a feature map its use.
        seed: of the output's gradient, normal with mean 1, so that its sum is no accident.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        shape = layer(x).shape
    given = 1 + torch.randn(shape, generator=generator, dtype=x.dtype)
    gradient = input_gradient(layer, x, given)
    return GradientStatistics(
        sparsity=(gradient == 0).double().mean().item(),
        mean_magnitude=gradient.abs().mean().item(),
        deviation=gradient.std().item(),
        sum_ratio=(gradient.sum() / given.sum()).item(),
        norm_ratio=(gradient.norm() / given.norm()).item(),
    )


def gradient_pattern(
    layer: Downsampler, size: int, position: tuple[int, int], channels: int = 1, seed: int = 0
) -> Tensor:
    """Return what one output position hands back to a square map of noise. -> (size, size).

    The gradient 1 enters at `position` of every output channel; channels of the input are summed.

    Args:
        layer: a module or a function on (1, channels, size, size).
        size: of the input.
        position: row and column of the output; negative counts from the end.
        channels: of the input.
        seed: of the input.
    """
    x = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        given = torch.zeros_like(layer(x))
    given[:, :, position[0], position[1]] = 1
    return input_gradient(layer, x, given).sum(dim=(0, 1))


def coverage(layer: Downsampler, size: int, seed: int = 0) -> Tensor:
    """Count, for each input of a square map, the outputs that hand it a gradient. -> (size, size).

    For a layer that selects (a maximum) this is the count for one input of noise, not in general.
    """
    x = torch.randn(1, 1, size, size, generator=torch.Generator().manual_seed(seed))
    jacobian = torch.autograd.functional.jacobian(layer, x)  # (1, C, h, w, 1, 1, size, size)
    return (jacobian != 0).sum(dim=(0, 1, 2, 3)).reshape(size, size)


def standard_downsamplers(channels: int = 1, seed: int = 0) -> dict[str, nn.Module]:
    """Return the layers that the field compares, convolutions with seeded fresh weights."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        convolutions = {
            name: nn.Conv2d(channels, channels, kernel, stride, padding, bias=False)
            for name, (kernel, stride, padding) in {
                "conv 1x1 s2": (1, 2, 0),
                "conv 2x2 s2": (2, 2, 0),
                "conv 3x3 s2 p1": (3, 2, 1),
                "conv 3x3 s2 p0": (3, 2, 0),
                "conv 4x4 s2 p1": (4, 2, 1),
                "conv 3x3 s4 p1": (3, 4, 1),
            }.items()
        }
    return {
        "max 2x2 s2": nn.MaxPool2d(2),
        "max 3x3 s2 p1": nn.MaxPool2d(3, 2, 1),
        "avg 2x2 s2": nn.AvgPool2d(2),
        **convolutions,
    }
