from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from companion.shift_consistency import circular_consistency, shift_circularly

Array = NDArray[Any]


def one_hot(classes: Array) -> Array:
    return np.eye(2)[classes.astype(int)]


def pictures(count: int) -> Array:
    """Black pictures with one white pixel in the corner, (count, 1, 4, 4)."""
    canvas = np.zeros((count, 1, 4, 4))
    canvas[:, :, 0, 0] = 1
    return canvas


def left_half(batch: Array) -> Array:
    """Class 1 if the white pixel is in the left half: true of half of all shifts."""
    return one_hot(batch[:, 0, :, :2].sum(axis=(1, 2)) > 0)


def test_each_picture_rolls_by_its_own_offset_down_and_right() -> None:
    batch = np.arange(4).reshape(1, 1, 2, 2).repeat(2, axis=0)
    moved = shift_circularly(batch, np.array([[1, 0], [0, 1]]), axes=(2, 3))
    assert moved[0, 0].tolist() == [[2, 3], [0, 1]]
    assert moved[1, 0].tolist() == [[1, 0], [3, 2]]


def test_the_axes_are_those_of_the_layout() -> None:
    batch = np.arange(4).reshape(1, 2, 2, 1)
    moved = shift_circularly(batch, np.array([[1, 0]]), axes=(1, 2))
    assert moved[0, :, :, 0].tolist() == [[2, 3], [0, 1]]


def test_a_constant_answer_is_fully_consistent() -> None:
    result = circular_consistency(lambda b: one_hot(np.zeros(len(b))), pictures(9), (2, 3))
    assert (result.share, result.standard_error, result.pictures) == (1.0, 0.0, 9)


def test_an_answer_that_depends_on_the_half_agrees_half_of_the_time() -> None:
    result = circular_consistency(left_half, pictures(2000), (2, 3), pairs=4)
    assert result.share == pytest.approx(0.5, abs=4 * result.standard_error)
    assert result.standard_error == pytest.approx(0.5 / np.sqrt(4 * 2000), rel=0.1)


def test_the_same_seed_gives_the_same_shifts_whatever_the_batch() -> None:
    first, second, other = (
        circular_consistency(left_half, pictures(50), (2, 3), seed=seed, batch=batch)
        for seed, batch in ((1, 64), (1, 7), (2, 64))
    )
    assert first == second
    assert first != other


def test_no_picture_is_no_measurement() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        circular_consistency(left_half, pictures(0), (2, 3))
