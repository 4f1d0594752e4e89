"""Parameters and multiply-adds of a network, layer by layer, without computing anything."""

import copy
import warnings
from dataclasses import dataclass

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from nyquist.models.analysis.module_graph import evaluating
from nyquist.models.layers.blocks import AntialiasedConv, LinearBlurConv


@dataclass(frozen=True)
class LayerCost:
    """What one module costs, its children not counted.

    Attributes:
        name: of the module, "" for the network itself.
        kind: its class.
        parameters: its own, trained or not; buffers are not counted.
        multiply_adds: of its convolutions and matrix products for one picture; a blur counts, sums,
            maxima and norms do not.
    """

    name: str
    kind: str
    parameters: int
    multiply_adds: int


@dataclass(frozen=True)
class Cost:
    """What a network costs for one picture.

    Attributes:
        layers: the modules that have parameters or multiply, in the order of the network.
    """

    layers: tuple[LayerCost, ...]

    @property
    def parameters(self) -> int:
        """Sum over all layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def multiply_adds(self) -> int:
        """Sum over all layers."""
        return sum(layer.multiply_adds for layer in self.layers)


def cost(network: nn.Module, picture_shape: tuple[int, int, int]) -> Cost:
    """Count what a network costs for one picture.

    It is counted on the meta device, which computes nothing. A program runs where it was exported:
    its nodes may name that device.

    Args:
        network: takes (1, C, H, W); is not changed. A parameter that two modules share is counted
            once, in the first.
        picture_shape: (C, H, W).
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's, of copying a program of its own
        network = copy.deepcopy(network)
    exported = any(isinstance(module, fx.GraphModule) for module in network.modules())
    device = "cpu" if exported else "meta"
    network.to(device)
    counter = FlopCounterMode(display=False)
    with evaluating(network), torch.no_grad(), counter:
        network(torch.zeros(1, *picture_shape, device=device))
    prefix = type(network).__name__
    totals = {  # a module's own figure and those of its children
        name.removeprefix(prefix).removeprefix("."): sum(operators.values()) // 2
        for name, operators in counter.get_flop_counts().items()
        if name != "Global"
    }
    counted: set[int] = set()
    layers = []
    for name, module in network.named_modules():
        path = f"{name}." if name else ""
        children = sum(totals.get(path + child, 0) for child, _ in module.named_children())
        own = [p for p in module.parameters(recurse=False) if id(p) not in counted]
        counted.update(map(id, own))
        parameters, work = sum(p.numel() for p in own), totals.get(name, 0) - children
        if parameters or work:
            layers.append(LayerCost(name, type(module).__name__, parameters, work))
    return Cost(tuple(layers))


def halving_blocks(in_channels: int = 64, out_channels: int = 128) -> dict[str, nn.Module]:
    """Return ways to halve a map; the anti-aliased ones blur with 4 taps.

    The first two have a bias in front of their norm, as they are usually written; ours have none.
    Those that convolve at every position drop three of four.
    """

    def block(stride: int, *pool: nn.Module) -> nn.Module:
        conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1)
        return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU(), *pool)

    return {
        "conv + max pool": block(1, nn.MaxPool2d(2)),
        "strided conv": block(2),
        "anti-aliased conv": AntialiasedConv(in_channels, out_channels),
        "conv + blur, linear": LinearBlurConv(in_channels, out_channels),
    }
