from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nyquist.models.layers.downsampling import (
    DOWNSAMPLING_KINDS,
    AntialiasedMaxPool,
    DenseMaxPool2d,
    Downsampling,
    DownsamplingKind,
)
from nyquist.models.layers.padding import PAD_MODES, PaddedConv2d, PadMode

Parity = Callable[[nn.Module, Tensor], float]


def halving(kind: DownsamplingKind, pad_mode: PadMode = "circular") -> nn.Sequential:
    """Return a 1x1 identity convolution and the pool behind it, as an architecture joins them."""
    downsampling = Downsampling(kind, pad_mode=pad_mode)
    conv = PaddedConv2d(1, 1, 1, downsampling.conv_stride, pad_mode)
    nn.init.ones_(conv.weight)
    return nn.Sequential(conv, downsampling.pool())


def integers(*shape: int) -> Tensor:
    """Return random whole numbers as float32, on which these pools round nothing."""
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()


def test_there_are_six_kinds() -> None:
    kinds = ("max_pool", "avg_pool", "strided", "blur", "max_blur", "polyphase")

    assert kinds == DOWNSAMPLING_KINDS


@pytest.mark.parametrize("pad_mode", PAD_MODES)
@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_each_kind_halves(kind: DownsamplingKind, pad_mode: PadMode) -> None:
    out = halving(kind, pad_mode)(torch.rand(3, 1, 8, 12))

    assert out.shape == (3, 1, 4, 6)


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_only_the_strided_kind_lets_the_convolution_halve(kind: DownsamplingKind) -> None:
    assert Downsampling(kind).conv_stride == (2 if kind == "strided" else 1)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("max_pool", [[6, 8], [14, 16]]),
        ("avg_pool", [[3.5, 5.5], [11.5, 13.5]]),
        ("strided", [[1, 3], [9, 11]]),
        ("polyphase", [[6, 8], [14, 16]]),
        # x is 4 row + column + 1; 1/4 1/2 1/4 turns the indices 3 0 1 into 1, and 1 2 3 into 2
        ("blur", [[6, 7], [10, 11]]),
        # the maximum turns the indices 0 1 2 3 into 1 2 3 3; of these 3 1 2 gives 1.75, 2 3 3 2.75
        ("max_blur", [[9.75, 10.75], [13.75, 14.75]]),
    ],
)
def test_each_kind_gives_the_values_worked_by_hand(
    kind: DownsamplingKind, expected: list[list[float]]
) -> None:
    x = torch.arange(1.0, 17.0).view(1, 1, 4, 4)

    assert halving(kind)(x)[0, 0].tolist() == expected


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_a_constant_map_stays_constant_under_circular_padding(kind: DownsamplingKind) -> None:
    assert torch.equal(halving(kind)(torch.full((1, 1, 8, 8), 2.0)), torch.full((1, 1, 4, 4), 2.0))


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_a_shift_by_two_moves_the_output_by_exactly_one_sample(kind: DownsamplingKind) -> None:
    x = integers(2, 1, 8, 12)

    moved = halving(kind)(x.roll((2, -4), dims=(2, 3)))

    assert torch.equal(moved, halving(kind)(x).roll((1, -2), dims=(2, 3)))


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_a_shift_by_one_only_moves_the_output_of_the_polyphase_kind(kind: DownsamplingKind) -> None:
    x = integers(1, 1, 8, 8)

    before, after = halving(kind)(x), halving(kind)(x.roll(1, dims=3))

    only_moved = any(torch.equal(after, before.roll(step, dims=3)) for step in range(4))
    assert only_moved == (kind == "polyphase")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("max_pool", [[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1]]),
        ("avg_pool", [[0.25] * 4] * 4),
        ("strided", [[1, 0, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]),
        ("blur", [[0.25] * 4] * 4),
        ("polyphase", [[0, 0, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0], [0, 1, 0, 1]]),
        # the blur gives 1/2 to each index of the maximum, which are the indices 1 2 3 3 of x
        (
            "max_blur",
            [[0, 0, 0, 0], [0, 0.25, 0.25, 0.5], [0, 0.25, 0.25, 0.5], [0, 0.5, 0.5, 1]],
        ),
    ],
)
def test_each_kind_spreads_the_gradient_as_worked_by_hand(
    kind: DownsamplingKind, expected: list[list[float]]
) -> None:
    x = torch.arange(1.0, 17.0).view(1, 1, 4, 4).requires_grad_()

    halving(kind)(x).sum().backward()

    assert x.grad is not None
    assert x.grad[0, 0].tolist() == expected


