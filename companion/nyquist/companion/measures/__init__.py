"""Numerical parity and shift consistency of any function from pictures to logits. numpy alone.

>>> import numpy as np
>>> from nyquist.companion.measures import circular_consistency
>>> pictures = np.random.default_rng(0).random((8, 1, 6, 6))
>>> brightest_row = lambda pictures: pictures.mean(axis=(1, 3))  # moves with its picture
>>> average = lambda pictures: pictures.mean(axis=(2, 3)) * [[-1, 1]]  # does not
>>> circular_consistency(average, pictures, (2, 3)).share
1.0
>>> circular_consistency(brightest_row, pictures, (2, 3)).share < 0.5
True
"""

from nyquist.companion.measures.parity import Parity, compare, measure_parity
from nyquist.companion.measures.shift_consistency import (
    Consistency,
    circular_consistency,
    circular_shifts,
    fractional_shifts,
    pair_consistency,
    random_crops,
    worst_case,
    zero_padded_shifts,
)
from nyquist.companion.measures.shift_map import AtDistance, against_distance, agreement, all_pairs
from nyquist.companion.measures.shifts import shift_circularly, shift_fractionally
from nyquist.companion.measures.stability import Stability, measure_stability, slide_along

__all__ = [
    "AtDistance",
    "Consistency",
    "Parity",
    "Stability",
    "against_distance",
    "agreement",
    "all_pairs",
    "circular_consistency",
    "circular_shifts",
    "compare",
    "fractional_shifts",
    "measure_parity",
    "measure_stability",
    "pair_consistency",
    "random_crops",
    "shift_circularly",
    "shift_fractionally",
    "slide_along",
    "worst_case",
    "zero_padded_shifts",
]
