"""Every pair of a set of shifts: which agree, and how that falls with their distance."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nyquist.companion.measures.shift_consistency import circular_shifts, pair_consistency
from nyquist.companion.measures.shift_map import against_distance, agreement, all_pairs, line
from nyquist.companion.measures.shifts import diagonal, grid, shift_circularly

SIDE = 4


def answers(*classes: int) -> NDArray[Any]:
    return np.eye(3)[list(classes)]


def test_pairs_are_counted_by_their_distance_along_a_line() -> None:
    agreed = agreement(answers(0, 0, 1, 0))
    found = against_distance([agreed], line(4))
    assert [(one.distance, one.changed, one.pairs) for one in found] == [
        (1.0, 2, 3),
        (2.0, 1, 2),
        (3.0, 0, 1),
    ]
    assert all_pairs([agreed]).share == 10 / 16


def test_half_pixels_along_a_diagonal_have_distances_of_half_pixels() -> None:
    found = against_distance([agreement(answers(0, 1, 1))], diagonal(3) / 2)
    assert [(one.distance, one.consistency.share) for one in found] == [(0.5, 0.5), (1.0, 0.0)]


def test_a_map_counts_pairs_along_its_axes_alone() -> None:
    rows = agreement(
        answers(0, 0, 1, 1)
    )  # the upper row of two answers as one, the lower otherwise
    (one,) = against_distance([rows], grid(range(2), range(2)))
    assert (one.distance, one.pairs, one.changed) == (1.0, 4, 2)


def test_the_error_is_over_pictures() -> None:
    still, flipping = agreement(answers(0, 0)), agreement(answers(0, 1))
    (one,) = against_distance([still, flipping], line(2))
    assert one.consistency.share == 0.5
    assert one.consistency.standard_error == pytest.approx(0.5)
    assert (one.pairs, one.changed, one.consistency.pictures) == (2, 1, 2)


def test_a_sameness_of_parts_is_taken_as_it_is() -> None:
    halves = agreement(answers(0, 1), lambda first, second: (first + second).max(axis=1) / 4)
    assert all_pairs([halves]).share == 0.375


def test_all_pairs_is_what_drawing_pairs_estimates() -> None:
    picture = np.random.default_rng(3).random((1, 1, SIDE, SIDE))

    def corner(pictures: NDArray[Any]) -> NDArray[Any]:
        return pictures[:, 0, 0, :3]

    places = grid(range(SIDE), range(SIDE))
    moved = shift_circularly(picture.repeat(len(places), axis=0), places, (2, 3))
    exact = all_pairs([agreement(corner(moved))]).share
    protocol = circular_shifts((SIDE, SIDE), (2, 3))
    drawn = pair_consistency(corner, picture, protocol, pairs=4000).share
    assert 0.1 < exact < 0.9
    assert drawn == pytest.approx(exact, abs=0.03)
