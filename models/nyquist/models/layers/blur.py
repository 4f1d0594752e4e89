"""Blur, then subsample: the low-pass filter that belongs in front of every stride.

>>> x = torch.arange(16.0).reshape(1, 1, 4, 4)
>>> BlurPool2d(taps=3, stride=2, pad_mode="circular")(x).tolist()
[[[[5.0, 6.0], [9.0, 10.0]]]]
"""

from math import comb

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.choices import MAX_TAPS as MAX_TAPS
from nyquist.models.layers.padding import PadMode, check_pad_mode, pad2d


def check_taps(taps: int) -> None:
    """Raise ValueError, naming the range, if `taps` is outside 1..7."""
    if not 1 <= taps <= MAX_TAPS:
        raise ValueError(f"taps must be in 1..{MAX_TAPS}, got {taps}")


def blur_kernel(taps: int) -> Tensor:
    """Return the normalised binomial low-pass filter, shape (taps, taps), sum 1.

    Row k of Pascal's triangle is the box [1, 1] convolved with itself k times, so that the
    frequency response is cos(w / 2) ** (taps - 1) along each axis, zero at w = pi.

    Raises:
        ValueError: taps is not in 1..7.
    """
    check_taps(taps)
    row = torch.tensor([comb(taps - 1, k) for k in range(taps)], dtype=torch.float32)
    return torch.outer(row, row) / row.sum() ** 2


def blur_pool2d(x: Tensor, kernel: Tensor, stride: int, pad_mode: PadMode) -> Tensor:
    """Blur each channel with `kernel`, then keep every `stride`-th sample.

    Padding is (floor((k - 1) / 2), ceil((k - 1) / 2)) on each axis, so the output size does not
    depend on the number of taps. (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)).

    Raises:
        ValueError: the map holds integers, in which the filter would round to zero.
    """
    if not x.is_floating_point():
        raise ValueError(f"a map of floating point is needed, got {x.dtype}")
    before, after = (kernel.shape[-1] - 1) // 2, kernel.shape[-1] // 2
    channels = x.shape[1]
    weight = kernel.to(x.dtype).expand(channels, 1, *kernel.shape)  # (C, 1, taps, taps)
    padded = pad2d(x, (before, after, before, after), pad_mode)
    return F.conv2d(padded, weight, stride=stride, groups=channels)


class BlurPool2d(nn.Module):
    """Subsampling without aliasing (Zhang, "Making Convolutional Networks Shift-Invariant Again").

    (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)) for every number of taps. The filter
    is fixed: it is neither a parameter nor part of the state dict.

    Args:
        taps: filter length along each axis, 1 (plain subsampling) to 7.
        stride: subsampling factor, at least 1.
        pad_mode: how the border continues. reflect needs H and W larger than taps // 2.

    Raises:
        ValueError: an argument is out of its range.
    """

    kernel: Tensor

    def __init__(self, taps: int = 4, stride: int = 2, pad_mode: PadMode = "reflect") -> None:
        super().__init__()
        check_pad_mode(pad_mode)
        if stride < 1:
            raise ValueError(f"stride must be at least 1, got {stride}")
        self.taps, self.stride, self.pad_mode = taps, stride, pad_mode
        self.register_buffer("kernel", blur_kernel(taps), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return blur_pool2d(x, self.kernel, self.stride, self.pad_mode)

    def extra_repr(self) -> str:
        return f"taps={self.taps}, stride={self.stride}, pad_mode={self.pad_mode}"