class EveryPool(nn.Module):
    """The outputs of every kind under two pad modes, side by side."""

    def __init__(self) -> None:
        super().__init__()
        pad_modes: tuple[PadMode, ...] = ("circular", "zero")
        self.pools = nn.ModuleList(
            halving(kind, pad_mode) for kind in DOWNSAMPLING_KINDS for pad_mode in pad_modes
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([pool(x) for pool in self.pools], dim=1)


def test_every_exported_kind_computes_the_same(parity: Parity) -> None:
    # below zero too: onnxruntime would let a max pool swallow the zeros of a pad
    x = torch.rand(5, 1, 8, 6, generator=torch.Generator().manual_seed(0)) - 0.9

    assert parity(EveryPool(), x) <= 1e-5


@pytest.mark.parametrize(
    ("pad_mode", "last_column"),
    [("circular", 7), ("replicate", 6), ("reflect", 6), ("zero", 6)],
)
def test_a_dense_maximum_looks_right_and_down(pad_mode: PadMode, last_column: int) -> None:
    x = torch.tensor([[7.0, 1.0, 2.0], [3.0, 5.0, 4.0], [0.0, 1.0, 6.0]]).view(1, 1, 3, 3)

    out = DenseMaxPool2d(pad_mode)(x)[0, 0]

    assert out.shape == (3, 3)
    assert out[:2, :2].tolist() == [[7, 5], [5, 6]]
    assert out[2, 2] == last_column


def test_under_zero_padding_what_lies_outside_takes_no_part_in_a_maximum() -> None:
    below = torch.full((1, 1, 3, 3), -5.0)

    assert (DenseMaxPool2d("zero")(below) == -5).all()


def test_a_dense_maximum_of_an_unknown_pad_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'mirror'"):
        DenseMaxPool2d("mirror")  # type: ignore[arg-type] # the test's point


@pytest.mark.parametrize("taps", [0, 8])
def test_taps_out_of_range_are_refused_before_any_pool_is_built(taps: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.\.7, got {taps}"):
        Downsampling("max_pool", taps=taps)


def test_an_unknown_kind_is_refused_with_the_choices() -> None:
    choices = "max_pool, avg_pool, strided, blur, max_blur, polyphase"
    with pytest.raises(ValueError, match=f"'median'.*{choices}"):
        Downsampling("median")  # type: ignore[arg-type] # the test's point


def test_an_unknown_pad_mode_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'valid'.*reflect, replicate, zero, circular"):
        Downsampling("blur", pad_mode="valid")  # type: ignore[arg-type] # the test's point


@pytest.mark.parametrize("kind", ["blur", "max_blur"])
def test_a_blur_without_taps_is_refused_before_it_runs(kind: DownsamplingKind) -> None:
    with pytest.raises(ValueError, match=r"1\.\.7, got 0"):
        Downsampling(kind, taps=0).pool()


@pytest.mark.parametrize("kind", ["blur", "max_blur"])
def test_the_number_of_taps_reaches_the_blur(kind: DownsamplingKind) -> None:
    x = integers(1, 1, 8, 8)

    outputs = [Downsampling(kind, taps=taps).pool()(x) for taps in (1, 3, 5)]

    assert not torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_the_stride_is_a_choice(kind: DownsamplingKind) -> None:
    downsampling = Downsampling(kind, stride=4)
    conv = PaddedConv2d(1, 1, 1, downsampling.conv_stride, "circular")

    out = downsampling.pool()(conv(torch.rand(2, 1, 8, 12)))

    assert out.shape == (2, 1, 2, 3)


def test_a_stride_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        Downsampling("blur", stride=0)


def test_convolutions_may_continue_their_border_in_another_way_than_the_pool() -> None:
    downsampling = Downsampling("blur", pad_mode="reflect", conv_pad_mode="zero")

    assert downsampling.conv_border == "zero"
    assert Downsampling("blur", pad_mode="reflect").conv_border == "reflect"
    with pytest.raises(ValueError, match="unknown pad_mode 'same'"):
        Downsampling("blur", conv_pad_mode="same")  # type: ignore[arg-type] # the test's point


def test_a_dense_maximum_without_padding_leaves_out_what_crosses_the_border() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)

    assert DenseMaxPool2d(None)(x)[0, 0].tolist() == [[4, 5], [7, 8]]


def test_a_dense_maximum_of_three_sees_one_sample_on_each_side() -> None:
    x = integers(1, 2, 5, 6)

    expected = nn.MaxPool2d(kernel_size=3, stride=1, padding=1)(x)

    assert torch.equal(DenseMaxPool2d("zero", kernel_size=3)(x), expected)


def test_a_dense_maximum_of_no_size_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel_size must be at least 1, got 0"):
        DenseMaxPool2d("zero", kernel_size=0)


@pytest.mark.parametrize("taps", range(1, 8))
@pytest.mark.parametrize("size", [31, 32, 56])
def test_an_antialiased_maximum_gives_the_size_of_the_maximum_it_replaces(
    size: int, taps: int
) -> None:
    x = torch.rand(1, 1, size, 32)

    assert AntialiasedMaxPool(taps)(x).shape == (1, 1, (size + 1) // 2, 16)
    assert AntialiasedMaxPool(taps, max_pad_mode=None)(x).shape == nn.MaxPool2d(2)(x).shape


def test_one_tap_of_an_antialiased_maximum_is_the_maximum_at_a_stride() -> None:
    x = integers(2, 3, 8, 10)

    assert torch.equal(AntialiasedMaxPool(taps=1)(x), nn.MaxPool2d(2)(x))


def test_an_antialiased_maximum_blurs_the_values_worked_by_hand() -> None:
    x = torch.tensor([0.0, 8.0, 0.0, 4.0, 0.0]).expand(1, 1, 5, 5)

    # maxima of two neighbours: 8 8 4 4; reflected 8 | 8 8 4 4; 1/4 1/2 1/4 at 0 and 2
    assert AntialiasedMaxPool(taps=3, max_pad_mode=None)(x)[0, 0, 0].tolist() == [8, 5]
