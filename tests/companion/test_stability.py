from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nyquist.companion.measures.shift_consistency import (
    circular_shifts,
    random_crops,
    zero_padded_shifts,
)
from nyquist.companion.measures.shifts import diagonal, shift_circularly
from nyquist.companion.measures.stability import (
    Slide,
    absolute_changes,
    changes_from_start,
    flips,
    jumps,
    measure_stability,
    slide_along,
    slide_one_pixel,
    true_class_deviations,
)

Array = NDArray[Any]
AXES = (2, 3)
ROLL = partial(shift_circularly, axes=AXES)


def of_two(*first_class: list[float]) -> Slide:
    """A slide of two classes, from the first one's probabilities: a list for each picture."""
    first = np.array(first_class).T
    return Slide(np.stack([first, 1 - first], axis=2))


def white_pixel(count: int) -> Array:
    """Black pictures with a white pixel in the corner, (count, 1, 4, 4)."""
    canvas = np.zeros((count, 1, 4, 4))
    canvas[:, 0, 0, 0] = 1
    return canvas


def left_half(batch: Array) -> Array:
    """Class 1 if the white pixel is in the left half, without any doubt."""
    return 1000 * np.eye(2)[(batch[:, 0, :, :2].sum(axis=(1, 2)) > 0).astype(int)]


def test_every_figure_is_what_it_is_by_hand() -> None:
    slid = of_two([0.9, 0.6, 0.3], [0.2, 0.2, 0.4])  # answers 0 0 1 and 1 1 1
    assert changes_from_start(slid).tolist() == [0.5, 0]
    assert absolute_changes(slid) == pytest.approx([0.45, 0.1])
    assert flips(slid).tolist() == [0.5, 0]
    assert jumps(slid, threshold=0.25).tolist() == [2, 0]
    assert true_class_deviations(slid, np.array([0, 0])) == pytest.approx(
        [np.sqrt(0.06), np.sqrt(0.08) / 3]
    )


def test_the_means_carry_their_standard_errors() -> None:
    slid = of_two([0.9, 0.6, 0.3], [0.2, 0.2, 0.4])
    result = measure_stability(slid, np.array([0, 1]))
    assert (result.top1_change.value, result.top1_change.standard_error) == (0.25, 0.25)
    assert (result.unchanged.value, result.unchanged.pictures) == (0.5, 2)
    assert result.mean_absolute_change.value == pytest.approx(0.275)
    assert result.mean_absolute_change.standard_error == pytest.approx(0.175)
    assert result.true_class_deviation is not None
    assert measure_stability(slid).true_class_deviation is None


def test_an_answer_that_goes_and_comes_back_flips_twice_and_differs_once() -> None:
    there_and_back = of_two([0.9, 0.4, 0.9])
    assert flips(there_and_back).tolist() == [1]
    assert changes_from_start(there_and_back).tolist() == [0.5]


def test_a_smooth_fall_has_no_jump_and_a_jagged_curve_one_at_each_step() -> None:
    falling, jagged = [1.0 - k / 10 for k in range(11)], [0.9, 0.6] * 5 + [0.9]
    assert jumps(of_two(falling, jagged)).tolist() == [0, 10]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 5), st.integers(2, 4))
def test_the_figures_stay_in_their_ranges(
    seed: int, positions: int, count: int, classes: int
) -> None:
    generator = np.random.default_rng(seed)
    slid = Slide(generator.dirichlet(np.ones(classes), (positions, count)))
    deviations = true_class_deviations(slid, generator.integers(0, classes, count))
    assert ((deviations >= 0) & (deviations <= 0.5)).all()
    assert ((absolute_changes(slid) >= 0) & (absolute_changes(slid) <= 1)).all()
    assert (jumps(slid) < positions).all()
    assert ((flips(slid) == 0) == (changes_from_start(slid) == 0)).all()


