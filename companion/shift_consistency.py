"""Shift consistency: does the answer stay when the picture moves?

C = E over pictures x and shifts d1, d2 of [argmax f(S_d1 x) == argmax f(S_d2 x)]

Zhang, "Making Convolutional Networks Shift-Invariant Again", 2019, section 4; here with circular
shifts (Chaman and Dokmanic, 2021), offsets of each picture's own, and a fixed seed.
"""

from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from companion.parity import Predict

DEFAULT_PAIRS = 4
DEFAULT_BATCH = 64


@dataclass(frozen=True)
class Consistency:
    """A measured share of pairs of shifts that agree.

    Attributes:
        share: 0..1.
        standard_error: of the share, over pictures.
        pictures: how many were shifted.
    """

    share: float
    standard_error: float
    pictures: int


def shift_circularly(
    pictures: NDArray[Any], offsets: NDArray[np.integer[Any]], axes: tuple[int, int]
) -> NDArray[Any]:
    """Roll each picture by its own offset. pictures: (N, ...), offsets: (N, 2) -> (N, ...).

    Args:
        pictures: a batch.
        offsets: pixels down and to the right.
        axes: of height and width in the batch.
    """
    inner = (axes[0] - 1, axes[1] - 1)
    moved = [
        np.roll(picture, tuple(offset), inner)
        for picture, offset in zip(pictures, offsets, strict=True)
    ]
    return np.stack(moved)


def circular_consistency(
    predict: Predict,
    pictures: NDArray[Any],
    axes: tuple[int, int],
    *,
    pairs: int = DEFAULT_PAIRS,
    seed: int = 0,
    batch: int = DEFAULT_BATCH,
) -> Consistency:
    """Measure circular shift consistency.

    Args:
        predict: the path that is measured.
        pictures: (N, ...).
        axes: of height and width in the batch.
        pairs: pairs of shifts for each picture, each offset uniform over the whole picture.
        seed: of the offsets; the same seed gives the same shifts whatever is measured.
        batch: pictures sent at once.

    Raises:
        ValueError: there is no picture.
    """
    if not len(pictures):
        raise ValueError("shift consistency needs at least one picture")
    size = (pictures.shape[axes[0]], pictures.shape[axes[1]])
    generator = np.random.default_rng(seed)
    agreeing = np.empty((pairs, len(pictures)), dtype=bool)
    for pair in range(pairs):
        first, second = (
            _answers(predict, shift_circularly(pictures, offsets, axes), batch)
            for offsets in generator.integers(0, size, (2, len(pictures), 2))
        )
        agreeing[pair] = first == second
    of_each = agreeing.mean(axis=0)
    spread = float(of_each.std(ddof=1)) if len(pictures) > 1 else 0.0
    return Consistency(float(of_each.mean()), spread / sqrt(len(pictures)), len(pictures))


def _answers(predict: Predict, pictures: NDArray[Any], batch: int) -> NDArray[np.intp]:
    parts = [predict(pictures[at : at + batch]) for at in range(0, len(pictures), batch)]
    return np.concatenate(parts).argmax(axis=1)
