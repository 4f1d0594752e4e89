"""Stems: from the pixels to the first feature map.

stem             what it does                                        parameters, RGB
ResNetStem       7x7 stride 2 -> norm -> ReLU -> max pool stride 2   9,536
ResNetDStem      three 3x3, the first stride 2 -> max pool stride 2  28,768
EfficientNetStem 3x3 stride 2 -> norm -> activation                  928
ConvNeXtStem     4x4 stride 4 -> layer norm                          4,896
PatchEmbedding   16x16 stride 16 -> a sequence                       590,592

All but the last have anti-aliased forms, by their Downsampling. In the stems of ResNet the
convolution keeps its stride and the pool is anti-aliased (see Downsampling.in_stem).
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

from torch import Tensor, nn

from nyquist.models.choices import PLACEMENTS as PLACEMENTS
from nyquist.models.choices import Placement as Placement
from nyquist.models.layers.downsampling import (
    PLAIN,
    AntialiasedMaxPool,
    DenseMaxPool2d,
    Downsampling,
)
from nyquist.models.layers.norm import LayerNorm2d
from nyquist.models.layers.padding import PaddedConv2d, SameConv2d

EFFICIENTNET_EPSILON = 1e-3


def check_placement(placement: str) -> None:
    """Raise ValueError, naming the choices, if `placement` is none of them."""
    if placement not in PLACEMENTS:
        raise ValueError(f"unknown placement {placement!r}; choose from {', '.join(PLACEMENTS)}")


def resnet_stem_pool(downsampling: Downsampling, placement: Placement = "zhang") -> nn.Module:
    """Return the pool of a ResNet stem. (B, C, H, W) -> (B, C, H / 2, W / 2).

    The published one is a maximum of 3x3 at stride 2. Anti-aliased, it is a maximum at stride 1,
    then blur: of 2x2 and without padding as Zhang has it, or of 3x3 as timm does.

    Raises:
        ValueError: placement is none of its choices.
    """
    check_placement(placement)
    border, how = downsampling.conv_border, downsampling
    around = None if border == "zero" else border
    match how.kind:
        case "strided" | "max_pool" if around is None:
            return nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        case "strided" | "max_pool":
            return AntialiasedMaxPool(taps=1, pad_mode=border, kernel_size=3, max_pad_mode=border)
        case "avg_pool":
            return nn.AvgPool2d(kernel_size=2)
        case "polyphase":
            return nn.Sequential(DenseMaxPool2d(border), how.pool())
        case _ if placement == "timm":
            return AntialiasedMaxPool(how.taps, 2, how.pad_mode, 3, max_pad_mode=border)
        case _:
            return AntialiasedMaxPool(how.taps, 2, how.pad_mode, max_pad_mode=around)


class ResNetStem(nn.Sequential):
    """7x7 stride 2 -> norm -> ReLU -> max pool stride 2 (He et al. 2015).

    (B, in_channels, H, W) -> (B, out_channels, H / 4, W / 4). Names are those of torchvision.

    Args:
        downsampling: how the pool halves; polyphase, also how the convolution does.
        in_channels: of the picture.
        out_channels: of the map.
        placement: whose anti-aliased pool, Zhang's or timm's; see resnet_stem_pool.
    """

    def __init__(
        self,
        downsampling: Downsampling = PLAIN,
        in_channels: int = 3,
        out_channels: int = 64,
        placement: Placement = "zhang",
    ) -> None:
        first, border = downsampling.in_stem, downsampling.conv_border
        parts = {
            "conv1": PaddedConv2d(in_channels, out_channels, 7, first.conv_stride, border),
            "bn1": nn.BatchNorm2d(out_channels),
            "relu": nn.ReLU(inplace=True),
            "pool": first.pool(),
            "maxpool": resnet_stem_pool(downsampling, placement),
        }
        super().__init__(OrderedDict(parts))


class ResNetDStem(nn.Sequential):
    """Three 3x3 with norm and ReLU, the first of stride 2 -> max pool stride 2.

    He et al., "Bag of Tricks for Image Classification", 2018 (ResNet-C and D).
    (B, in_channels, H, W) -> (B, out_channels, H / 4, W / 4).

    Args:
        downsampling: how the pool halves; polyphase, also how the first convolution does.
        in_channels: of the picture.
        out_channels: of the map, even: the first two convolutions have half of it.
        placement: whose anti-aliased pool, Zhang's or timm's; see resnet_stem_pool.

    Raises:
        ValueError: out_channels is odd.
    """

    def __init__(
        self,
        downsampling: Downsampling = PLAIN,
        in_channels: int = 3,
        out_channels: int = 64,
        placement: Placement = "zhang",
    ) -> None:
        if out_channels % 2:
            raise ValueError(f"out_channels must be even, got {out_channels}")
        first, border = downsampling.in_stem, downsampling.conv_border
        widths = (in_channels, out_channels // 2, out_channels // 2, out_channels)
        parts: list[nn.Module] = []
        for index, (before, after) in enumerate(pairwise(widths)):
            stride = first.conv_stride if index == 0 else 1
            parts.append(PaddedConv2d(before, after, 3, stride, border))
            parts += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
            if index == 0:
                parts.append(first.pool())
        super().__init__(*parts, resnet_stem_pool(downsampling, placement))


class EfficientNetStem(nn.Sequential):
    """3x3 stride 2, padded as TensorFlow's SAME -> norm -> activation (Tan and Le 2019).

    (B, in_channels, H, W) -> (B, out_channels, H / 2, W / 2).

    Args:
        downsampling: strided, as published; any other kind stands behind the activation and the
            convolution has stride 1, at four times the cost.
        in_channels: of the picture.
        out_channels: of the map.
        activation: makes the nonlinearity; ReLU6 in the Lite networks.
    """

    def __init__(
        self,
        downsampling: Downsampling = PLAIN,
        in_channels: int = 3,
        out_channels: int = 32,
        activation: Callable[[], nn.Module] = nn.SiLU,
    ) -> None:
        stride, border = downsampling.conv_stride, downsampling.conv_border
        super().__init__(
            SameConv2d(in_channels, out_channels, 3, stride, border),
            nn.BatchNorm2d(out_channels, eps=EFFICIENTNET_EPSILON),
            activation(),
            downsampling.pool(),
        )


def patch_conv(
    in_channels: int, out_channels: int, size: int, downsampling: Downsampling
) -> nn.Conv2d:
    """Return the convolution of `size` that reads each patch once; at stride 1, all of them.

    (B, in_channels, H, W) -> (B, out_channels, H / size, W / size) if strided, else (.., H, W).
    """
    if downsampling.kind == "strided":
        return nn.Conv2d(in_channels, out_channels, size, stride=size)
    return SameConv2d(in_channels, out_channels, size, pad_mode=downsampling.conv_border, bias=True)


class ConvNeXtStem(nn.Sequential):
    """4x4 stride 4 -> layer norm (Liu et al. 2022).

    (B, in_channels, H, W) -> (B, out_channels, H / 4, W / 4).

    Args:
        downsampling: strided, as published; any other kind stands behind the norm, with stride 4,
            and the convolution has stride 1, at sixteen times the cost. Its own stride is not read.
        in_channels: of the picture.
        out_channels: of the map.
    """

    def __init__(
        self, downsampling: Downsampling = PLAIN, in_channels: int = 3, out_channels: int = 96
    ) -> None:
        super().__init__(
            patch_conv(in_channels, out_channels, 4, downsampling),
            LayerNorm2d(out_channels),
            replace(downsampling, stride=4).pool(),
        )


class PatchEmbedding(nn.Module):
    """16x16 stride 16, each patch a token (Dosovitskiy et al. 2020).

    (B, in_channels, H, W) -> (B, H / patch * W / patch, width), row by row. There is no
    anti-aliased form: a token is what its patch holds, and the next one shares nothing with it.

    Args:
        patch: side of a patch.
        width: length of a token; 768 in ViT-B, 192 in Ti, 384 in S, 1024 in L.
        in_channels: of the picture.
    """

    def __init__(self, patch: int = 16, width: int = 768, in_channels: int = 3) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(in_channels, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"height and width must be multiples of {self.patch}, got {height} and {width}"
            )
        return self.proj(x).flatten(2).transpose(1, 2)  # (B, tokens, width)
