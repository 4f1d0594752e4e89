from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nyquist.companion.measures.shift_consistency import (
    Consistency,
    ShiftProtocol,
    circular_consistency,
    circular_shifts,
    fractional_shifts,
    one_pixel_consistency,
    pair_consistency,
    random_crops,
    standard_error,
    worst_case,
    zero_padded_shifts,
)
from nyquist.companion.measures.shifts import grid, shift_circularly, shift_fractionally

Array = NDArray[Any]
AXES = (2, 3)


def one_hot(classes: Array) -> Array:
    return np.eye(2)[classes.astype(int)]


def pictures(count: int, at: tuple[int, int] = (0, 0), size: int = 4) -> Array:
    """Black pictures with one white pixel, (count, 1, size, size)."""
    canvas = np.zeros((count, 1, size, size))
    canvas[:, :, at[0], at[1]] = 1
    return canvas


def left_half(batch: Array) -> Array:
    """Class 1 if the white pixel is in the left half: true of half of all circular shifts."""
    return one_hot(batch[:, 0, :, :2].sum(axis=(1, 2)) > 0)


def first_pixel(batch: Array) -> Array:
    """Class 1 if the first pixel is the brighter half: as fickle as an answer can be."""
    return one_hot(batch[:, 0, 0, 0] > 0.5)


def test_a_constant_answer_is_fully_consistent() -> None:
    result = circular_consistency(lambda b: one_hot(np.zeros(len(b))), pictures(9), AXES)
    assert (result.share, result.standard_error, result.pictures) == (1.0, 0.0, 9)


def test_an_answer_that_depends_on_the_half_agrees_half_of_the_time() -> None:
    result = circular_consistency(left_half, pictures(2000), AXES, pairs=4)
    assert result.share == pytest.approx(0.5, abs=4 * result.standard_error)
    assert result.standard_error == pytest.approx(0.5 / np.sqrt(4 * 2000), rel=0.1)


def test_the_circular_figures_of_a_seed_are_those_that_builds_have_recorded() -> None:
    recorded = Consistency(0.49, 0.03496353785862977, 50)
    assert circular_consistency(left_half, pictures(50), AXES, seed=1) == recorded


@pytest.mark.parametrize(
    ("protocol", "larger"),
    [
        # the pixel starts in column 1; one of three equally likely columns lies in the right half
        (zero_padded_shifts(AXES, reach=1), pictures(3000, at=(1, 1))),
        (random_crops((4, 4), AXES, reach=3), pictures(3000, at=(2, 2), size=6)),
    ],
)
def test_two_places_in_three_agree_five_times_in_nine(
    protocol: ShiftProtocol, larger: Array
) -> None:
    result = pair_consistency(left_half, larger, protocol)
    assert result.share == pytest.approx(5 / 9, abs=4 * result.standard_error)
    assert result.standard_error < 0.01


def test_one_pixel_turns_an_answer_that_reads_odd_from_even_and_no_other() -> None:
    pictures = np.zeros((3, 1, 12, 12))
    pictures[:, 0, 6, 6] = 1
    crops = random_crops((8, 8), (2, 3), reach=4)

    def odd(crops: NDArray[Any]) -> NDArray[np.float64]:
        at = crops.reshape(len(crops), -1).argmax(axis=1)
        return np.eye(2)[(at // 8 + at % 8) % 2]

    assert one_pixel_consistency(odd, pictures, crops, pairs=8).share == 0
    assert pair_consistency(odd, pictures, crops, pairs=8).share > 0
    found = one_pixel_consistency(lambda crops: np.eye(2)[[0] * len(crops)], pictures, crops)
    assert (found.share, found.pictures) == (1, 3)
    with pytest.raises(ValueError, match="one pixel aside needs two offsets an axis"):
        one_pixel_consistency(odd, pictures, random_crops((8, 8), (2, 3), reach=1))


def test_half_a_pixel_loses_the_frequency_that_whole_pixels_keep() -> None:
    stripes = np.tile([1.0, -1.0], (6, 1, 4, 2))

    def striped(batch: Array) -> Array:
        return one_hot((batch**2).mean(axis=(1, 2, 3)) > 0.5)

    assert pair_consistency(striped, stripes, fractional_shifts((4, 4), AXES)).share == 0.0
    assert pair_consistency(striped, stripes, circular_shifts((4, 4), AXES)).share == 1.0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_fraction_of_nothing_leaves_the_circular_figure(seed: int) -> None:
    bytes_ = np.random.default_rng(seed).integers(0, 256, (9, 1, 4, 5), dtype=np.uint8)
    still = fractional_shifts((4, 5), AXES, fraction=0)

    def bright(batch: Array) -> Array:
        return one_hot(batch[:, 0, 0, 0] > 127)

    assert pair_consistency(bright, bytes_, still, seed=seed) == circular_consistency(
        bright, bytes_, AXES, seed=seed
    )


@pytest.mark.parametrize(
    "protocol",
    [
        circular_shifts((1, 1), AXES),
        fractional_shifts((1, 1), AXES, fraction=0),
        zero_padded_shifts(AXES, reach=0),
        random_crops((2, 3), AXES, reach=1),
    ],
)
@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_without_a_shift_every_answer_stays(protocol: ShiftProtocol, seed: int) -> None:
    noise = np.random.default_rng(seed).random((7, 1, 4, 4))
    assert pair_consistency(first_pixel, noise, protocol, seed=seed).share == 1.0


@pytest.mark.parametrize(
    "protocol",
    [
        circular_shifts((4, 4), AXES),
        fractional_shifts((4, 4), AXES),
        zero_padded_shifts(AXES),
        random_crops((2, 2), AXES, reach=3),
    ],
)
def test_the_same_seed_gives_the_same_shifts_whatever_the_batch(protocol: ShiftProtocol) -> None:
    noise = np.random.default_rng(0).random((50, 1, 4, 4))
    first, second, other = (
        pair_consistency(first_pixel, noise, protocol, seed=seed, batch=batch)
        for seed, batch in ((1, 64), (1, 7), (2, 64))
    )
    assert first == second
    assert first != other


def test_every_picture_of_a_batch_has_offsets_of_its_own() -> None:
    seen: list[set[int]] = []

    def place(batch: Array) -> Array:
        seen.append(set(batch.reshape(len(batch), -1).argmax(axis=1).tolist()))
        return left_half(batch)

    circular_consistency(place, pictures(64), AXES, pairs=1)
    assert [len(places) > 8 for places in seen] == [True, True]


def test_zhangs_corners_end_one_pixel_before_the_picture_does() -> None:
    protocol = random_crops((224, 224), (1, 2))
    corners: list[Array] = []

    def corner(batch: Array) -> Array:
        corners.append(batch[:, 0, 0])
        return np.zeros((len(batch), 2))

    rows, columns = np.indices((256, 256), dtype=np.uint8)
    pair_consistency(corner, np.stack([rows, columns], axis=2)[None].repeat(40, axis=0), protocol)
    assert np.concatenate(corners).min(axis=0).tolist() == [0, 0]
    assert np.concatenate(corners).max(axis=0).tolist() == [31, 31]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.booleans(), min_size=2))
