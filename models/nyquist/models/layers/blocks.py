"""Convolutions that make a map smaller, one class for each order of their parts.

>>> import torch
>>> x = torch.zeros(1, 3, 8, 8)
>>> [tuple(block(3, 5)(x).shape) for block in (StridedConv, AntialiasedConv)]
[(1, 5, 4, 4), (1, 5, 4, 4)]
"""

from torch import nn

from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.layers.downsampling import Downsampling
from nyquist.models.layers.padding import PaddedConv2d, PadMode


class ConvPool(nn.Sequential):
    """Convolution at stride 1 -> norm -> ReLU -> pool.

    (B, in_channels, H, W) -> (B, out_channels, H', W') with what `pool` makes of H, W.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        pool: what makes the map smaller; None: a maximum of 2x2 at stride 2.
        kernel_size: of the convolution, odd.
        pad_mode: how its border continues.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        pool: nn.Module | None = None,
        kernel_size: int = 3,
        pad_mode: PadMode = "zero",
    ) -> None:
        super().__init__(
            PaddedConv2d(in_channels, out_channels, kernel_size, 1, pad_mode),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2) if pool is None else pool,
        )


class StridedConv(nn.Sequential):
    """Convolution of a stride -> norm -> ReLU: 1 / stride ** 2 of the multiply-adds of ConvPool.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        stride: subsampling factor, at least 1.
        kernel_size: odd; below `stride` there are samples that no output sees.
        pad_mode: how the border continues.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int = 2,
        kernel_size: int = 3,
        pad_mode: PadMode = "zero",
    ) -> None:
        super().__init__(
            PaddedConv2d(in_channels, out_channels, kernel_size, stride, pad_mode),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class AntialiasedConv(ConvPool):
    """Convolution at stride 1 -> norm -> ReLU -> blur (Zhang 2019).

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)). The blur
    stands behind the ReLU, because that makes frequencies anew which the stride would alias.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        blur: the low-pass filter with its stride; None: 4 taps at stride 2.
        kernel_size: of the convolution, odd.
        pad_mode: how its border continues.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blur: BlurPool2d | None = None,
        kernel_size: int = 3,
        pad_mode: PadMode = "zero",
    ) -> None:
        blur = BlurPool2d() if blur is None else blur
        super().__init__(in_channels, out_channels, blur, kernel_size, pad_mode)


class LinearBlurConv(nn.Sequential):
    """Convolution at stride 1 -> blur, with nothing between: for comparison, not for use.

    Both parts are linear, so that away from the border they equal one strided convolution of
    kernel_size + taps - 1; the ReLU that follows aliases as it does behind any other.
    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        blur: the low-pass filter with its stride; None: 4 taps at stride 2.
        kernel_size: of the convolution, odd.
        pad_mode: how its border continues.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        blur: BlurPool2d | None = None,
        kernel_size: int = 3,
        pad_mode: PadMode = "zero",
    ) -> None:
        super().__init__(
            PaddedConv2d(in_channels, out_channels, kernel_size, 1, pad_mode),
            BlurPool2d() if blur is None else blur,
        )


def downsampling_block(
    in_channels: int, out_channels: int, downsampling: Downsampling, kernel_size: int = 3
) -> nn.Sequential:
    """Return convolution -> norm -> ReLU -> pool as the kind of downsampling orders them.

    (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride). The convolution is `0`
    and the norm `1` of every kind, so that their state dicts have the same names.
    """
    border = downsampling.conv_border
    if downsampling.kind == "strided":
        return StridedConv(in_channels, out_channels, downsampling.stride, kernel_size, border)
    return ConvPool(in_channels, out_channels, downsampling.pool(), kernel_size, border)