def test_a_network_that_does_not_look_is_perfectly_stable() -> None:
    def blind(batch: Array) -> Array:
        return np.tile([2.0, 1.0], (len(batch), 1))

    result = measure_stability(
        slide_along(blind, white_pixel(5), ROLL, diagonal(4)), np.zeros(5, int)
    )
    assert result.true_class_deviation is not None
    figures = (result.top1_change, result.mean_absolute_change, result.flip_probability)
    assert [figure.value for figure in (*figures, result.jumps)] == [0, 0, 0, 0]
    assert result.true_class_deviation.value == pytest.approx(0)
    assert result.unchanged.value == 1


def test_a_slide_follows_its_path_whatever_the_batch() -> None:
    whole, parts = (
        slide_along(left_half, white_pixel(5), ROLL, diagonal(5), batch=batch) for batch in (64, 2)
    )
    assert whole.answers[:, 0].tolist() == [1, 1, 0, 0, 1]
    np.testing.assert_array_equal(whole.probabilities, parts.probabilities)


def test_each_picture_may_have_a_path_of_its_own() -> None:
    path = np.array([[[0, 0], [0, 2]], [[0, 3], [0, 3]]])
    assert slide_along(left_half, white_pixel(2), ROLL, path).answers.tolist() == [[1, 0], [0, 0]]


def test_one_pixel_aside_changes_the_half_once_in_eight() -> None:
    # half of the steps go right; of those from columns 0, 1, 2 and back from 3, one changes it
    slid = slide_one_pixel(left_half, white_pixel(4000), circular_shifts((4, 4), AXES))
    result = measure_stability(slid)
    four_errors = 4 * result.top1_change.standard_error
    assert result.top1_change.value == pytest.approx(1 / 8, abs=four_errors)
    assert result.mean_absolute_change.value == pytest.approx(1 / 8, abs=four_errors)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_second_place_is_one_pixel_from_the_first_and_within_reach(seed: int) -> None:
    columns = np.tile(np.arange(25).reshape(5, 5), (9, 1, 1, 1))
    corners: list[Array] = []

    def corner(batch: Array) -> Array:
        corners.append(np.stack(np.divmod(batch[:, 0, 0, 0], 5), axis=1))
        return np.zeros((len(batch), 2))

    for _ in range(2):
        slide_one_pixel(corner, columns, random_crops((3, 3), AXES, reach=3), seed=seed)
    places, beside, *again = corners
    assert np.abs(places - beside).sum(axis=1).tolist() == [1] * 9
    assert max(places.max(), beside.max()) <= 2
    np.testing.assert_array_equal([places, beside], again)


def test_two_offsets_an_axis_are_room_enough_for_a_step() -> None:
    slid = slide_one_pixel(left_half, white_pixel(9), random_crops((3, 3), AXES, reach=2))
    assert slid.probabilities.shape == (2, 9, 2)


@pytest.mark.parametrize("shape", [(1, 2, 2), (3, 0, 2), (3, 2)])
def test_one_position_or_no_picture_is_no_slide(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="a slide is"):
        Slide(np.zeros(shape))


def test_a_slide_that_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        slide_along(left_half, white_pixel(0), ROLL, diagonal(2))
    with pytest.raises(ValueError, match="got none"):
        slide_along(left_half, white_pixel(1), ROLL, [])
    with pytest.raises(ValueError, match="two offsets an axis"):
        slide_one_pixel(left_half, white_pixel(1), zero_padded_shifts(AXES, reach=0))
    with pytest.raises(ValueError, match="two offsets an axis"):
        slide_one_pixel(left_half, white_pixel(1), circular_shifts((1, 4), AXES))


@pytest.mark.parametrize("labels", [[0], [0, 2], [-1, 0]])
def test_every_picture_needs_a_label_of_the_network(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"2 pictures need a class in 0\.\.1"):
        measure_stability(of_two([0.5, 0.5], [0.5, 0.5]), np.array(labels))


def test_two_positions_and_two_offsets_an_axis_are_enough_for_a_slide() -> None:
    slid = slide_one_pixel(left_half, white_pixel(1), random_crops((3, 3), AXES, reach=2))
    assert slid.probabilities.shape[:2] == (2, 1)
