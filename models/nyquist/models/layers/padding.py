"""How a feature map continues beyond its border."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.choices import PAD_MODES as PAD_MODES
from nyquist.models.choices import PadMode as PadMode


def check_pad_mode(pad_mode: str) -> None:
    """Raise ValueError, naming the choices, if `pad_mode` is none of them."""
    if pad_mode not in PAD_MODES:
        raise ValueError(f"unknown pad_mode {pad_mode!r}; choose from {', '.join(PAD_MODES)}")


def pad2d(x: Tensor, pads: Sequence[int], pad_mode: PadMode) -> Tensor:
    """Pad height and width by (left, right, top, bottom). (B, C, H, W) -> (B, C, H', W').

    No pad may exceed its axis; for reflect it must be smaller.

    Raises:
        ValueError: a circular pad exceeds its axis.
    """
    if pad_mode == "circular":
        return _pad_circularly(x, pads)
    return F.pad(x, tuple(pads), mode="constant" if pad_mode == "zero" else pad_mode)


def _pad_circularly(x: Tensor, pads: Sequence[int]) -> Tensor:
    """Wrap around. Unlike F.pad this keeps channels_last, which makes training twice as fast."""
    left, right, top, bottom = pads
    return _wrap(_wrap(x, left, right, dim=3), top, bottom, dim=2)


def _wrap(x: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Continue one axis at both ends. An empty part would cost cat the memory format."""
    if max(before, after) > x.shape[dim]:
        raise ValueError(f"{max(before, after)} samples cannot continue an axis of {x.shape[dim]}")
    parts = [x]
    if before:
        parts.insert(0, x.narrow(dim, x.shape[dim] - before, before))
    if after:
        parts.append(x.narrow(dim, 0, after))
    return torch.cat(parts, dim) if len(parts) > 1 else x


class PaddedConv2d(nn.Conv2d):
    """A convolution of odd kernel size, padded on each side by kernel_size // 2.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: odd.
        stride: subsampling factor.
        pad_mode: how the border continues.
        groups: parts that the channels are split into; in_channels makes it depthwise.
        bias: whether each output channel has an offset.

    Raises:
        ValueError: kernel_size is even, or pad_mode none of its choices.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        pad_mode: PadMode,
        *,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        check_pad_mode(pad_mode)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        margin = kernel_size // 2
        own = margin if pad_mode == "zero" else 0  # zeros, a convolution pads itself
        super().__init__(
            in_channels, out_channels, kernel_size, stride, own, groups=groups, bias=bias
        )
        self.pad_mode = pad_mode
        self._pads = [margin - own] * 4

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(pad2d(x, self._pads, self.pad_mode) if any(self._pads) else x)

    def extra_repr(self) -> str:
        parent: str = super().extra_repr()  # type: ignore[no-untyped-call] # torch leaves it bare
        return f"{parent}, pad_mode={self.pad_mode}"


def same_padding(size: int, kernel_size: int, stride: int) -> tuple[int, int]:
    """Return TensorFlow's SAME padding of one axis, (before, after), the odd pixel after.

    It makes the output ceil(size / stride), and depends on the size: a stride-2 convolution of an
    even map pads one pixel less in front than behind.
    """
    total = max((-(-size // stride) - 1) * stride + kernel_size - size, 0)
    return total // 2, total - total // 2


class SameConv2d(nn.Conv2d):
    """A convolution of any kernel size, padded as TensorFlow's SAME.

    (B, in_channels, H, W) -> (B, out_channels, ceil(H / stride), ceil(W / stride)).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: odd or even.
        stride: subsampling factor.
        pad_mode: how the border continues.
        groups: parts that the channels are split into; in_channels makes it depthwise.
        bias: whether each output channel has an offset.

    Raises:
        ValueError: pad_mode is none of its choices.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        pad_mode: PadMode = "zero",
        *,
        groups: int = 1,
        bias: bool = False,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, groups=groups, bias=bias)
        check_pad_mode(pad_mode)
        self.pad_mode = pad_mode

    def forward(self, x: Tensor) -> Tensor:
        kernel_size, stride = self.kernel_size[0], self.stride[0]
        rows = same_padding(x.shape[2], kernel_size, stride)
        columns = same_padding(x.shape[3], kernel_size, stride)
        return super().forward(pad2d(x, (*columns, *rows), self.pad_mode))

    def extra_repr(self) -> str:
        parent: str = super().extra_repr()  # type: ignore[no-untyped-call] # torch leaves it bare
        return f"{parent}, padding=same, pad_mode={self.pad_mode}"
