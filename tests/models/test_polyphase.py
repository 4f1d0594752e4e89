from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nyquist.models.layers.polyphase import (
    PolyphasePair,
    PolyphasePool2d,
    largest_component,
    norm_margin,
    polyphase_components,
    polyphase_pool2d,
)

Parity = Callable[[nn.Module, Tensor], float]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_components_are_the_strided_slices(stride: int) -> None:
    x = random(2, 3, 4 * stride, 5 * stride)

    components = polyphase_components(x, stride)

    assert components.shape == (2, stride * stride, 3, 4, 5)
    for k in range(stride):
        for m in range(stride):
            assert torch.equal(components[:, k * stride + m], x[..., k::stride, m::stride])


def test_an_odd_map_is_first_continued_circularly() -> None:
    x = torch.arange(9.0).view(1, 1, 3, 3)

    components = polyphase_components(x, 2)

    assert components[0, :, 0].tolist() == [
        [[0, 2], [6, 8]],
        [[1, 0], [7, 6]],
        [[3, 5], [0, 2]],
        [[4, 3], [1, 0]],
    ]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_output_is_the_size_over_the_stride_rounded_up(stride: int) -> None:
    pool = PolyphasePool2d(stride)
    for height in range(4, 12):
        width = 15 - height
        rows, columns = (height + stride - 1) // stride, (width + stride - 1) // stride
        assert pool(random(2, 3, height, width)).shape == (2, 3, rows, columns)


def test_the_grid_with_the_one_bright_pixel_is_kept() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 1, 2] = 5.0

    assert PolyphasePool2d()(x)[0, 0].tolist() == [[0, 5], [0, 0]]


def test_a_norm_does_not_care_about_the_sign() -> None:
    x = torch.full((1, 1, 2, 2), 5.0)
    x[0, 0, 1, 0] = -9.0

    assert PolyphasePool2d()(x).item() == -9


def test_all_channels_are_sampled_on_one_grid() -> None:
    x = torch.zeros(1, 3, 2, 2)
    x[0, 0, 0, 0] = 3.0  # energy 9 on grid 0
    x[0, 1, 0, 1] = 2.0
    x[0, 2, 0, 1] = 2.5  # energy 4 + 6.25 on grid 1

    assert PolyphasePool2d()(x).flatten().tolist() == [0, 2, 2.5]


@given(
    height=st.integers(2, 9), width=st.integers(2, 9), stride=st.integers(1, 2), seed=st.integers(0)
)
@settings(max_examples=60, deadline=None)
def test_the_chosen_component_has_the_largest_norm(
    height: int, width: int, stride: int, seed: int
) -> None:
    x = random(1, 2, height, width, seed=seed % 1000)

    components = polyphase_components(x, stride)[0]
    norms = torch.stack([component.double().norm() for component in components])
    chosen = polyphase_pool2d(x, stride)[0]

    assert chosen.double().norm().item() == pytest.approx(norms.max().item(), abs=1e-12)
    assert torch.equal(chosen, components[largest_component(components[None])[0]])


