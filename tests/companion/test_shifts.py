from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nyquist.companion.measures.shifts import (
    crop_at,
    diagonal,
    grid,
    shift_circularly,
    shift_fractionally,
    shift_with_zeros,
)

Array = NDArray[Any]
NCHW, NHWC = (2, 3), (1, 2)

seeds = st.integers(0, 2**32 - 1)
lengths = st.integers(1, 9)


def line(*values: float) -> Array:
    """One picture of one row, (1, 1, 1, W)."""
    return np.array(values, dtype=float)[None, None, None]


def half_a_pixel_right(picture: Array) -> list[float]:
    moved: list[float] = shift_fractionally(picture, np.array([[0, 0.5]]), NCHW)[0, 0, 0].tolist()
    return moved


def test_each_picture_rolls_by_its_own_offset_down_and_right() -> None:
    batch = np.arange(4).reshape(1, 1, 2, 2).repeat(2, axis=0)
    moved = shift_circularly(batch, np.array([[1, 0], [0, 1]]), axes=NCHW)
    assert moved[0, 0].tolist() == [[2, 3], [0, 1]]
    assert moved[1, 0].tolist() == [[1, 0], [3, 2]]


def test_the_axes_are_those_of_the_layout() -> None:
    batch = np.arange(4).reshape(1, 2, 2, 1)
    moved = shift_circularly(batch, np.array([[1, 0]]), axes=NHWC)
    assert moved[0, :, :, 0].tolist() == [[2, 3], [0, 1]]


def test_each_window_is_cut_at_its_own_corner() -> None:
    batch = np.arange(12).reshape(1, 1, 3, 4).repeat(2, axis=0)
    windows = crop_at(batch, np.array([[0, 0], [1, 2]]), axes=NCHW, size=(2, 2))
    assert windows[:, 0].tolist() == [[[0, 1], [4, 5]], [[6, 7], [10, 11]]]


@pytest.mark.parametrize("corner", [(-1, 0), (0, -1), (2, 0), (0, 3)])
def test_a_window_that_leaves_its_picture_is_refused(corner: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"corners lie from \(0, 0\) to \(1, 2\)"):
        crop_at(np.zeros((1, 1, 3, 4)), np.array([corner]), axes=NCHW, size=(2, 2))


def test_zeros_enter_where_the_picture_left() -> None:
    batch = np.array([[1, 2], [3, 4]], np.uint8)[None, None].repeat(3, axis=0)
    moved = shift_with_zeros(batch, np.array([[1, 0], [0, -1], [0, 5]]), axes=NCHW)
    assert moved[:, 0].tolist() == [[[0, 0], [1, 2]], [[2, 0], [4, 0]], [[0, 0], [0, 0]]]
    assert moved.dtype == np.uint8


@pytest.mark.parametrize(
    "move", [shift_circularly, shift_with_zeros, shift_fractionally, partial(crop_at, size=(3, 2))]
)
def test_every_shift_moves_every_layout_alike(move: Callable[..., Array]) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 6), dtype=np.uint8)
    offsets = np.array([[0, 0], [1, 2], [2, 1], [2, 4]])
    of_nchw = move(pictures, offsets, axes=NCHW)
    of_nhwc = move(pictures.transpose(0, 2, 3, 1), offsets, axes=NHWC)
    np.testing.assert_array_equal(of_nchw.transpose(0, 2, 3, 1), of_nhwc)


@settings(max_examples=50, deadline=None)
@given(lengths, lengths, st.sampled_from([np.uint8, np.float32, np.float64]), seeds)
def test_whole_pixels_through_the_transform_are_a_roll(
    height: int, width: int, dtype: type[np.generic], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    pictures = (generator.random((2, height, width, 3)) * 255).astype(dtype)
    offsets = generator.integers(-20, 20, (2, 2))
    moved = shift_fractionally(pictures, offsets, NHWC)
    assert moved.dtype == dtype
    np.testing.assert_allclose(moved, shift_circularly(pictures, offsets, NHWC), atol=1e-4)


def test_half_a_pixel_of_a_cosine_is_the_cosine_between_its_pixels() -> None:
    root = np.sqrt(0.5)  # cos(pi / 2 (x - 1 / 2)) at x = 0, 1, 2, 3
    assert half_a_pixel_right(line(1, 0, -1, 0)) == pytest.approx([root, root, -root, -root])


def test_half_a_pixel_removes_the_nyquist_frequency() -> None:
    assert half_a_pixel_right(line(1, -1, 1, -1)) == pytest.approx([0, 0, 0, 0])


def test_floats_keep_the_ringing_of_an_edge_and_bytes_are_rounded_and_clipped() -> None:
    edge, swing = line(0, 0, 254, 254), 127 * np.sqrt(2)
    assert half_a_pixel_right(edge) == pytest.approx([127, 127 - swing, 127, 127 + swing])
    assert half_a_pixel_right(edge.astype(np.uint8)) == [127, 0, 127, 255]


@settings(max_examples=50, deadline=None)
@given(lengths, lengths, st.floats(-3, 3), st.floats(-3, 3), seeds)
def test_odd_sizes_come_back_when_the_shift_is_undone(
    height: int, width: int, down: float, right: float, seed: int
) -> None:
    picture = np.random.default_rng(seed).random((1, 1, 2 * height + 1, 2 * width + 1))
    offsets = np.array([[down, right]])
    there = shift_fractionally(picture, offsets, NCHW)
    assert there.mean() == pytest.approx(picture.mean())
    np.testing.assert_allclose(shift_fractionally(there, -offsets, NCHW), picture, atol=1e-12)


def test_a_grid_holds_every_combination_and_a_diagonal_equal_steps() -> None:
    assert grid([0, 0.5], [1, 2]).tolist() == [[0, 1], [0, 2], [0.5, 1], [0.5, 2]]
    assert diagonal(3).tolist() == [[0, 0], [1, 1], [2, 2]]
