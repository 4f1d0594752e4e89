"""The backward pass of a strided convolution: a transposed one, or one with a stride of 1 / s.

gradient of the output -> s - 1 zeros between its elements -> convolution with the turned kernel at
stride 1 -> gradient of the input (Dumoulin and Visin, "A guide to convolution arithmetic", 2016)

>>> compare_backward(Window(3, stride=2, pad_before=1, pad_after=1)).fractional < 1e-12
True
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.analysis.gradients import input_gradient
from nyquist.models.analysis.window import COMMON_WINDOWS, Window


@dataclass(frozen=True)
class Backward:
    """How three ways to the gradient of a convolution's input agree; float64.

    Attributes:
        transposed: largest difference of conv_transpose2d of the output's gradient from autograd.
        fractional: the same of the convolution with a stride of 1 / s.
        largest: absolute gradient.
    """

    transposed: float
    fractional: float
    largest: float


def spread_apart(gradient: Tensor, stride: int) -> Tensor:
    """Put stride - 1 zeros between the elements. (B, C, H, W) -> (B, C, (H - 1) * stride + 1, ...).

    A window that moves by one here has moved by 1 / stride of an output: the fractional stride.
    """
    batch, channels, height, width = gradient.shape
    shape = (batch, channels, (height - 1) * stride + 1, (width - 1) * stride + 1)
    apart = gradient.new_zeros(shape)
    apart[:, :, ::stride, ::stride] = gradient
    return apart


def fractional_convolution(conv: nn.Conv2d, gradient: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the gradient of a convolution's input from that of its output.

    Args:
        conv: with one group, no dilation and zeros around; its kernel is square.
        gradient: of its output, (B, C_out, h, w).
        size: of its input, (H, W).
    """
    kernel, stride, pad = conv.kernel_size[0], conv.stride[0], int(conv.padding[0])
    apart = spread_apart(gradient, stride)
    before = kernel - 1 - pad
    after = [n + kernel - 1 - apart.shape[2 + at] - before for at, n in enumerate(size)]
    turned = conv.weight.flip(2, 3).transpose(0, 1)  # (C_in, C_out, k, k)
    return F.conv2d(F.pad(apart, (before, after[1], before, after[0])), turned)


def compare_backward(window: Window, size: int = 17, seed: int = 0) -> Backward:
    """Take the gradient of a convolution's input in three ways, on noise.

    Args:
        window: kernel, stride and pads of the convolution.
        size: height and width of its input.
        seed: of weights, input and the output's gradient.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        conv = nn.Conv2d(3, 4, window.kernel, window.stride, window.pad_before).double()
        x = torch.randn(2, 3, size, size, dtype=torch.float64)
        given = torch.randn(conv(x).shape, dtype=torch.float64)
    with torch.no_grad():
        rest = size - ((given.shape[2] - 1) * window.stride - 2 * window.pad_before + window.kernel)
        transposed = F.conv_transpose2d(
            given, conv.weight, None, window.stride, window.pad_before, rest
        )
        fractional = fractional_convolution(conv, given, (size, size))
    true = input_gradient(conv, x, given)
    return Backward(
        transposed=float((transposed - true).abs().max()),
        fractional=float((fractional - true).abs().max()),
        largest=float(true.abs().max()),
    )


def backward_comparisons() -> dict[str, Backward]:
    """Compare for each of the common windows, whose pads are alike on both sides."""
    return {
        name: compare_backward(window)
        for name, window in COMMON_WINDOWS.items()
        if window.pad_before == window.pad_after
    }
