import math

import antialiased_cnns
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nyquist.models.analysis.aliasing import (
    energy_above,
    fractional_shift,
    frequency_response,
    leaked_energy,
    shift_error,
    stride_aliasing,
)
from nyquist.models.analysis.tables import aliasing_table
from nyquist.models.layers.blur import BlurPool2d, blur_kernel
from nyquist.models.layers.downsampling import DenseMaxPool2d
from nyquist.models.networks.architectures import create

NOISE = torch.randn(4, 16, 64, 64, generator=torch.Generator().manual_seed(0))


def convolution(stride: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(16, 16, 3, stride, 1, bias=False, padding_mode="circular")


def test_white_noise_has_three_quarters_of_its_energy_above_the_limit_of_stride_2() -> None:
    below = 31 / 64  # frequencies of a 64-point axis below the limit; the limit is above
    assert energy_above(NOISE, 2) == pytest.approx(1 - below**2, abs=0.005)


def test_behind_a_relu_the_mean_must_be_removed() -> None:
    assert energy_above(NOISE.relu(), 2) == pytest.approx(0.776, abs=0.015)


@pytest.mark.parametrize(("cycles", "expected"), [(15, 0.0), (16, 1.0), (31, 1.0)])
def test_a_wave_lies_above_or_below_the_limit(cycles: int, expected: float) -> None:
    wave = torch.cos(2 * torch.pi * cycles * torch.arange(64, dtype=torch.float64) / 64)

    assert energy_above(wave.expand(1, 1, 64, 64), 2) == pytest.approx(expected, abs=1e-9)


def test_a_constant_map_has_nothing_that_could_alias() -> None:
    assert energy_above(torch.full((1, 1, 8, 8), 3.0), 2) == 0


@pytest.mark.parametrize("taps", range(1, 8))
def test_the_response_of_every_blur_is_a_power_of_a_cosine(taps: int) -> None:
    frequencies = torch.linspace(0, torch.pi, 50, dtype=torch.float64)

    expected = torch.cos(frequencies / 2) ** (taps - 1)

    assert torch.allclose(frequency_response(taps, frequencies), expected, atol=1e-7)


@pytest.mark.parametrize(
    ("taps", "decibels"), [(2, -3.0), (3, -6.0), (4, -9.0), (5, -12.0), (7, -18.1)]
)
def test_each_tap_costs_three_decibels_at_the_limit(taps: int, decibels: float) -> None:
    response = frequency_response(taps, torch.tensor(torch.pi / 2)).item()

    assert 20 * math.log10(response) == pytest.approx(decibels, abs=0.05)


@pytest.mark.parametrize(
    ("taps", "share"), [(1, 0.5), (2, 0.182), (3, 0.0756), (4, 0.0331), (5, 0.0149), (7, 0.0032)]
)
def test_the_share_of_white_noise_that_leaks_above_the_limit(taps: int, share: float) -> None:
    assert leaked_energy(taps) == pytest.approx(share, abs=6e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(-9, 9), st.integers(-9, 9), st.integers(5, 8), st.integers(5, 8))
def test_a_whole_shift_is_a_roll(down: int, across: int, height: int, width: int) -> None:
    x = torch.randn(1, 2, height, width, dtype=torch.float64)

    moved = fractional_shift(x, down, across)

    assert torch.allclose(moved, x.roll((down, across), (2, 3)))


def test_two_half_shifts_of_a_slow_wave_are_a_whole_one() -> None:
    wave = torch.cos(2 * torch.pi * 3 * torch.arange(16, dtype=torch.float64) / 16)
    x = wave.expand(1, 1, 16, 16)

    twice = fractional_shift(fractional_shift(x, 0, 0.5), 0, 0.5)

    assert torch.allclose(twice, x.roll(1, 3))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("strided", 1.15),
        ("max", 0.485),
        ("avg", 0.479),
        ("blur 2", 0.479),
        ("blur 3", 0.247),
        ("blur 4", 0.138),
        ("blur 5", 0.082),
        ("blur 7", 0.031),
        ("linear 3", 0.529),
        ("linear 4", 0.396),
        ("linear 5", 0.305),
        ("max_blur 3", 0.123),
        ("max_blur 4", 0.071),
    ],
)
def test_the_shift_errors_of_the_layers_are_those_of_the_reference(
    name: str, expected: float
) -> None:
    kind, _, taps = name.partition(" ")
    blur = BlurPool2d(int(taps or 1), 2, "circular")
    dense = DenseMaxPool2d("circular")
    layers = {
        "strided": lambda x: convolution(2)(x).relu(),
        "max": lambda x: F.max_pool2d(convolution(1)(x).relu(), 2),
        "avg": lambda x: F.avg_pool2d(convolution(1)(x).relu(), 2),
        "blur": lambda x: blur(convolution(1)(x).relu()),
        "linear": lambda x: blur(convolution(1)(x)).relu(),
        "max_blur": lambda x: blur(dense(convolution(1)(x).relu())),
    }

    assert shift_error(layers[kind], NOISE) == pytest.approx(expected, rel=0.12)  # weights vary


