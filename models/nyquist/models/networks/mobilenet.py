"""MobileNetV2 (Sandler et al. 2018): inverted residual blocks, four of which halve the map.

features.0 (stem) -> features.1 ... features.17 -> features.18 (head) -> mean -> classifier

Weights have the names of torchvision in every family, since no pool has any. Zhang's placement:
depthwise conv (stride 1) -> norm -> ReLU6 -> blur -> 1x1 conv; the stem keeps its stride.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor, nn

from nyquist.models.layers.downsampling import PLAIN, Downsampling
from nyquist.models.layers.padding import PaddedConv2d
from nyquist.models.networks.resnet import initialise_convolutions

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
DROPOUT = 0.2


class Group(NamedTuple):
    """A run of blocks: factor of the hidden width, width, blocks, stride of the first one."""

    expansion: int
    channels: int
    repeats: int
    stride: int


GROUPS = (
    Group(1, 16, 1, 1),
    Group(6, 24, 2, 2),
    Group(6, 32, 3, 2),
    Group(6, 64, 4, 2),
    Group(6, 96, 3, 1),
    Group(6, 160, 3, 2),
    Group(6, 320, 1, 1),
)


def conv_norm_activation(conv: nn.Conv2d, pool: nn.Module | None = None) -> nn.Sequential:
    """Return convolution -> norm -> ReLU6 -> pool, if there is one."""
    parts = [conv, nn.BatchNorm2d(conv.out_channels), nn.ReLU6(inplace=True)]
    return nn.Sequential(*parts, *([] if pool is None else [pool]))


class InvertedResidual(nn.Module):
    """1x1 expand -> depthwise -> 1x1 project, added to the input where the shapes allow it.

    (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride).

    Args:
        in_channels: of the input.
        out_channels: of the output.
        expansion: hidden channels for each input channel; 1 leaves out the first convolution.
        downsampling: of the network.
        halves: whether this block makes the map smaller.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expansion: int,
        downsampling: Downsampling = PLAIN,
        *,
        halves: bool = False,
    ) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.residual = not halves and in_channels == out_channels
        stride = downsampling.conv_stride if halves else 1
        border = downsampling.conv_border
        depthwise = PaddedConv2d(hidden, hidden, 3, stride, border, groups=hidden)
        parts: list[nn.Module] = []
        if expansion > 1:
            parts.append(conv_norm_activation(nn.Conv2d(in_channels, hidden, 1, bias=False)))
        parts.append(conv_norm_activation(depthwise, downsampling.pool() if halves else None))
        parts.append(nn.Conv2d(hidden, out_channels, 1, bias=False))
        parts.append(nn.BatchNorm2d(out_channels))
        self.conv = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Sequential):
    """(B, in_channels, H, W) -> logits (B, num_classes).

    Polyphase with circular padding throughout, and H, W multiples of 32, does not change its
    logits under circular shifts.

    Args:
        downsampling: how the four groups of stride 2 halve their map; polyphase, the stem too.
        num_classes: length of the logits.
        in_channels: channels of the picture.
        groups: of blocks.
    """

    def __init__(
        self,
        downsampling: Downsampling = PLAIN,
        num_classes: int = 1000,
        in_channels: int = 3,
        groups: Sequence[Group] = GROUPS,
    ) -> None:
        first = downsampling.in_stem
        border = downsampling.conv_border
        stem = PaddedConv2d(in_channels, STEM_CHANNELS, 3, first.conv_stride, border)
        features: list[nn.Module] = [conv_norm_activation(stem, first.pool())]
        channels = STEM_CHANNELS
        for group in groups:
            for repeat in range(group.repeats):
                halves = repeat == 0 and group.stride == 2
                features.append(
                    InvertedResidual(
                        channels, group.channels, group.expansion, downsampling, halves=halves
                    )
                )
                channels = group.channels
        features.append(conv_norm_activation(nn.Conv2d(channels, HEAD_CHANNELS, 1, bias=False)))
        classifier = nn.Sequential(nn.Dropout(DROPOUT), nn.Linear(HEAD_CHANNELS, num_classes))
        parts = {
            "features": nn.Sequential(*features),
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "flatten": nn.Flatten(),
            "classifier": classifier,
        }
        super().__init__(OrderedDict(parts))
        initialise_convolutions(self)
