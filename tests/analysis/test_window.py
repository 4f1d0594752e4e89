import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from nyquist.models.analysis.window import COMMON_WINDOWS, Window, grid_offset, reads, unread_share


def symmetric(kernel: int, stride: int, padding: int, dilation: int = 1) -> Window:
    return Window(kernel, stride, padding, padding, dilation)


@pytest.mark.parametrize(
    ("name", "size", "expected"),
    [
        ("3x3 s1 p1", 28, 28),
        ("3x3 s2 p1", 28, 14),
        ("3x3 s2 p1", 7, 4),  # an odd map rounds up
        ("4x4 s2 p1", 7, 3),  # and down
        ("3x3 s2 p0", 28, 13),
        ("3x3 s2 p0", 224, 111),
        ("7x7 s2 p3", 224, 112),
        ("3x3 s4 p1", 28, 7),
        ("4x4 s4", 224, 56),
        ("16x16 s16", 224, 14),
        ("1x1 s2", 7, 4),
    ],
)
def test_the_common_configurations_have_the_sizes_of_the_textbooks(
    name: str, size: int, expected: int
) -> None:
    assert COMMON_WINDOWS[name].output_size(size) == expected


@settings(deadline=None)
@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
)
def test_a_convolution_has_the_size_of_the_formula(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    window = symmetric(kernel, stride, padding, dilation)
    assume(size + 2 * padding >= window.span)
    layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)

    assert layer(torch.zeros(1, 1, size, size)).shape[-1] == window.output_size(size)


@settings(deadline=None)
@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 5),
    padding=st.integers(0, 3),
    ceil_mode=st.booleans(),
)
def test_a_pool_has_the_size_of_the_formula(
    size: int, kernel: int, stride: int, padding: int, ceil_mode: bool
) -> None:
    assume(2 * padding <= kernel <= size + 2 * padding)
    window = Window(kernel, stride, padding, padding, ceil_mode=ceil_mode)
    layer = nn.MaxPool2d(kernel, stride, padding, ceil_mode=ceil_mode)

    assert layer(torch.zeros(1, 1, size, size)).shape[-1] == window.output_size(size)


@settings(deadline=None)
@given(
    size=st.integers(3, 30),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 4),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_the_gradient_of_a_convolution_of_ones_counts_the_reads(
    size: int, kernel: int, stride: int, padding: int, dilation: int
) -> None:
    window = symmetric(kernel, stride, padding, dilation)
    assume(size + 2 * padding >= window.span)
    layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation, bias=False)
    nn.init.ones_(layer.weight)
    x = torch.zeros(1, 1, size, size, requires_grad=True)

    layer(x).sum().backward()

    assert x.grad is not None
    counts = reads(window, size)
    assert torch.equal(x.grad[0, 0].long(), torch.outer(counts, counts))
    assert unread_share(window, size, size) == pytest.approx((x.grad == 0).double().mean().item())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("3x3 s4 p1", 1 - (20 / 28) ** 2),
        ("3x3 s2 p0", 1 - (27 / 28) ** 2),
        ("1x1 s2", 0.75),
        ("3x3 s2 p1", 0.0),
        ("2x2 s2", 0.0),
        ("4x4 s2 p1", 0.0),
    ],
)
def test_the_share_of_a_28x28_map_that_is_never_read(name: str, expected: float) -> None:
    assert unread_share(COMMON_WINDOWS[name], 28, 28) == pytest.approx(expected, abs=1e-12)


def test_a_3x3_window_of_stride_4_leaves_48_98_percent_unread() -> None:
    assert f"{unread_share(symmetric(3, 4, 1), 28, 28):.2%}" == "48.98%"
    assert unread_share(symmetric(3, 4, 1), 4000, 4000) == pytest.approx(7 / 16, abs=1e-3)


def test_a_stride_that_does_not_divide_the_kernel_reads_unevenly() -> None:
    assert reads(symmetric(3, 2, 1), 8).tolist() == [1, 2, 1, 2, 1, 2, 1, 1]
    assert reads(symmetric(4, 2, 1), 8).tolist() == [1, 2, 2, 2, 2, 2, 2, 1]


@pytest.mark.parametrize(
    ("kernel", "size", "offset"), [(3, 8, -0.5), (4, 8, 0.0), (3, 9, 0.0), (4, 9, -0.5)]
)
def test_kernel_and_axis_must_both_be_even_or_both_odd_to_be_centred(
    kernel: int, size: int, offset: float
) -> None:
    assert grid_offset(symmetric(kernel, 2, 1), size) == offset


def test_a_last_window_that_starts_in_the_padding_does_not_count() -> None:
    assert Window(1, stride=2, ceil_mode=True).output_size(4) == 2
    assert Window(2, stride=3, pad_before=1, pad_after=1, ceil_mode=True).output_size(5) == 2


def test_a_window_longer_than_its_axis_is_refused() -> None:
    with pytest.raises(ValueError, match="needs an axis of at least 5 with these pads, got 3"):
        Window(7, pad_before=1, pad_after=1).output_size(3)


@pytest.mark.parametrize(
    ("name", "kernel", "stride", "dilation"),
    [("kernel", 0, 1, 1), ("stride", 3, 0, 1), ("dilation", 3, 1, 0)],
)
def test_an_argument_below_one_is_refused(
    name: str, kernel: int, stride: int, dilation: int
) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Window(kernel, stride, dilation=dilation)
