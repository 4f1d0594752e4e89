"""What a stride folds: energy above the new Nyquist limit, responses of filters, shift errors.

Frequencies are angular, radians a sample; stride s keeps what lies below pi / s on both axes.

>>> [round(leaked_energy(taps), 3) for taps in (1, 3, 5)]
[0.5, 0.076, 0.015]
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from nyquist.models.analysis.module_graph import evaluating
from nyquist.models.layers.blur import blur_kernel
from nyquist.models.layers.polyphase import PolyphasePair, PolyphasePool2d


@dataclass(frozen=True)
class StrideAliasing:
    """What one striding layer does to the spectrum.

    Attributes:
        name: of the layer in its network; `NAME.forward` of what module NAME calls as a function.
        kind: its class, or the function's name.
        stride: along the height.
        entering: share of the energy of its input above the new limit, mean removed, 0..1.
        sampled: the same for what it computes at stride 1, of which every stride-th sample is kept:
            this is what aliases. None where that cannot be told.
    """

    name: str
    kind: str
    stride: int
    entering: float
    sampled: float | None


def energy_above(x: Tensor, stride: int) -> float:
    """Return the share, 0..1, of a map's energy at max(|wy|, |wx|) >= pi / stride.

    The mean of each channel is removed first: behind a ReLU it holds most of the energy, and it
    does not alias. White noise has about 1 - 1 / stride ** 2. A constant map has 0.

    Args:
        x: (B, C, H, W).
        stride: of the sampling that follows, at least 1.
    """
    centred = (x - x.mean(dim=(2, 3), keepdim=True)).double()
    power = torch.fft.fft2(centred).abs().square()  # (B, C, H, W)
    down = torch.fft.fftfreq(x.shape[2], dtype=torch.float64).abs()[:, None]
    across = torch.fft.fftfreq(x.shape[3], dtype=torch.float64).abs()[None, :]
    above = torch.maximum(down, across) >= 1 / (2 * stride)
    total = power.sum()
    return float((power * above).sum() / total) if total > 0 else 0.0


def frequency_response(taps: int, frequencies: Tensor) -> Tensor:
    """Return |H(w)| of the binomial blur along one axis, from its taps; shaped as `frequencies`.

    In closed form cos(w / 2) ** (taps - 1): at the limit of stride 2, w = pi / 2, it is -3.0 dB for
    each tap after the first.

    Raises:
        ValueError: taps is not in 1..7.
    """
    row = blur_kernel(taps).double().sum(0)  # (taps,)
    angles = frequencies.double()[..., None] * torch.arange(taps, dtype=torch.float64)
    real, imaginary = (row * angles.cos()).sum(-1), (row * angles.sin()).sum(-1)
    return torch.hypot(real, imaginary)


def leaked_energy(taps: int, stride: int = 2, samples: int = 4096) -> float:
    """Return the share of white noise, along one axis, that a blur leaves above pi / stride.

    Numerical mean of |H(w)| ** 2 over pi / stride < w < pi, over that of a whole unfiltered axis.
    """
    middle = (torch.arange(samples, dtype=torch.float64) + 0.5) * torch.pi / samples
    power = frequency_response(taps, middle).square()
    return float(power[middle > torch.pi / stride].sum() / power.sum())


def fractional_shift(x: Tensor, down: float, across: float) -> Tensor:
    """Shift a map circularly by a fraction of a pixel, through its spectrum. (B, C, H, W), alike.

    Whole pixels are torch.roll. The component at w = pi of an even axis has no sign of frequency:
    its part that a real signal can carry is kept, cos(pi * shift).
    """
    phase = _phase(x.shape[2], down)[:, None] * _phase(x.shape[3], across)[None, :]
    shifted = torch.fft.ifft2(torch.fft.fft2(x.double()) * phase.to(x.device))
    return shifted.real.to(x.dtype)


def shift_error(
    layer: Callable[[Tensor], Tensor], x: Tensor, shift: tuple[float, float] = (0.0, 1.0)
) -> float:
    """Return ||T_{d/s} F(x) - F(T_d x)|| / ||F(T_d x)||: 0 for a layer that shifts with its input.

    T moves circularly through the spectrum; the layer must pad circularly, or borders count too.
    Its stride s is the ratio of the sizes. A shift by s gives 0 for every such layer.

    Args:
        layer: (B, C, H, W) -> (B, C', H / s, W / s).
        x: input.
        shift: d, pixels down and to the right; half pixels too.

    Raises:
        ValueError: the output is constant, so that there is nothing to compare.
    """
    with torch.no_grad():
        still, moved = layer(x), layer(fractional_shift(x, *shift))
    expected = fractional_shift(
        still,
        shift[0] * still.shape[2] / x.shape[2],
        shift[1] * still.shape[3] / x.shape[3],
    )
    norm = moved.norm()
    if norm == 0:
        raise ValueError("the layer puts out zeros; shift another input")
    return float((expected - moved).norm() / norm)


def stride_aliasing(network: nn.Module, pictures: Tensor) -> tuple[StrideAliasing, ...]:
    """Measure everything in a network that drops samples of a map, in the order in which it runs.

    Operators are watched as they run, so that it matters neither in which module they lie nor
    whose: convolutions, pools and slices with a stride are run once more with stride 1. A layer
    that makes its map smaller in another way (by reshaping, by interpolation) has no figure of what
    it samples. Our polyphase layers select among sampled grids: they sample what enters them. Maps
    are (B, C, H, W); a head that leaves one value a channel drops nothing.

    Args:
        network: measured in evaluation mode; its mode is the same afterwards.
        pictures: (B, C, H, W), real ones: noise has no spectrum of its own.
    """
    watch = _Watch()
    handles = [watch.enter(name, module) for name, module in network.named_modules()]
    handles += [module.register_forward_hook(watch.leave) for module in network.modules()]
    try:
        with evaluating(network), torch.no_grad(), watch:
            network(pictures)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(watch.found)


@dataclass(frozen=True)
class _Running:
    """A module whose forward runs; `before` is how many lines there were when it began."""

    name: str
    module: nn.Module
    x: object
    before: int


class _Watch(TorchDispatchMode):
    """Sees every operator of a forward pass, and measures those that drop samples."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self.found: list[StrideAliasing] = []
        self._running: list[_Running] = []
        self._sliced: Tensor | None = None

    def enter(self, name: str, module: nn.Module) -> RemovableHandle:
        """Note, from now on, when a module begins to run."""

        def begin(module: nn.Module, inputs: tuple[object, ...]) -> None:
            x = inputs[0] if inputs else None
            self._running.append(_Running(name, module, x, len(self.found)))

        return module.register_forward_pre_hook(begin)

    def leave(self, module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
        """Say of a module that made its map smaller, by nothing that was seen, that it did."""
        done = self._running.pop()
        x, y = done.x, output[0] if isinstance(output, tuple) else output
        if len(self.found) > done.before or not (_is_map(x) and _is_map(y)):
            return
        stride = round(x.shape[2] / y.shape[2])
        if stride < 2 or tuple(y.shape[2:]) == (1, 1):
            return
        entering = energy_above(x, stride)
        sampled = entering if isinstance(module, PolyphasePool2d | PolyphasePair) else None
        kind = type(module).__name__
        self.found.append(StrideAliasing(done.name or kind, kind, stride, entering, sampled))

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - torch's own signature
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        function, dense_of = _DROPPING.get(func.overloadpacket.__name__, ("", None))
        if dense_of is not None and self._running and _is_map(args[0]):
            stride, dense = dense_of(*args)
            if stride > 1:
                self._measure(function, args[0], stride, dense)
        return func(*args, **(kwargs or {}))

    def _measure(
        self, function: str, x: Tensor, stride: int, dense: Callable[[], Tensor] | None
    ) -> None:
        if dense is None and x is self._sliced:
            return  # another grid of the same map
        self._sliced = x if dense is None else None
        running = self._running[-1]
        name, kind, whole = f"{running.name}.forward".strip("."), function, x
        if not any(True for _ in running.module.children()):
            name, kind = running.name or name, type(running.module).__name__
            if _is_map(running.x):  # before the module padded it
                whole = running.x
        entering = energy_above(whole, stride)
        sampled = energy_above(x if dense is None else dense(), stride)
        self.found.append(StrideAliasing(name, kind, stride, entering, sampled))


_Dense: TypeAlias = tuple[int, Callable[[], Tensor] | None]
"""The stride of an operator, and what it computes with stride 1; None if that is its input."""


def _convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,  # noqa: FBT001 - the operator's signature
    _output_padding: list[int],
    groups: int,
) -> _Dense:
    return (1 if transposed else stride[0]), lambda: F.conv2d(
        x, weight, bias, 1, padding, dilation, groups
    )


def _max_pool(
    x: Tensor,
    kernel: list[int],
    stride: list[int] | None = None,
    padding: list[int] | int = 0,
    dilation: list[int] | int = 1,
    *_: object,
) -> _Dense:
    return (stride or kernel)[0], lambda: F.max_pool2d(x, kernel, 1, padding, dilation)


def _average_pool(
    x: Tensor,
    kernel: list[int],
    stride: list[int] | None = None,
    padding: list[int] | int = 0,
    *_: object,
) -> _Dense:
    return (stride or kernel)[0], lambda: F.avg_pool2d(x, kernel, 1, padding)


def _slice(
    _x: Tensor, dim: int = 0, _start: object = None, _end: object = None, step: int = 1
) -> _Dense:
    rows = 2
    return (step if dim == rows else 1), None


_DROPPING: dict[str, tuple[str, Callable[..., _Dense]]] = {
    "convolution": ("conv2d", _convolution),
    "max_pool2d_with_indices": ("max_pool2d", _max_pool),
    "avg_pool2d": ("avg_pool2d", _average_pool),
    "slice": ("slice", _slice),
    "pixel_unshuffle": ("pixel_unshuffle", lambda _x, factor: (factor, None)),
}
"""By the operator's name in ATen: the function that people call, and what it is when dense."""


def _is_map(x: object) -> TypeGuard[Tensor]:
    return isinstance(x, Tensor) and x.dim() == 4 and x.is_floating_point()


def _phase(size: int, shift: float) -> Tensor:
    """Return exp(-i w shift) for the frequencies of an FFT, complex128 (size,)."""
    angle = 2 * torch.pi * torch.fft.fftfreq(size, dtype=torch.float64) * shift
    phase = torch.polar(torch.ones_like(angle), -angle)
    if size % 2 == 0:
        phase[size // 2] = torch.cos(torch.tensor(torch.pi * shift, dtype=torch.float64))
    return phase
