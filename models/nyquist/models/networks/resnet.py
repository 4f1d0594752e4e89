"""ResNet (He et al. 2015): residual blocks in four groups, three of which halve the map.

stem -> layer1 -> layer2 -> layer3 -> layer4 -> mean -> fc

Weights have the names of torchvision in every family, since no pool has any. Where a group halves,
block             conv that is strided, and behind whose activation any other kind stands
BasicBlock        conv1
BottleneckV1      conv1, 1x1: of the original paper
Bottleneck        conv2, 3x3: "v1.5", that of torchvision, timm and Zhang
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from nyquist.models.layers.downsampling import PLAIN, Downsampling, PairedPool
from nyquist.models.layers.padding import PaddedConv2d
from nyquist.models.layers.stems import Placement, ResNetStem, check_placement

WIDTHS = (64, 128, 256, 512)


@dataclass(frozen=True)
class Site:
    """Where a residual block stands.

    Attributes:
        downsampling: of the network.
        halves: whether this block makes the map smaller.
        placement: `zhang` blurs the shortcut too, in front of its 1x1 convolution; in `timm` that
            convolution has stride 2 and drops three of four samples.

    Raises:
        ValueError: placement is none of its choices, or polyphase would lose its exactness.
    """

    downsampling: Downsampling
    halves: bool = False
    placement: Placement = "zhang"

    def __post_init__(self) -> None:
        check_placement(self.placement)
        if self.placement == "timm" and self.downsampling.kind == "polyphase":
            raise ValueError("placement 'timm' strides the shortcut; polyphase needs 'zhang'")

    @property
    def conv_stride(self) -> int:
        """Stride of the convolution in front of the pool."""
        return self.downsampling.conv_stride if self.halves else 1

    @property
    def shortcut_stride(self) -> int:
        """Stride of the 1x1 convolution of the shortcut."""
        strided = self.placement == "timm" or self.downsampling.kind == "strided"
        return self.downsampling.stride if self.halves and strided else 1

    def pool(self) -> nn.Module:
        """Return what halves branch and shortcut: (x, y) -> (x', y')."""
        if not self.halves:
            return PairedPool(nn.Identity(), nn.Identity())
        if self.placement == "timm":
            return PairedPool(self.downsampling.pool(), nn.Identity())
        return self.downsampling.paired_pool()

    def shortcut(self, in_channels: int, out_channels: int) -> nn.Module:
        """Return what makes the shortcut fit: nothing, or 1x1 convolution -> norm."""
        if not self.halves and in_channels == out_channels:
            return nn.Identity()
        conv = nn.Conv2d(in_channels, out_channels, 1, self.shortcut_stride, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut. (B, in_channels, H, W) -> (B, width, H', W').

    Args:
        in_channels: of the input.
        width: channels of both convolutions.
        site: where the block stands.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, site: Site) -> None:
        super().__init__()
        border = site.downsampling.conv_border
        self.conv1 = PaddedConv2d(in_channels, width, 3, site.conv_stride, border)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.pool = site.pool()
        self.conv2 = PaddedConv2d(width, width, 3, 1, border)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = site.shortcut(in_channels, width)

    def forward(self, x: Tensor) -> Tensor:
        branch, shortcut = self.pool(self.relu(self.bn1(self.conv1(x))), x)
        branch = self.bn2(self.conv2(branch))
        return self.relu(branch + self.downsample(shortcut))


class Bottleneck(nn.Module):
    """1x1 -> 3x3 -> 1x1 and a shortcut. (B, in_channels, H, W) -> (B, 4 * width, H', W').

    Args:
        in_channels: of the input.
        width: channels of the first two convolutions.
        site: where the block stands.
    """

    expansion: ClassVar[int] = 4
    pools_behind: ClassVar[int] = 2

    def __init__(self, in_channels: int, width: int, site: Site) -> None:
        super().__init__()
        border, out_channels = site.downsampling.conv_border, width * self.expansion
        first, second = (site.conv_stride if self.pools_behind == n else 1 for n in (1, 2))
        self.conv1 = nn.Conv2d(in_channels, width, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = PaddedConv2d(width, width, 3, second, border)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.pool = site.pool()
        self.downsample = site.shortcut(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.relu(self.bn1(self.conv1(x)))
        if self.pools_behind == 1:
            branch, x = self.pool(branch, x)
        branch = self.relu(self.bn2(self.conv2(branch)))
        if self.pools_behind == 2:
            branch, x = self.pool(branch, x)
        return self.relu(self.bn3(self.conv3(branch)) + self.downsample(x))


class BottleneckV1(Bottleneck):
    """The bottleneck of the original paper, which halves at its first convolution."""

    pools_behind: ClassVar[int] = 1


Block = type[BasicBlock] | type[Bottleneck]


class ResNet(nn.Sequential):
    """(B, in_channels, H, W) -> logits (B, num_classes).

    Polyphase with circular padding throughout, and H, W multiples of 32, does not change its
    logits under circular shifts.

    Args:
        block: of all groups.
        depths: blocks of each group.
        downsampling: how the stem's pool and the groups but the first halve their map.
        num_classes: length of the logits.
        in_channels: channels of the picture.
        widths: of each group; the first is the stem's too.
        placement: whose anti-aliasing, Zhang's or timm's; see Site and resnet_stem_pool.

    Raises:
        ValueError: placement is none of its choices, or not for this kind of downsampling.
    """

    def __init__(
        self,
        block: Block,
        depths: Sequence[int],
        downsampling: Downsampling = PLAIN,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        widths: Sequence[int] = WIDTHS,
        placement: Placement = "zhang",
    ) -> None:
        stem = ResNetStem(downsampling, in_channels, widths[0], placement)
        parts: dict[str, nn.Module] = dict(stem.named_children())
        channels = widths[0]
        for group, (depth, width) in enumerate(zip(depths, widths, strict=True)):
            sites = [Site(downsampling, group > 0 and n == 0, placement) for n in range(depth)]
            parts[f"layer{group + 1}"] = residual_group(block, channels, width, sites)
            channels = width * block.expansion
        parts["avgpool"] = nn.AdaptiveAvgPool2d(1)
        parts["flatten"] = nn.Flatten()
        parts["fc"] = nn.Linear(channels, num_classes)
        super().__init__(OrderedDict(parts))
        initialise_convolutions(self)


def residual_group(
    block: Block, in_channels: int, width: int, sites: Sequence[Site]
) -> nn.Sequential:
    """Return a block for each site; the first takes in_channels, the others what it gives."""
    inner = width * block.expansion
    blocks = [block(inner if n else in_channels, width, site) for n, site in enumerate(sites)]
    return nn.Sequential(*blocks)


def initialise_convolutions(network: nn.Module) -> None:
    """Draw the weights of every convolution for ReLU, keeping the variance of the gradient.

    He et al., "Delving Deep into Rectifiers", 2015.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


RESNETS: dict[str, tuple[Block, tuple[int, ...]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
}
