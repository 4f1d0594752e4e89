"""Shift consistency: does the answer stay when the picture moves?

    protocol -> pairs of shifts, or every shift -> answers -> Consistency

C = E over pictures x and shifts d1, d2 of [argmax f(S_d1 x) == argmax f(S_d2 x)]

and of another sameness than that of the highest class where answers are no classes.

Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, section 4; here with offsets of
each picture's own, from a fixed seed. docs/shift-consistency.md says which protocol is for what.

>>> pictures = np.eye(4)[None, None]
>>> corner = lambda pictures: np.stack([pictures[:, 0, 0, 0], pictures[:, 0, 0, 1]], axis=1)
>>> pair_consistency(corner, pictures, circular_shifts((4, 4), (2, 3)), pairs=8).share
0.625
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.companion.measures.parity import Predict, Same, same_highest
from nyquist.companion.measures.shifts import (
    Offsets,
    Pictures,
    Shift,
    crop_at,
    shift_circularly,
    shift_fractionally,
    shift_with_zeros,
)

DEFAULT_PAIRS = 4
ONE_PIXEL_PLACES = 2
"""Of each picture that a build takes windows out of: more of one picture say little more."""
DEFAULT_BATCH = 64
ZHANG_REACH = 32
"""Crops of 224 in 256 start at 0..31: numpy's upper bound is exclusive, and 32 is never drawn."""
PADDED_REACH = 3
"""Of Chaman and Dokmanic (2021) on CIFAR-10; theirs is -3..2, ours -3..3."""


@dataclass(frozen=True)
class Consistency:
    """A measured share: of pairs of shifts that agree, or of pictures that hold.

    Attributes:
        share: 0..1.
        standard_error: of the share, over pictures. Where it is 0 because all N pictures are alike,
            the true share still lies up to 3 / N away (95 %).
        pictures: how many were shifted.
    """

    share: float
    standard_error: float
    pictures: int


@dataclass(frozen=True)
class WorstCase:
    """What every shift of a set leaves as it was.

    Attributes:
        unchanged: pictures with the same answer at every shift.
        correct: pictures with the right answer at every shift; None without labels.
    """

    unchanged: Consistency
    correct: Consistency | None


@dataclass(frozen=True)
class ShiftProtocol:
    """How the two pictures of a pair move, and how far. Offsets are uniform, low <= offset < high.

    Attributes:
        first: moves one picture of the pair.
        second: moves the other.
        low: least offset down and to the right, whole pixels.
        high: one above the greatest.

    Raises:
        ValueError: there is no offset from low to high.
    """

    first: Shift
    second: Shift
    low: tuple[int, int]
    high: tuple[int, int]

    def __post_init__(self) -> None:
        if self.low[0] >= self.high[0] or self.low[1] >= self.high[1]:
            raise ValueError(f"no offset lies from {self.low} up to, not including, {self.high}")


def circular_shifts(size: tuple[int, int], axes: tuple[int, int]) -> ShiftProtocol:
    """Roll the picture to anywhere (Chaman and Dokmanic, 2021, who stay within 32 pixels).

    Args:
        size: height and width of the pictures.
        axes: of height and width in the batch.
    """
    shift = partial(shift_circularly, axes=axes)
    return ShiftProtocol(shift, shift, (0, 0), size)


def fractional_shifts(
    size: tuple[int, int], axes: tuple[int, int], *, fraction: float = 0.5
) -> ShiftProtocol:
    """Roll one picture by whole pixels, the other by whole pixels and a fraction along both axes.

    So no pair shares a sampling grid, as in Michaeli et al., "Alias-Free Convnets", 2023, who hold
    the first picture still.

    Args:
        size: height and width of the pictures.
        axes: of height and width in the batch.
        fraction: of a pixel; 0 gives the circular shifts.
    """

    def roll_beyond(pictures: Pictures, offsets: Offsets) -> Pictures:
        between = shift_fractionally(pictures, np.full((len(pictures), 2), fraction), axes)
        return shift_circularly(between, offsets, axes)

    return ShiftProtocol(partial(shift_circularly, axes=axes), roll_beyond, (0, 0), size)


