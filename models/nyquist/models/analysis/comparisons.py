"""Building blocks compared: stems, bottlenecks, and what a shift does to each downsampling."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nyquist.models.analysis.aliasing import shift_error
from nyquist.models.analysis.cost import cost
from nyquist.models.analysis.module_graph import module_graph
from nyquist.models.analysis.receptive_field import closed_form, last_map, receptive_fields
from nyquist.models.analysis.window import Window, unread_share
from nyquist.models.layers.blocks import downsampling_block
from nyquist.models.layers.downsampling import DOWNSAMPLING_KINDS, Downsampling
from nyquist.models.layers.stems import (
    ConvNeXtStem,
    EfficientNetStem,
    PatchEmbedding,
    ResNetDStem,
    ResNetStem,
)
from nyquist.models.networks.architectures import create, published_downsampling

PICTURE_SIZE = 224


@dataclass(frozen=True)
class BlockFigures:
    """One building block of a network, on RGB pictures of 224 pixels.

    Attributes:
        parameters: learned values.
        multiply_adds: for one picture.
        field: size of the theoretical receptive field of its last map, pixels.
        jump: distance between the fields of two neighbours there, pixels.
    """

    parameters: int
    multiply_adds: int
    field: int
    jump: int


@dataclass(frozen=True)
class BottleneckFigures:
    """ResNet-50 with one version of its bottleneck.

    Attributes:
        whole: of the network, without its classes.
        branch_unread: share of the map that the first strided convolution of a branch never reads.
        shortcut_unread: the same of the shortcut's convolution.
    """

    whole: BlockFigures
    branch_unread: float
    shortcut_unread: float


def stems() -> Mapping[str, nn.Module]:
    """Return every stem, and the anti-aliased form (4 taps) of those that have one."""
    blurred = published_downsampling("blur")
    return {
        "ResNet: 7x7 s2, max pool s2": ResNetStem(),
        "ResNet, anti-aliased": ResNetStem(blurred),
        "ResNet-D: three 3x3, max pool s2": ResNetDStem(),
        "ResNet-D, anti-aliased": ResNetDStem(blurred),
        "EfficientNet: 3x3 s2": EfficientNetStem(),
        "EfficientNet, anti-aliased": EfficientNetStem(blurred),
        "ConvNeXt: 4x4 s4, layer norm": ConvNeXtStem(),
        "ConvNeXt, anti-aliased": ConvNeXtStem(blurred),
        "ViT-B: 16x16 s16": PatchEmbedding(),
    }


def block_figures(block: nn.Module) -> BlockFigures:
    """Measure a block that takes RGB pictures."""
    counted = cost(block, (3, PICTURE_SIZE, PICTURE_SIZE))
    graph = module_graph(block, torch.zeros(1, 3, PICTURE_SIZE, PICTURE_SIZE))
    field = receptive_fields(graph)[last_map(graph)].rows
    return BlockFigures(counted.parameters, counted.multiply_adds, field.size, field.jump)


def bottlenecks() -> dict[str, BottleneckFigures]:
    """Compare where ResNet-50 halves: in its first 1x1 (v1), in its 3x3 (v1.5), or by blur.

    A convolution whose stride exceeds its kernel drops what lies between.
    """
    size = PICTURE_SIZE // 4
    strided_1x1 = unread_share(Window(kernel=1, stride=2), size, size)
    strided_3x3 = unread_share(Window(kernel=3, stride=2, pad_before=1, pad_after=1), size, size)
    versions = {
        "v1": (create("resnet50", bottleneck="v1"), strided_1x1, strided_1x1),
        "v1.5": (create("resnet50"), strided_3x3, strided_1x1),
        "v1.5, blur": (create("resnet50", downsampling="blur"), 0.0, 0.0),
    }
    return {
        name: BottleneckFigures(block_figures(network), branch, shortcut)
        for name, (network, branch, shortcut) in versions.items()
    }


@dataclass(frozen=True)
class Reducers:
    """What makes maps smaller in a network, before its head.

    Attributes:
        convolutions: with a stride, shortcuts included.
        pools: maxima and means with a stride.
        global_mean: whether its head takes one mean over the whole map.
    """

    convolutions: int
    pools: int
    global_mean: bool


def published_reducers() -> dict[str, Reducers]:
    """Count what halves in the networks that are said to pool in their head alone."""
    names = ("resnet50", "efficientnet_lite0", "convnext_tiny", "mobilenet_v2")
    return {name: count_reducers(create(name)) for name in names}


def count_reducers(network: nn.Module, size: int = 64) -> Reducers:
    """Count what makes maps smaller in a network of RGB pictures, from its traced operators."""
    nodes = module_graph(network, torch.zeros(1, 3, size, size)).nodes
    ops = [node.layer.op for node in nodes if any(edge.rows.stride > 1 for edge in node.edges)]
    ends = [node.layer.op for node in nodes if node.grid == (1, 1)]
    return Reducers(
        convolutions=ops.count("conv2d"),
        pools=ops.count("max_pool2d") + ops.count("avg_pool2d"),
        global_mean=any(op in ("mean", "adaptive_avg_pool2d") for op in ends),
    )


def shift_errors(
    shifts: tuple[float, ...], channels: int = 16, size: int = 64
) -> dict[str, list[float]]:
    """Return the error of each kind of downsampling block under shifts to the right, in pixels.

    Convolution, ReLU and pool with circular padding, the same random weights in each, on noise; see
    `aliasing.shift_error`. At stride 2 a shift by 2 leaves no error. Polyphase moves by whole
    samples, never by half of one: its error under odd shifts says nothing of its consistency.
    """
    noise = torch.randn(4, channels, size, size, generator=torch.Generator().manual_seed(0))
    return {kind: _errors(Downsampling(kind), noise, shifts) for kind in DOWNSAMPLING_KINDS}


def _errors(downsampling: Downsampling, noise: Tensor, shifts: tuple[float, ...]) -> list[float]:
    torch.manual_seed(0)
    block = downsampling_block(noise.shape[1], noise.shape[1], downsampling).eval()
    return [shift_error(block, noise, (0.0, shift)) for shift in shifts]


def field_growth(stages: int = 4) -> dict[str, tuple[int, ...]]:
    """Return the receptive field after each layer of three ways to halve a map `stages` times."""
    conv, pool, strided = Window(3, pad_before=1, pad_after=1), Window(2, 2), Window(3, 2, 1, 1)
    strategies = {
        "conv, pool": (conv, pool),
        "strided conv": (strided,),
        "conv, strided conv": (conv, strided),
    }
    chains = {name: layers * stages for name, layers in strategies.items()}
    return {
        name: tuple(closed_form(chain[: n + 1]).size for n in range(len(chain)))
        for name, chain in chains.items()
    }
