from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nyquist.models.layers.padding import PAD_MODES, PaddedConv2d, PadMode, check_pad_mode, pad2d

Parity = Callable[[nn.Module, Tensor], float]


def integers(*shape: int, seed: int = 0) -> Tensor:
    """Return random whole numbers as float32, on which sums are exact in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-8, 9, shape, generator=generator).float()


@pytest.mark.parametrize(
    ("pad_mode", "expected"),
    [
        ("reflect", [3.0, 2.0, 1.0, 2.0, 3.0, 2.0]),
        ("replicate", [1.0, 1.0, 1.0, 2.0, 3.0, 3.0]),
        ("zero", [0.0, 0.0, 1.0, 2.0, 3.0, 0.0]),
        ("circular", [2.0, 3.0, 1.0, 2.0, 3.0, 1.0]),
    ],
)
def test_a_row_continues_as_its_pad_mode_says(pad_mode: PadMode, expected: list[float]) -> None:
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    column = row.transpose(2, 3)

    assert pad2d(row, (2, 1, 0, 0), pad_mode).flatten().tolist() == expected
    assert pad2d(column, (0, 0, 2, 1), pad_mode).flatten().tolist() == expected


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_pads_are_left_right_top_bottom(pad_mode: PadMode) -> None:
    x = torch.arange(20.0).view(1, 1, 4, 5)

    padded = pad2d(x, (1, 2, 0, 3), pad_mode)

    assert padded.shape == (1, 1, 4 + 0 + 3, 5 + 1 + 2)
    assert torch.equal(padded[..., 0:4, 1:6], x)


def test_circular_corners_come_from_the_opposite_corner() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)

    padded = pad2d(x, (1, 1, 1, 1), "circular")[0, 0]

    assert padded[0, 0] == 8
    assert padded[0, -1] == 6
    assert padded[-1, 0] == 2
    assert padded[-1, -1] == 0


@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    pads=st.tuples(*[st.integers(0, 3)] * 4),
)
@settings(max_examples=60, deadline=None)
def test_circular_padding_agrees_with_that_of_torch(
    size: tuple[int, int], pads: tuple[int, int, int, int]
) -> None:
    x = torch.arange(2.0 * size[0] * size[1]).view(1, 2, *size)

    assert torch.equal(pad2d(x, pads, "circular"), F.pad(x, pads, mode="circular"))


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 1, 0, 1), (1, 0, 0, 0), (0, 0, 0, 0)])
def test_circular_padding_keeps_channels_last(pads: tuple[int, int, int, int]) -> None:
    x = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)

    assert pad2d(x, pads, "circular").is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("pad_mode", "uses"),
    [
        ("reflect", [1.0, 3.0, 2.0]),
        ("replicate", [3.0, 1.0, 2.0]),
        ("zero", [1.0, 1.0, 1.0]),
        ("circular", [2.0, 2.0, 2.0]),
    ],
)
def test_the_gradient_of_a_sample_counts_where_it_is_used(
    pad_mode: PadMode, uses: list[float]
) -> None:
    row = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3).requires_grad_()

    pad2d(row, (2, 1, 0, 0), pad_mode).sum().backward()

    assert row.grad is not None
    assert row.grad.flatten().tolist() == uses


@pytest.mark.parametrize(
    ("pad_mode", "pads"), [("circular", (4, 0, 0, 0)), ("reflect", (0, 0, 0, 3))]
)
def test_a_pad_beyond_the_axis_is_refused(
    pad_mode: PadMode, pads: tuple[int, int, int, int]
) -> None:
    with pytest.raises((RuntimeError, ValueError)):
        pad2d(torch.zeros(1, 1, 3, 3), pads, pad_mode)


def test_a_convolution_of_even_kernel_size_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, got 2"):
        PaddedConv2d(1, 1, kernel_size=2, stride=1, pad_mode="zero")


def test_an_unknown_pad_mode_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'mirror'.*reflect, replicate, zero, circular"):
        check_pad_mode("mirror")


def test_a_convolution_of_unknown_pad_mode_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'mirror'.*reflect, replicate, zero, circular"):
        PaddedConv2d(1, 1, 3, 1, pad_mode="mirror")  # type: ignore[arg-type] # the test's point


@pytest.mark.parametrize("pad_mode", PAD_MODES)
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(("stride", "height", "width"), [(1, 7, 8), (2, 4, 4), (2, 3, 4)])
def test_a_padded_convolution_gives_the_size_over_its_stride_rounded_up(
    pad_mode: PadMode, kernel_size: int, stride: int, height: int, width: int
) -> None:
    conv = PaddedConv2d(2, 3, kernel_size, stride, pad_mode)

    out = conv(torch.rand(2, 2, height, width))

    assert out.shape == (2, 3, (height + stride - 1) // stride, (width + stride - 1) // stride)


@pytest.mark.parametrize(
    ("pad_mode", "corner", "edge"),
    [("reflect", 9, 9), ("replicate", 9, 9), ("circular", 9, 9), ("zero", 4, 6)],
)
def test_a_sum_of_nine_ones_loses_at_the_border_under_zero_padding_alone(
    pad_mode: PadMode, corner: int, edge: int
) -> None:
    conv = PaddedConv2d(1, 1, 3, 1, pad_mode)
    nn.init.ones_(conv.weight)

    out = conv(torch.ones(1, 1, 4, 4))[0, 0]

    assert out[0, 0] == out[3, 3] == corner
    assert out[0, 1] == out[2, 3] == edge
    assert out[1, 1] == 9


def test_a_padded_convolution_has_no_bias() -> None:
    conv = PaddedConv2d(2, 3, 3, 1, "circular")

    assert [name for name, _ in conv.named_parameters()] == ["weight"]
    assert torch.equal(conv(torch.zeros(1, 2, 4, 4)), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_circular_convolution_moves_with_its_input(stride: int) -> None:
    conv = PaddedConv2d(2, 3, 3, stride, "circular")
    nn.init.constant_(conv.weight, 1.0)
    conv.weight.data[:, :, 0, 2] = -3.0
    x = integers(2, 2, 8, 8)

    moved = conv(x.roll((stride, -3 * stride), dims=(2, 3)))

    assert torch.equal(moved, conv(x).roll((1, -3), dims=(2, 3)))


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_the_gradient_of_a_padded_convolution_is_right(pad_mode: PadMode) -> None:
    conv = PaddedConv2d(2, 2, 3, 2, pad_mode).double()
    x = torch.rand(1, 2, 4, 5, dtype=torch.double, requires_grad=True)

    assert torch.autograd.gradcheck(conv, x)


def test_an_exported_padded_convolution_computes_the_same(parity: Parity) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*(PaddedConv2d(2, 2, 3, 1, pad_mode) for pad_mode in PAD_MODES))

    assert parity(network, torch.randn(5, 2, 6, 7)) <= 1e-5


def test_a_padded_convolution_shows_its_pad_mode() -> None:
    assert "pad_mode=replicate" in repr(PaddedConv2d(1, 1, 3, 1, "replicate"))


def test_a_padded_convolution_may_be_depthwise_and_have_a_bias() -> None:
    conv = PaddedConv2d(4, 4, 3, stride=2, pad_mode="circular", groups=4, bias=True)

    assert conv.weight.shape == (4, 1, 3, 3)
    assert conv.bias is not None
    assert conv(torch.rand(2, 4, 6, 8)).shape == (2, 4, 3, 4)