def test_pictures_of_one_batch_choose_independently() -> None:
    batch = torch.zeros(4, 1, 4, 4)
    for grid in range(4):
        batch[grid, 0, grid // 2, grid % 2] = grid + 1.0

    assert largest_component(polyphase_components(batch, 2)).tolist() == [0, 1, 2, 3]
    together = PolyphasePool2d()(batch)
    alone = torch.cat([PolyphasePool2d()(picture[None]) for picture in batch])
    assert together[:, 0, 0, 0].tolist() == [1, 2, 3, 4]
    assert torch.equal(together, alone)


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    stride=st.integers(1, 3),
    shift=st.tuples(st.integers(-9, 9), st.integers(-9, 9)),
    seed=st.integers(0, 999),
)
@settings(max_examples=100, deadline=None)
def test_a_circular_shift_only_shifts_the_output(
    rows: int, columns: int, stride: int, shift: tuple[int, int], seed: int
) -> None:
    x = random(1, 2, rows * stride, columns * stride, seed=seed)
    grid = largest_component(polyphase_components(x, stride)).item()
    moved = (int(grid) // stride + shift[0], int(grid) % stride + shift[1])

    out = polyphase_pool2d(x.roll(shift, dims=(2, 3)), stride)

    expected = (moved[0] // stride, moved[1] // stride)
    assert torch.equal(out, polyphase_pool2d(x, stride).roll(expected, dims=(2, 3)))


def test_a_shift_by_the_stride_moves_the_output_by_exactly_one_sample() -> None:
    x = random(3, 2, 6, 8)

    moved = PolyphasePool2d()(x.roll((2, -4), dims=(2, 3)))

    assert torch.equal(moved, PolyphasePool2d()(x).roll((1, -2), dims=(2, 3)))


def test_components_whose_norms_nearly_tie_are_not_exchanged_by_a_shift() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.rand(4096, generator=generator)
    second = first[torch.randperm(4096, generator=generator)].clone()
    second[0] += 1e-5  # its energy is larger by 1e-8 of the whole, below what float32 resolves
    x = torch.zeros(1, 1, 128, 128)
    x[0, 0, 0::2, 0::2] = first.view(64, 64)
    x[0, 0, 1::2, 1::2] = second.view(64, 64)

    for dy in range(4):
        for dx in range(4):
            out = polyphase_pool2d(x.roll((dy, dx), dims=(2, 3)), 2)
            assert torch.equal(out.flatten().sort().values, second.sort().values)


def test_the_gradient_goes_to_the_chosen_component_alone() -> None:
    x = torch.ones(2, 1, 4, 4)
    x[0, 0, 1, 2] = 3.0  # the first picture chooses grid (1, 0)
    x[1, 0, 2, 3] = 3.0  # the second one (0, 1)
    x.requires_grad_()

    PolyphasePool2d()(x).sum().backward()

    expected = torch.zeros(2, 1, 4, 4)
    expected[0, 0, 1::2, 0::2] = 1
    expected[1, 0, 0::2, 1::2] = 1
    assert x.grad is not None
    assert torch.equal(x.grad, expected)


def test_the_gradient_is_right_away_from_ties() -> None:
    x = random(2, 2, 4, 6).double().requires_grad_()

    assert torch.autograd.gradcheck(PolyphasePool2d(), x)


def test_an_exported_pool_computes_the_same(parity: Parity) -> None:
    x = random(9, 3, 8, 7)
    assert len(largest_component(polyphase_components(x, 2)).unique()) > 1

    assert parity(PolyphasePool2d(), x) == 0


@pytest.mark.parametrize("stride", [0, -1])
def test_a_stride_below_one_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {stride}"):
        PolyphasePool2d(stride)


def test_the_module_shows_its_stride() -> None:
    assert repr(PolyphasePool2d(3)) == "PolyphasePool2d(stride=3)"


def test_a_shortcut_is_sampled_on_the_grid_of_its_branch() -> None:
    branch, shortcut = torch.zeros(2, 1, 4, 4), torch.arange(32.0).view(2, 1, 4, 4)
    branch[0, 0, 1, 2] = branch[1, 0, 2, 3] = 5.0  # grids (1, 0) and (0, 1)

    halved, sampled = PolyphasePair()(branch, shortcut)

    assert torch.equal(halved, PolyphasePool2d()(branch))
    assert sampled[0, 0].tolist() == [[4, 6], [12, 14]]
    assert sampled[1, 0].tolist() == [[17, 19], [25, 27]]


def test_the_sum_of_a_branch_and_its_shortcut_only_moves_with_the_picture() -> None:
    branch, shortcut = random(3, 4, 8, 6), random(3, 4, 8, 6, seed=1)
    total = sum(PolyphasePair()(branch, shortcut))
    assert isinstance(total, Tensor)

    for shift in [(1, 0), (0, 1), (3, 5)]:
        moved = sum(PolyphasePair()(branch.roll(shift, (2, 3)), shortcut.roll(shift, (2, 3))))
        assert isinstance(moved, Tensor)
        for picture, other in zip(total, moved, strict=True):
            steps = [(dy, dx) for dy in range(4) for dx in range(3)]
            assert any(torch.equal(picture.roll(step, (1, 2)), other) for step in steps)


def test_a_pair_of_no_stride_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        PolyphasePair(0)


def test_the_margin_is_the_share_by_which_the_largest_norm_leads() -> None:
    x = torch.tensor([[4.0, 3.0], [1.0, -2.0]]).view(1, 1, 2, 2)
    tie = torch.ones(1, 1, 2, 2)
    nothing = torch.zeros(1, 1, 2, 2)

    margins = norm_margin(polyphase_components(torch.cat([x, tie, nothing]), 2))

    assert margins.tolist() == [0.25, 0, 0]
