"""What a stride folds: energy above the new Nyquist limit, responses of filters, shift errors.

Frequencies are angular, radians a sample; stride s keeps what lies below pi / s on both axes.

>>> [round(leaked_energy(taps), 3) for taps in (1, 3, 5)]
[0.5, 0.076, 0.015]
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from nyquist.models.analysis.module_graph import evaluating
from nyquist.models.layers.blur import BlurPool2d, blur_kernel


@dataclass(frozen=True)
class StrideAliasing:
    """What one striding layer does to the spectrum.

    Attributes:
        name: of the layer in its network.
        kind: its class.
        stride: along the height.
        entering: share of the energy of its input above the new limit, mean removed, 0..1.
        sampled: the same for what it computes at stride 1, of which every stride-th sample is kept:
            this is what aliases.
    """

    name: str
    kind: str
    stride: int
    entering: float
    sampled: float


class _Strided(Protocol):
    stride: int | tuple[int, ...]


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
    """Measure every striding layer of a network, in the order in which they run.

    A striding layer is a module with an attribute `stride` above 1 that works the same with stride
    1: convolutions, pools and blurs. One that selects among sampled grids is measured as it enters.

    Args:
        network: measured in evaluation mode; its mode is the same afterwards.
        pictures: (B, C, H, W), real ones: noise has no spectrum of its own.
    """
    found: list[StrideAliasing] = []

    def measure(name: str, module: nn.Module, x: Tensor) -> None:
        stride = _first(cast(_Strided, module).stride)
        entering = energy_above(x, stride)
        dense = dense_twin(module)
        sampled = entering if dense is None else energy_above(dense(x), stride)
        found.append(StrideAliasing(name, type(module).__name__, stride, entering, sampled))

    handles = [
        module.register_forward_pre_hook(
            lambda module, inputs, name=name: measure(name, module, inputs[0])
        )
        for name, module in network.named_modules()
        if _first(getattr(module, "stride", 1)) > 1 and not any(True for _ in module.children())
    ]
    try:
        with evaluating(network), torch.no_grad():
            network(pictures)
    finally:
        for handle in handles:
            handle.remove()
    return tuple(found)


def dense_twin(module: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """Return what a striding layer computes before it drops samples, None if that is its input."""
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d | BlurPool2d):
        return None
    twin = copy.copy(module)  # shares the weights; its hooks are passed by
    twin.stride = (1, 1) if isinstance(module, nn.Conv2d) else 1
    return twin.forward


def _first(stride: int | tuple[int, ...]) -> int:
    return stride if isinstance(stride, int) else stride[0]


def _phase(size: int, shift: float) -> Tensor:
    """Return exp(-i w shift) for the frequencies of an FFT, complex128 (size,)."""
    angle = 2 * torch.pi * torch.fft.fftfreq(size, dtype=torch.float64) * shift
    phase = torch.polar(torch.ones_like(angle), -angle)
    if size % 2 == 0:
        phase[size // 2] = torch.cos(torch.tensor(torch.pi * shift, dtype=torch.float64))
    return phase
