"""Downsampling as one parameter of every architecture.

conv (stride 1, or the whole stride) -> norm -> activation -> pool

>>> Downsampling("blur", taps=4).pool()
BlurPool2d(taps=4, stride=2, pad_mode=circular)
>>> Downsampling("strided").conv_stride, Downsampling("blur").conv_stride
(2, 1)
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from nyquist.models.choices import DOWNSAMPLING_KINDS as DOWNSAMPLING_KINDS
from nyquist.models.choices import DownsamplingKind as DownsamplingKind
from nyquist.models.layers.blur import BlurPool2d, check_taps
from nyquist.models.layers.padding import PadMode, check_pad_mode, pad2d
from nyquist.models.layers.polyphase import PolyphasePair, PolyphasePool2d


class DenseMaxPool2d(nn.Module):
    """Maximum of a window at every position. (B, C, H, W) -> (B, C, H, W).

    Args:
        pad_mode: how the border continues, at the right and the bottom first. Under `zero` what
            lies outside takes no part, which is what replicate computes; zeros that take part,
            onnxruntime would fuse away. None leaves out the windows that cross the border:
            -> (B, C, H - kernel_size + 1, W - kernel_size + 1).
        kernel_size: of the window, at least 1.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, pad_mode: PadMode | None, kernel_size: int = 2) -> None:
        super().__init__()
        if pad_mode is not None:
            check_pad_mode(pad_mode)
        if kernel_size < 1:
            raise ValueError(f"kernel_size must be at least 1, got {kernel_size}")
        self.pad_mode: PadMode | None = "replicate" if pad_mode == "zero" else pad_mode
        self.pool = nn.MaxPool2d(kernel_size, stride=1)
        self._pads = [(kernel_size - 1) // 2, kernel_size // 2] * 2

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x if self.pad_mode is None else pad2d(x, self._pads, self.pad_mode))


class AntialiasedMaxPool(nn.Sequential):
    """Maximum at stride 1 -> blur. (B, C, H, W) -> (B, C, ceil(H / stride), ceil(W / stride)).

    A maximum of 2x2 lies half a sample to the right of its window's first sample, so that with an
    odd number of taps the output is centred where that of MaxPool2d(2) is.

    Args:
        taps: length of the blur filter, 1 to 7.
        stride: subsampling factor, at least 1.
        pad_mode: how the border of the blur continues.
        kernel_size: of the maximum.
        max_pad_mode: how the border of the maximum continues; None as in Zhang's networks, which
            leave out the windows that cross it: an even H, W still becomes H / 2, W / 2.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        taps: int = 4,
        stride: int = 2,
        pad_mode: PadMode = "reflect",
        kernel_size: int = 2,
        max_pad_mode: PadMode | None = "reflect",
    ) -> None:
        maximum = DenseMaxPool2d(max_pad_mode, kernel_size)
        super().__init__(maximum, BlurPool2d(taps, stride, pad_mode))


class PairedPool(nn.Module):
    """Two pools side by side, one of a residual branch and one of its shortcut.

    Args:
        branch: what stands in the branch.
        shortcut: what stands in the shortcut.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, branch: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        return self.branch(branch), self.shortcut(shortcut)


@dataclass(frozen=True)
class Downsampling:
    """How an architecture makes a feature map smaller.

    Attributes:
        kind: the family; one of DOWNSAMPLING_KINDS.
        taps: length of the blur filter, 1 to 7; read by blur and max_blur alone.
        pad_mode: how borders continue, here and in the convolutions around.
        conv_pad_mode: how they continue in the convolutions, where that differs.
        stride: subsampling factor, at least 1.

    Raises:
        ValueError: an attribute is none of its choices.
    """

    kind: DownsamplingKind
    taps: int = 3
    pad_mode: PadMode = "circular"
    conv_pad_mode: PadMode | None = None
    stride: int = 2

    def __post_init__(self) -> None:
        if self.kind not in DOWNSAMPLING_KINDS:
            choices = ", ".join(DOWNSAMPLING_KINDS)
            raise ValueError(f"unknown downsampling {self.kind!r}; choose from {choices}")
        check_pad_mode(self.pad_mode)
        check_pad_mode(self.conv_border)
        check_taps(self.taps)
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")

    @property
    def conv_border(self) -> PadMode:
        """How borders continue in the convolutions around."""
        return self.pad_mode if self.conv_pad_mode is None else self.conv_pad_mode

    @property
    def conv_stride(self) -> int:
        """Stride of the convolution in front: all of it where there is no pool, else 1."""
        return self.stride if self.kind == "strided" else 1

    @property
    def in_stem(self) -> "Downsampling":
        """The same for a network's first convolution, which keeps its stride (Zhang 2019).

        There are the most pixels, and stride 1 would cost as many times more as the stride has
        samples. Polyphase alone is exact only where no stride is left.
        """
        return self if self.kind == "polyphase" else replace(self, kind="strided")

    def pool(self) -> nn.Module:
        """Return what stands behind the activation. -> (B, C, H / stride, W / stride)."""
        match self.kind:
            case "strided":
                return nn.Identity()
            case "max_pool":
                return nn.MaxPool2d(self.stride)
            case "avg_pool":
                return nn.AvgPool2d(self.stride)
            case "polyphase":
                return PolyphasePool2d(self.stride)
            case "blur":
                return BlurPool2d(self.taps, self.stride, self.pad_mode)
            case "max_blur":
                return AntialiasedMaxPool(
                    self.taps, self.stride, self.pad_mode, max_pad_mode=self.pad_mode
                )

    def paired_pool(self) -> nn.Module:
        """Return what halves a residual branch and its shortcut alike: (x, y) -> (x', y')."""
        if self.kind == "polyphase":
            return PolyphasePair(self.stride)
        return PairedPool(self.pool(), self.pool())


PLAIN = Downsampling("strided", pad_mode="reflect", conv_pad_mode="zero")
"""Strided convolutions with zeros around, as in the networks that were published."""
