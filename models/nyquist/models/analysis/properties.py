"""What one layer that halves a map costs and does, row by row of the usual table.

>>> x = torch.zeros(1, 4, 8, 8)
>>> saved_bytes(nn.MaxPool2d(2), x)
{'float32': 1024, 'int64': 512}
>>> operations(nn.MaxPool2d(2), x)
Operations(multiply_adds=0, additions=0, comparisons=192)
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from statistics import quantiles
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nyquist.models.analysis.aliasing import shift_error
from nyquist.models.analysis.gradients import Downsampler, gradient_statistics
from nyquist.models.layers.blur import BlurPool2d

ROUNDS = 9


@dataclass(frozen=True)
class Operations:
    """What a layer computes, summed over a batch; a window at the border counts as a whole one.

    Attributes:
        multiply_adds: of convolutions.
        additions: of means, the division not counted.
        comparisons: of maxima.
    """

    multiply_adds: int = 0
    additions: int = 0
    comparisons: int = 0


@dataclass(frozen=True)
class Spread:
    """Wall time of one forward pass, seconds: median and quartiles over rounds."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class Properties:
    """One layer.

    Attributes:
        parameters: learned values.
        nonlinearity: ||F(a + b) - F(a) - F(b)|| / ||F(a + b)|| on noise, of the layer without bias:
            0 for a linear one.
        zeros: share of the input's elements whose gradient is exactly zero, 0..1.
        gradient_sum: of the input's gradients over that of the output's.
        shift_error: under a shift by one pixel, borders included; see aliasing.shift_error.
        saved: bytes that autograd keeps for the backward pass, by type; parameters not counted.
        operations: of the forward pass.
        time: of the forward pass.
    """

    parameters: int
    nonlinearity: float
    zeros: float
    gradient_sum: float
    shift_error: float
    saved: Mapping[str, int]
    operations: Operations
    time: Spread


def saved_bytes(layer: Downsampler, x: Tensor) -> dict[str, int]:
    """Return the bytes of activations that autograd keeps for the backward pass, by their type.

    Measured by hooks on what is saved; a tensor that is saved twice counts once, parameters and
    buffers not at all: they are there anyway.
    """
    owned = layer.state_dict().values() if isinstance(layer, nn.Module) else ()
    own = {part.untyped_storage().data_ptr() for part in owned}
    if isinstance(layer, nn.Module):
        own |= {part.untyped_storage().data_ptr() for part in layer.buffers()}
    kept: dict[int, Tensor] = {}

    def keep(saved: Tensor) -> Tensor:
        place = saved.untyped_storage().data_ptr()
        if place not in own:
            kept.setdefault(place, saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        layer(x.detach().clone().requires_grad_())
    found: Counter[str] = Counter()
    for saved in kept.values():
        found[str(saved.dtype).removeprefix("torch.")] += saved.untyped_storage().nbytes()
    return dict(found)


def operations(layer: Downsampler, x: Tensor) -> Operations:
    """Count what a forward pass computes, whoever wrote it: convolutions, maxima, means."""
    with torch.no_grad(), _Counter() as counter:
        layer(x)
    return Operations(counter.found["mac"], counter.found["add"], counter.found["compare"])


def forward_times(
    layers: Mapping[str, Downsampler], x: Tensor, rounds: int = ROUNDS
) -> dict[str, Spread]:
    """Time the forward pass of each layer, all of them in every round, so that neighbours agree.

    Args:
        layers: by name.
        x: what all of them take.
        rounds: at least 2; one more goes before, unmeasured.
    """
    seconds: dict[str, list[float]] = {name: [] for name in layers}
    with torch.no_grad():
        for at in range(rounds + 1):
            for name, layer in layers.items():
                start = perf_counter()
                layer(x)
                if at:
                    seconds[name].append(perf_counter() - start)
    return {name: Spread(*quantiles(taken, n=4)) for name, taken in seconds.items()}


def compared_layers(channels: int) -> dict[str, nn.Module]:
    """Return the layers of the table: strided convolution, maximum, mean, blur."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        strided = nn.Conv2d(channels, channels, 3, 2, 1)
    pools = {"max pool": nn.MaxPool2d(2), "avg pool": nn.AvgPool2d(2), "blur": BlurPool2d(4)}
    return {"strided conv": strided, **pools}


def properties(channels: int = 64, size: int = 56, batch: int = 8) -> dict[str, Properties]:
    """Measure every layer of the table on one batch of noise."""
    layers = compared_layers(channels)
    x, other = (
        torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 1)
    )
    times = forward_times(layers, x)
    return {
        name: _properties(layer, x[:1], other[:1], saved_bytes(layer, x), times[name])
        for name, layer in layers.items()
    }


def _properties(
    layer: nn.Module, x: Tensor, other: Tensor, saved: Mapping[str, int], time: Spread
) -> Properties:
    gradient = gradient_statistics(layer, x)
    return Properties(
        parameters=sum(part.numel() for part in layer.parameters()),
        nonlinearity=_nonlinearity(layer, x, other),
        zeros=gradient.sparsity,
        gradient_sum=gradient.sum_ratio,
        shift_error=shift_error(layer, x),
        saved=saved,
        operations=operations(layer, x),
        time=time,
    )


@torch.no_grad()
def _nonlinearity(layer: nn.Module, x: Tensor, other: Tensor) -> float:
    still = layer(torch.zeros_like(x))
    together = layer(x + other) - still
    apart = layer(x) + layer(other) - 2 * still
    return float((together - apart).norm() / together.norm())


class _Counter(TorchDispatchMode):
    """Counts as operators run."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        given = func(*args, **(kwargs or {}))
        kind, work = _WORK.get(func.overloadpacket.__name__, ("", None))
        if work is not None:
            output = given[0] if isinstance(given, tuple) else given
            self.found[kind] += output.numel() * work(args)
        return given


def _of_others(args: tuple[Any, ...]) -> int:
    return prod(args[1]) - 1


_WORK: Mapping[str, tuple[str, Callable[[tuple[Any, ...]], int]]] = {
    "convolution": ("mac", lambda args: args[1][0].numel()),
    "max_pool2d_with_indices": ("compare", _of_others),
    "avg_pool2d": ("add", _of_others),
}
"""By the operator's name in ATen: what it does, and how often for one element of its output."""