def zero_padded_shifts(axes: tuple[int, int], *, reach: int = PADDED_REACH) -> ShiftProtocol:
    """Move the picture in its frame by up to `reach` pixels either way; zeros enter.

    Padding by `reach` and cropping, the standard shift on CIFAR (Chaman and Dokmanic, 2021).

    Args:
        axes: of height and width in the batch.
        reach: greatest offset in pixels; 0 leaves the picture where it is.
    """
    shift = partial(shift_with_zeros, axes=axes)
    return ShiftProtocol(shift, shift, (-reach, -reach), (reach + 1, reach + 1))


def random_crops(
    size: tuple[int, int], axes: tuple[int, int], *, reach: int = ZHANG_REACH
) -> ShiftProtocol:
    """Cut both pictures of a pair out of a larger one (Zhang, 2019; his code's `validate_shift`).

    His offsets are shared by a batch and not seeded; ours are each picture's own.

    Args:
        size: height and width of a crop, such as 224 x 224 of pictures of 256 x 256.
        axes: of height and width in the batch.
        reach: corners lie in 0..reach - 1, down and to the right.
    """
    crop = partial(crop_at, axes=axes, size=size)
    return ShiftProtocol(crop, crop, (0, 0), (reach, reach))


def pair_consistency(
    predict: Predict,
    pictures: Pictures,
    protocol: ShiftProtocol,
    *,
    pairs: int = DEFAULT_PAIRS,
    seed: int = 0,
    batch: int = DEFAULT_BATCH,
    same: Same = same_highest,
) -> Consistency:
    """Measure the share of random pairs of shifts that get the same answer.

    The standard error takes the mean over its pairs as one observation of a picture: pairs of one
    picture are not independent.

    Args:
        predict: the path that is measured.
        pictures: (N, ...).
        protocol: how they move.
        pairs: of shifts for each picture.
        seed: of the offsets; the same seed gives the same shifts whatever is measured.
        batch: pictures sent at once.
        same: of two answers, what the share is the mean of.

    Raises:
        ValueError: there is no picture, or no pair.
    """
    offsets = draw_offsets(protocol, len(pictures), pairs, seed)
    moved = (
        (protocol.first(pictures, one), protocol.second(pictures, two)) for one, two in offsets
    )
    return _agreement(predict, pictures, pairs, moved, batch, same)


def draw_offsets(
    protocol: ShiftProtocol, pictures: int, pairs: int, seed: int
) -> Iterator[Offsets]:
    """Draw the offsets of one pair after another, for both shifts. -> each (2, pictures, 2)."""
    generator = np.random.default_rng(seed)
    for _ in range(pairs):
        yield generator.integers(protocol.low, protocol.high, (2, pictures, 2))


def draw_neighbours(
    protocol: ShiftProtocol, pictures: int, generator: np.random.Generator
) -> tuple[Offsets, Offsets]:
    """Draw a place for each picture, and that one pixel beside it, down or right or back.

    Raises:
        ValueError: there is no room for a step along both axes.
    """
    low, high = np.array(protocol.low), np.array(protocol.high)
    if (high - low < 2).any():
        raise ValueError(f"one pixel aside needs two offsets an axis, got {low} to {high - 1}")
    places = generator.integers(low, high, (pictures, 2))
    steps = np.eye(2, dtype=int)[generator.integers(0, 2, pictures)]
    return places, np.where(places + steps < high, places + steps, places - steps)


def one_pixel_consistency(
    predict: Predict,
    pictures: Pictures,
    protocol: ShiftProtocol,
    *,
    pairs: int = DEFAULT_PAIRS,
    seed: int = 0,
    batch: int = DEFAULT_BATCH,
    same: Same = same_highest,
) -> Consistency:
    """Measure the share of places whose answer is also that of the place one pixel beside.

    Args:
        predict: the path that is measured.
        pictures: (N, ...).
        protocol: how they move, by its first shift; its offsets are the places.
        pairs: places for each picture.
        seed: of the places and directions.
        batch: pictures sent at once.
        same: of two answers, what the share is the mean of.

    Raises:
        ValueError: there is no picture, no place, or no room for a step along both axes.
    """
    generator = np.random.default_rng(seed)
    moved = (
        (protocol.first(pictures, place), protocol.first(pictures, beside))
        for place, beside in (
            draw_neighbours(protocol, len(pictures), generator) for _ in range(pairs)
        )
    )
    return _agreement(predict, pictures, pairs, moved, batch, same)


