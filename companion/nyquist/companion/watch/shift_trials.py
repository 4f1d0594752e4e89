"""Shift consistency, a few trials at a time: the figure that a long measurement would give.

protocol, pictures -> trials in a fixed order -> the latest outcome of each -> Consistency

A trial is one picture under one pair of shifts. The first round is of few trials and each later one
doubles them, so that a first figure is there at once and every round narrows it. After the last
trial comes the first again, so the figure is always over the latest outcome of every trial, and
that of a graph that does not change is `pair_consistency` to the digit.
"""

from dataclasses import dataclass

import numpy as np

from nyquist.companion.measures.parity import Predict, Same, same_highest
from nyquist.companion.measures.shift_consistency import (
    DEFAULT_PAIRS,
    Consistency,
    ShiftProtocol,
    circular_shifts,
    consistency_of,
    draw_offsets,
    fractional_shifts,
    random_crops,
    zero_padded_shifts,
)
from nyquist.companion.measures.shifts import Pictures
from nyquist.companion.references.repository import LoadedReference

CIRCULAR = "circular"
CROP_REACH = 8
"""Corners of crops lie in 0..7: what is left of the picture must still be what the model takes."""

FIRST_TRIALS = 4
"""Of the first round: one call of the server for either shift."""


@dataclass(frozen=True)
class Progress:
    """How far the trials of a protocol have come that have not all been made yet.

    Attributes:
        trials: made.
        all_trials: that there are.
        rounds: complete; each is twice the one before it.
        all_rounds: that there are.
        consistency: of the trials that were made; None before the first.
    """

    trials: int
    all_trials: int
    rounds: int
    all_rounds: int
    consistency: Consistency | None

    @property
    def words(self) -> str:
        """How far they are: 3 of 7 rounds."""
        return f"{self.rounds} of {self.all_rounds} rounds"


class ShiftTrials:
    """The trials of one protocol on one set of pictures.

    Args:
        pictures: (N, ...).
        protocol: how they move.
        pairs: of shifts for each picture.
        seed: of the offsets.
        same: of two answers, what the share is the mean of.

    Attributes:
        done: trials made so far, over all rounds.
    """

    def __init__(
        self,
        pictures: Pictures,
        protocol: ShiftProtocol,
        *,
        pairs: int = DEFAULT_PAIRS,
        seed: int = 0,
        same: Same = same_highest,
    ) -> None:
        self._pictures, self._protocol, self._judge = pictures, protocol, same
        drawn = list(draw_offsets(protocol, len(pictures), pairs, seed))
        self._offsets = np.concatenate(drawn, axis=1)  # (2, pairs * N, 2)
        self._same = np.zeros(len(pictures) * pairs)
        self.done = 0

    def __len__(self) -> int:
        return len(self._same)

    @property
    def left(self) -> int:
        """Trials that have not been made yet."""
        return max(0, len(self) - self.done)

    @property
    def ends(self) -> list[int]:
        """Trials that are made once each round is complete: 4, 8, 16, ... and all."""
        doublings = range(len(self).bit_length())
        return [*(n for n in (FIRST_TRIALS << at for at in doublings) if n < len(self)), len(self)]

    @property
    def consistency(self) -> Consistency | None:
        """The share of the trials that left the answer as it was; None until all were made."""
        return None if self.left else self._consistency()

    @property
    def progress(self) -> Progress:
        """How far the first pass through all the trials is."""
        made, ends = min(self.done, len(self)), self.ends
        rounds = sum(end <= made for end in ends)
        known = self._consistency() if made else None
        return Progress(made, len(self), rounds, len(ends), known)

    def _consistency(self) -> Consistency:
        """Return the share of the trials made so far, of each picture and then of all."""
        pictures = np.arange(min(self.done, len(self))) % len(self._pictures)
        made = np.bincount(pictures)
        return consistency_of(np.bincount(pictures, self._same[: len(pictures)]) / made)

    def make(self, predict: Predict, count: int) -> None:
        """Make the next `count` trials at most, in two calls; fewer where a round is complete."""
        start = self.done % len(self)
        trials = np.arange(start, min(start + count, len(self)))
        pictures = self._pictures[trials % len(self._pictures)]
        first, second = (
            predict(shift(pictures, offsets[trials]))
            for shift, offsets in zip(
                (self._protocol.first, self._protocol.second), self._offsets, strict=True
            )
        )
        self._same[trials] = self._judge(first, second)
        self.done += len(trials)


def fitting_protocols(known: LoadedReference, pictures: Pictures) -> dict[str, ShiftProtocol]:
    """Return every protocol that pictures of a model can take, by the name it is shown under.

    Crops need pictures that are larger than the least that the model takes.
    """
    axes = known.axes
    size = (pictures.shape[axes[0]], pictures.shape[axes[1]])
    protocols = {
        CIRCULAR: circular_shifts(size, axes),
        "zero_padded": zero_padded_shifts(axes),
        "half_pixel": fractional_shifts(size, axes),
    }
    crop = (size[0] - CROP_REACH + 1, size[1] - CROP_REACH + 1)
    cut = list(pictures.shape[1:])
    cut[axes[0] - 1], cut[axes[1] - 1] = crop
    if known.input.fits(cut):
        protocols["crops"] = random_crops(crop, axes, reach=CROP_REACH)
    return protocols
