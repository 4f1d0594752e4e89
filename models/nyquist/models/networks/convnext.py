"""ConvNeXt (Liu et al. 2022): depthwise 7x7 and a two-layer perceptron at each position.

features.0 (stem) -> features.1 -> halving -> features.3 -> ... -> features.7 -> mean -> classifier

Weights have the names of torchvision in every family. The network halves with a layer norm and a
2x2 convolution of stride 2; any other kind of downsampling stands behind that convolution at
stride 1. There is no activation between, so that a blur there is linear: what could alias anew is
the layer norm in front and the GELU behind. The stem keeps its 4x4 stride 4, but for polyphase.
"""

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nyquist.models.layers.downsampling import PLAIN, Downsampling
from nyquist.models.layers.norm import LayerNorm2d
from nyquist.models.layers.padding import PaddedConv2d
from nyquist.models.layers.stems import ConvNeXtStem, patch_conv

DEPTHS = (3, 3, 9, 3)
WIDTHS = (96, 192, 384, 768)
LAYER_SCALE = 1e-6
NORM_EPSILON = 1e-6
DEVIATION = 0.02
"""Of the normal distribution that fresh weights are drawn from, cut at two deviations."""


class ChannelsLast(nn.Module):
    """Put the channels behind. (B, C, H, W) -> (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


class ChannelsFirst(nn.Module):
    """Put the channels in front. (B, H, W, C) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        # contiguous: or the exporter, seeing channels_last, writes shape arithmetic
        return x.permute(0, 3, 1, 2).contiguous()


class ConvNeXtBlock(nn.Module):
    """Depthwise 7x7 -> layer norm -> linear -> GELU -> linear, scaled, added to the input.

    (B, width, H, W) -> (B, width, H, W).

    Args:
        width: channels of the map.
        downsampling: of the network; its borders are read.
    """

    def __init__(self, width: int, downsampling: Downsampling = PLAIN) -> None:
        super().__init__()
        border = downsampling.conv_border
        self.block = nn.Sequential(
            PaddedConv2d(width, width, 7, 1, border, groups=width, bias=True),
            ChannelsLast(),
            nn.LayerNorm(width, eps=NORM_EPSILON),
            nn.Linear(width, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, width),
            ChannelsFirst(),
        )
        self.layer_scale = nn.Parameter(torch.full((width, 1, 1), LAYER_SCALE))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layer_scale * self.block(x)


def halving(in_channels: int, out_channels: int, downsampling: Downsampling) -> nn.Sequential:
    """Return layer norm -> 2x2 convolution -> pool. -> (B, out_channels, H / 2, W / 2)."""
    conv = patch_conv(in_channels, out_channels, 2, downsampling)
    return nn.Sequential(LayerNorm2d(in_channels), conv, downsampling.pool())


class ConvNeXt(nn.Sequential):
    """(B, in_channels, H, W) -> logits (B, num_classes).

    Polyphase with circular padding throughout, and H, W multiples of 32 and at least 96, does not
    change its logits under circular shifts.

    Args:
        downsampling: how the map is halved three times; polyphase, the stem's quartering too.
        num_classes: length of the logits.
        in_channels: channels of the picture.
        depths: blocks of each of the four groups.
        widths: of each group.
    """

    def __init__(
        self,
        downsampling: Downsampling = PLAIN,
        num_classes: int = 1000,
        in_channels: int = 3,
        depths: Sequence[int] = DEPTHS,
        widths: Sequence[int] = WIDTHS,
    ) -> None:
        features: list[nn.Module] = [ConvNeXtStem(downsampling.in_stem, in_channels, widths[0])]
        for group, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            if group:
                features.append(halving(widths[group - 1], width, downsampling))
            blocks = [ConvNeXtBlock(width, downsampling) for _ in range(depth)]
            features.append(nn.Sequential(*blocks))
        head = (LayerNorm2d(widths[-1]), nn.Flatten(), nn.Linear(widths[-1], num_classes))
        parts = {
            "features": nn.Sequential(*features),
            "avgpool": nn.AdaptiveAvgPool2d(1),
            "classifier": nn.Sequential(*head),
        }
        super().__init__(OrderedDict(parts))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(
                    module.weight, std=DEVIATION, a=-2 * DEVIATION, b=2 * DEVIATION
                )
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
