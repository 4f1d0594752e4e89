"""How near polyphase sampling comes to another grid: by what margin each layer selects.

network -> a hook on every polyphase layer -> margins of all pictures -> misses
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nyquist.models.layers.polyphase import (
    PolyphasePair,
    PolyphasePool2d,
    largest_component,
    norm_margin,
    polyphase_components,
    select_component,
)

ROUNDING = 2e-6
"""Relative margin below which onnxruntime may select otherwise.

A map of relative l2 error e moves each norm by a share of at most e, and the margin by 2e. Seen
between PyTorch and onnxruntime: e up to 8.4e-7, in front of the last polyphase layer of
fashion_polyphase, over 63 photographs.
"""

BATCH = 64


@dataclass(frozen=True)
class Margin:
    """How sure one layer is of its selection.

    Attributes:
        layer: path of the module.
        least: over the pictures, the margin by which the largest l2 norm exceeds the next of a
            component with other content, as a share of it.
        close: indices of the pictures whose margin is below ROUNDING.
        ties: number of pictures with a tie that does not matter, both components being the same.
    """

    layer: str
    least: float
    close: tuple[int, ...]
    ties: int


def measure_margins(network: nn.Module, pictures: Tensor) -> tuple[Margin, ...]:
    """Measure every PolyphasePool2d and PolyphasePair; empty for a network without any.

    Args:
        network: in evaluation mode.
        pictures: (N, *input shape), what the network takes.
    """
    layers = {
        module: path
        for path, module in network.named_modules()
        if isinstance(module, PolyphasePool2d | PolyphasePair)
    }
    plain: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}
    distinct: dict[nn.Module, list[Tensor]] = {layer: [] for layer in layers}

    def watch(layer: PolyphasePool2d, maps: tuple[Tensor, ...], _: object) -> None:
        parts = [polyphase_components(each, layer.stride) for each in maps]
        plain[layer].append(norm_margin(parts[0]))
        distinct[layer].append(distinct_margin(*parts))

    with ExitStack() as hooks, torch.inference_mode():
        for layer in layers:
            hooks.callback(layer.register_forward_hook(watch).remove)
        for batch in pictures.split(BATCH) if layers else ():
            network(batch)
    return tuple(
        _margin(path, torch.cat(plain[layer]), torch.cat(distinct[layer]))
        for layer, path in layers.items()
    )


def distinct_margin(components: Tensor, *companions: Tensor) -> Tensor:
    """Return by how much the largest l2 norm exceeds the next of other content, as a share of it.

    Components have the same content if they, and those of every companion, are the selected ones
    but for ROUNDING; whichever of them is taken, the answer is the same. (B, K, C, H, W) -> float64
    (B,), 0..1, and 1 where all have the same content.
    """
    index = largest_component(components)
    same = torch.stack([_same_content(each, index) for each in (components, *companions)]).all(0)
    norms = components.square().double().sum(dim=(2, 3, 4)).sqrt()  # (B, K)
    largest = norms.amax(dim=1)
    following = norms.masked_fill(same, 0).amax(dim=1)
    margin = (largest - following) / largest.clamp_min(torch.finfo(torch.float64).tiny)
    return margin.masked_fill(same.all(dim=1), 1)


def misses(margins: tuple[Margin, ...]) -> list[str]:
    """Say which layers may select otherwise in onnxruntime; empty if none."""
    return list(_sentences(margins))


def _same_content(components: Tensor, index: Tensor) -> Tensor:
    """(B, K, C, H, W), (B,) -> bool (B, K)."""
    chosen = select_component(components, index).unsqueeze(1)
    distance = (components - chosen).square().double().sum(dim=(2, 3, 4))
    return distance <= ROUNDING**2 * chosen.square().double().sum(dim=(2, 3, 4))


def _margin(path: str, plain: Tensor, distinct: Tensor) -> Margin:
    close = distinct < ROUNDING
    return Margin(
        layer=path,
        least=float(distinct.min()),
        close=tuple(close.nonzero().flatten().tolist()),
        ties=int(((plain < ROUNDING) & ~close).sum()),
    )


def _sentences(margins: tuple[Margin, ...]) -> Iterator[str]:
    for margin in margins:
        if margin.close:
            others = len(margin.close) - 1
            more = f" and {others} more" if others else ""
            yield (
                f"polyphase layer {margin.layer}: picture {margin.close[0]}{more} select a grid by "
                f"a margin below {ROUNDING:.0e} (least {margin.least:.1e}): onnxruntime may "
                "select another"
            )