@pytest.mark.parametrize("taps", [1, 2, 3, 4])
def test_a_shift_by_the_stride_changes_nothing(taps: int) -> None:
    assert shift_error(BlurPool2d(taps, 2, "circular"), NOISE, (2, -4)) < 1e-6


def test_a_half_pixel_shift_is_exact_for_a_linear_dense_layer() -> None:
    slow = fractional_shift(F.interpolate(NOISE, scale_factor=2, mode="bilinear"), 0, 0)

    assert shift_error(convolution(1), slow.double().float(), (0, 0.5)) < 0.02
    assert shift_error(nn.ReLU(), slow, (0, 0.5)) > 0.02


def test_an_output_of_zeros_is_refused() -> None:
    with pytest.raises(ValueError, match="puts out zeros"):
        shift_error(torch.zeros_like, NOISE)


def smooth_pictures() -> Tensor:
    return F.avg_pool2d(torch.rand(2, 1, 52, 52, generator=torch.Generator().manual_seed(1)), 5, 1)


def test_every_stride_of_a_network_is_measured_in_order() -> None:
    network = create("compact", downsampling="strided")

    lines = stride_aliasing(network, smooth_pictures())

    assert [line.name for line in lines] == ["stages.0.0", "stages.1.0", "stages.2.0", "stages.3.0"]
    assert {(line.kind, line.stride) for line in lines} == {("PaddedConv2d", 2)}
    assert network.training


def test_what_a_blur_samples_aliases_less_than_what_enters_it() -> None:
    torch.manual_seed(0)
    lines = stride_aliasing(create("compact", downsampling="blur", taps=5), smooth_pictures())

    assert [line.kind for line in lines] == ["BlurPool2d"] * 4
    assert lines
    assert all(line.sampled is not None and line.sampled < line.entering / 2 for line in lines)


def test_a_polyphase_layer_samples_what_enters_it() -> None:
    (first, *_) = stride_aliasing(create("compact", downsampling="polyphase"), smooth_pictures())

    assert first.sampled == first.entering


class TextbookBlur(nn.Module):
    """A blur as textbooks write it: a fixed depthwise convolution with a stride of two."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(4).repeat(16, 1, 1, 1))

    def padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (1, 2, 1, 2), mode="reflect")

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.padded(x), self.kernel, stride=2, groups=16)


def test_a_blur_of_anybodys_is_measured_at_stride_1() -> None:
    blur = TextbookBlur()
    twin = F.conv2d(blur.padded(NOISE), blur.kernel, groups=16)

    (line,) = stride_aliasing(nn.Sequential(blur), NOISE)

    assert (line.name, line.kind, line.stride) == ("0", "TextbookBlur", 2)
    assert line.entering == energy_above(NOISE, 2)
    assert line.sampled == pytest.approx(energy_above(twin, 2), abs=1e-6)


def test_a_published_blur_is_measured_at_stride_1() -> None:
    blur = antialiased_cnns.BlurPool(16, filt_size=4, stride=2)
    twin = F.conv2d(blur.pad(NOISE), blur.filt, groups=16)

    (line,) = stride_aliasing(blur, NOISE)

    assert line.sampled == pytest.approx(energy_above(twin, 2), abs=1e-6)


class Functional(nn.Module):
    """Reduces its map by functions and slices, and by one module at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.unshuffle = nn.PixelUnshuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.avg_pool2d(F.max_pool2d(x, 3, 2, 1), 2)
        return self.unshuffle(x[:, :, ::2, ::2] + x[:, :, 1::2, ::2]).mean((2, 3))


def test_functions_and_slices_are_named_by_the_module_that_calls_them() -> None:
    lines = stride_aliasing(nn.Sequential(Functional()), NOISE)

    assert [(line.name, line.kind) for line in lines] == [
        ("0.forward", "max_pool2d"),
        ("0.forward", "avg_pool2d"),
        ("0.forward", "slice"),
        ("0.unshuffle", "PixelUnshuffle"),
    ]
    pooled = F.max_pool2d(NOISE, 3, 1, 1)
    assert lines[0].sampled == pytest.approx(energy_above(pooled, 2), abs=1e-6)
    assert [line.sampled == line.entering for line in lines] == [False, False, True, True]


class Shrunk(nn.Module):
    """Makes its map smaller in a way that has no stride."""

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=0.5, mode="bilinear")


def test_what_cannot_be_told_is_said() -> None:
    (line,) = stride_aliasing(nn.Sequential(Shrunk(), nn.AdaptiveAvgPool2d(1)), NOISE)

    assert (line.name, line.kind, line.stride) == ("0", "Shrunk", 2)
    assert line.sampled is None
    assert list(aliasing_table([line]).columns[-1].cells) == ["not known"]
