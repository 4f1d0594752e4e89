"""Answers over a set of shifts: which pairs agree, and how that falls with their distance.

    answers to one picture at K shifts -> agreement (K, K) -> Consistency, over all its pairs

Where `pair_consistency` draws pairs of shifts, here every pair of a small set is looked at, so that
what it estimates is exact for that set.

>>> row = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])  # the answer flips at the third shift
>>> [round(one.consistency.share, 2) for one in against_distance([agreement(row)], line(3))]
[0.5, 0.0]
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.companion.measures.parity import Same, same_highest
from nyquist.companion.measures.shift_consistency import Consistency, consistency_of
from nyquist.companion.measures.shifts import Offsets


@dataclass(frozen=True)
class AtDistance:
    """What moves of one length do.

    Attributes:
        distance: of the two shifts, in pixels along the axis that they differ by.
        consistency: share of these pairs that agree, over pictures.
        pairs: of shifts of that distance, all pictures together.
        changed: of these, how many do not agree.
    """

    distance: float
    consistency: Consistency
    pairs: int
    changed: int


def line(positions: int) -> Offsets:
    """List the offsets (0, 0), (0, 1), ... of a slide to the right. -> (positions, 2)."""
    return np.stack([np.zeros(positions, int), np.arange(positions)], axis=1)


def agreement(numbers: NDArray[Any], same: Same = same_highest) -> NDArray[np.float64]:
    """Say of every two shifts of one picture whether they have the same answer. -> (K, K), 0..1.

    Args:
        numbers: of the answer at each shift, (K, C).
        same: of two answers.
    """
    rows = [same(np.broadcast_to(one, numbers.shape), numbers) for one in numbers]
    return np.stack(rows).astype(np.float64)


def all_pairs(agreements: Sequence[NDArray[np.float64]]) -> Consistency:
    """Return the share of pairs of shifts that agree: the mean that `pair_consistency` estimates.

    Args:
        agreements: of each picture, (K, K), K >= 2. A shift and itself are a pair too, as they are
            when pairs are drawn.
    """
    return consistency_of(np.array([one.mean() for one in agreements]))


def against_distance(
    agreements: Sequence[NDArray[np.float64]], offsets: Offsets
) -> list[AtDistance]:
    """Return the consistency for each distance of two shifts, ascending.

    Pairs count that differ along one axis alone; where there are none, as along a diagonal, those
    that differ equally along both.

    Args:
        agreements: of each picture, (K, K).
        offsets: of the shifts, (K, 2).
    """
    first, second = np.triu_indices(len(offsets), 1)
    apart = np.abs(offsets[first] - offsets[second])
    along = (apart == 0).any(axis=1)
    if not along.any():
        along = apart[:, 0] == apart[:, 1]
    distances = np.where(along, apart.max(axis=1), 0)
    found = []
    for distance in np.unique(distances[along]):
        pairs = distances == distance
        shares = np.array([one[first[pairs], second[pairs]].mean() for one in agreements])
        count = int(pairs.sum()) * len(agreements)
        changed = round(float((1 - shares).sum()) * pairs.sum())
        found.append(AtDistance(float(distance), consistency_of(shares), count, changed))
    return found
