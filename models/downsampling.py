"""Downsampling as one parameter of every architecture.

conv (stride 1 or 2) -> norm -> activation -> pool
"""

from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn

from models.blur import BlurPool2d, check_taps
from models.padding import PadMode, check_pad_mode, pad2d
from models.polyphase import PolyphasePool2d

DownsamplingKind = Literal["max_pool", "avg_pool", "strided", "blur", "max_blur", "polyphase"]
DOWNSAMPLING_KINDS: tuple[DownsamplingKind, ...] = get_args(DownsamplingKind)


class DenseMaxPool2d(nn.Module):
    """2x2 maximum at every position. (B, C, H, W) -> (B, C, H, W); pads right and bottom by one.

    Args:
        pad_mode: how the border continues. Under `zero` what lies outside takes no part, which is
            what replicate computes; zeros that take part, onnxruntime would fuse away.

    Raises:
        ValueError: pad_mode is none of its choices.
    """

    def __init__(self, pad_mode: PadMode) -> None:
        super().__init__()
        check_pad_mode(pad_mode)
        self.pad_mode: PadMode = "replicate" if pad_mode == "zero" else pad_mode
        self.pool = nn.MaxPool2d(kernel_size=2, stride=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(pad2d(x, (0, 1, 0, 1), self.pad_mode))


@dataclass(frozen=True)
class Downsampling:
    """How an architecture halves a feature map.

    Attributes:
        kind: the family; one of DOWNSAMPLING_KINDS.
        taps: length of the blur filter, 1 to 7; read by blur and max_blur alone.
        pad_mode: how borders continue, here and in the convolutions around.

    Raises:
        ValueError: an attribute is none of its choices.
    """

    kind: DownsamplingKind
    taps: int = 3
    pad_mode: PadMode = "circular"

    def __post_init__(self) -> None:
        if self.kind not in DOWNSAMPLING_KINDS:
            choices = ", ".join(DOWNSAMPLING_KINDS)
            raise ValueError(f"unknown downsampling {self.kind!r}; choose from {choices}")
        check_pad_mode(self.pad_mode)
        check_taps(self.taps)

    @property
    def conv_stride(self) -> int:
        """Stride of the convolution in front: 2 where it does the halving itself, else 1."""
        return 2 if self.kind == "strided" else 1

    def pool(self) -> nn.Module:
        """Return what stands behind the activation. (B, C, H, W) -> (B, C, H / 2, W / 2)."""
        match self.kind:
            case "strided":
                return nn.Identity()
            case "max_pool":
                return nn.MaxPool2d(kernel_size=2)
            case "avg_pool":
                return nn.AvgPool2d(kernel_size=2)
            case "polyphase":
                return PolyphasePool2d(stride=2)
            case "blur":
                return BlurPool2d(self.taps, stride=2, pad_mode=self.pad_mode)
            case "max_blur":
                blur = BlurPool2d(self.taps, stride=2, pad_mode=self.pad_mode)
                return nn.Sequential(DenseMaxPool2d(self.pad_mode), blur)