def test_the_standard_error_of_a_share_is_that_of_a_binomial(agreeing: list[bool]) -> None:
    share, count = np.mean(agreeing), len(agreeing)
    expected = np.sqrt(share * (1 - share) / (count - 1))
    assert standard_error(np.array(agreeing)) == pytest.approx(expected)


def test_independent_pictures_have_the_standard_error_of_the_textbook() -> None:
    result = circular_consistency(left_half, pictures(1000), AXES, pairs=1)
    textbook = np.sqrt(result.share * (1 - result.share) / 1000)
    assert result.standard_error == pytest.approx(textbook, rel=1e-3)


def test_the_worst_case_counts_the_pictures_that_every_shift_leaves() -> None:
    columns = np.concatenate([pictures(1, at=(0, column)) for column in range(4)])
    # one pixel to the right: columns 0 and 2 stay in their half, 1 and 3 change it
    measured = partial(
        worst_case,
        left_half,
        columns,
        partial(shift_circularly, axes=AXES),
        grid([0, 1, 2], [0, 1]),
    )
    result = measured(labels=np.array([1, 1, 1, 1]))
    assert (result.unchanged.share, result.unchanged.pictures) == (0.5, 4)
    assert result.unchanged.standard_error == pytest.approx(np.sqrt(0.25 / 3))
    assert result.correct is not None
    assert result.correct.share == 0.25
    assert measured().correct is None


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_a_larger_set_of_shifts_never_holds_more_pictures(seed: int, few: int, more: int) -> None:
    noise = np.random.default_rng(seed).random((12, 1, 5, 5))
    shift = partial(shift_fractionally, axes=AXES)
    small, large = (
        worst_case(first_pixel, noise, shift, grid(np.arange(reach) / 2, [0.0])).unchanged.share
        for reach in (few, few + more)
    )
    assert large <= small


def test_no_picture_or_pair_or_shift_is_no_measurement() -> None:
    shift = partial(shift_circularly, axes=AXES)
    with pytest.raises(ValueError, match="at least one picture"):
        circular_consistency(left_half, pictures(0), AXES)
    with pytest.raises(ValueError, match="one pair, got 3 and 0"):
        circular_consistency(left_half, pictures(3), AXES, pairs=0)
    with pytest.raises(ValueError, match="at least one picture"):
        worst_case(left_half, pictures(0), shift, grid([0], [0]))
    with pytest.raises(ValueError, match="at least one shift"):
        worst_case(left_half, pictures(3), shift, grid([], []))


@pytest.mark.parametrize("labels", [[0], [0, -1]])
def test_every_picture_of_a_worst_case_needs_its_label(labels: list[int]) -> None:
    shift = partial(shift_circularly, axes=AXES)
    with pytest.raises(ValueError, match="2 pictures need as many labels"):
        worst_case(left_half, pictures(2), shift, grid([0], [0]), labels=np.array(labels))


def test_a_protocol_without_an_offset_is_refused() -> None:
    with pytest.raises(ValueError, match="no offset lies from"):
        random_crops((4, 4), AXES, reach=0)


def test_crops_that_leave_the_picture_are_refused() -> None:
    with pytest.raises(ValueError, match="windows of"):
        pair_consistency(left_half, pictures(9), random_crops((4, 4), AXES, reach=2))