def _agreement(
    predict: Predict,
    pictures: Pictures,
    pairs: int,
    moved: Iterable[tuple[Pictures, Pictures]],
    batch: int,
    same: Same,
) -> Consistency:
    """Return how alike the answers to two shifts of all pictures are, one pair after another."""
    if not len(pictures) or pairs < 1:
        raise ValueError(
            f"shift consistency needs at least one picture and one pair, "
            f"got {len(pictures)} and {pairs}"
        )
    agreeing = [same(*(evaluate(predict, shift, batch) for shift in pair)) for pair in moved]
    return consistency_of(np.mean(agreeing, axis=0))


def circular_consistency(
    predict: Predict,
    pictures: Pictures,
    axes: tuple[int, int],
    *,
    pairs: int = DEFAULT_PAIRS,
    seed: int = 0,
    batch: int = DEFAULT_BATCH,
    same: Same = same_highest,
) -> Consistency:
    """Measure circular shift consistency: `pair_consistency` of `circular_shifts`.

    Args:
        predict: the path that is measured.
        pictures: (N, ...).
        axes: of height and width in the batch.
        pairs: pairs of shifts for each picture, each offset uniform over the whole picture.
        seed: of the offsets; the same seed gives the same shifts whatever is measured.
        batch: pictures sent at once.
        same: of two answers, what the share is the mean of.

    Raises:
        ValueError: there is no picture, or no pair.
    """
    protocol = circular_shifts((pictures.shape[axes[0]], pictures.shape[axes[1]]), axes)
    return pair_consistency(
        predict, pictures, protocol, pairs=pairs, seed=seed, batch=batch, same=same
    )


def worst_case(
    predict: Predict,
    pictures: Pictures,
    shift: Shift,
    offsets: Iterable[Offsets],
    *,
    labels: NDArray[np.integer[Any]] | None = None,
    batch: int = DEFAULT_BATCH,
) -> WorstCase:
    """Try every shift of a set on every picture: what an adversary with that set cannot change.

    Args:
        predict: the path that is measured, once for each offset and picture.
        pictures: (N, ...).
        shift: how they move.
        offsets: the set, (M, 2), such as `grid(range(8), range(8))`.
        labels: the right class of each picture, (N,).
        batch: pictures sent at once.

    Raises:
        ValueError: there is no picture, no shift, or a label below 0.
    """
    if not len(pictures):
        raise ValueError("a worst case needs at least one picture")
    if labels is not None and (len(labels) != len(pictures) or (labels < 0).any()):
        raise ValueError(f"{len(pictures)} pictures need as many labels from 0 on, got {labels}")
    answers = [
        _answers(predict, shift(pictures, np.broadcast_to(offset, (len(pictures), 2))), batch)
        for offset in offsets
    ]
    if not answers:
        raise ValueError("a worst case needs at least one shift")
    every = np.stack(answers)  # (M, N)
    return WorstCase(
        unchanged=consistency_of((every == every[0]).all(axis=0)),
        correct=None if labels is None else consistency_of((every == labels).all(axis=0)),
    )


def standard_error(of_each: NDArray[Any]) -> float:
    """Return that of the mean of one figure for each picture, (N,); 0 where there is but one.

    For one yes or no a picture it is sqrt(C (1 - C) / (N - 1)).
    """
    return float(of_each.std(ddof=1)) / sqrt(len(of_each)) if len(of_each) > 1 else 0.0


def consistency_of(of_each: NDArray[Any]) -> Consistency:
    """Return the mean of one share for each picture, (N,), with its standard error."""
    return Consistency(float(of_each.mean()), standard_error(of_each), len(of_each))


def evaluate(predict: Predict, pictures: Pictures, batch: int) -> NDArray[Any]:
    """Predict in batches. (N, ...) -> logits (N, C)."""
    return np.concatenate(
        [predict(pictures[at : at + batch]) for at in range(0, len(pictures), batch)]
    )


def _answers(predict: Predict, pictures: Pictures, batch: int) -> NDArray[np.intp]:
    return evaluate(predict, pictures, batch).argmax(axis=1)
