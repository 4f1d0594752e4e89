"""companion/nyquist/companion/measures/sequential.py: intervals that may be looked at any time."""

from math import log, log1p, sqrt

import numpy as np
import pytest

from nyquist.companion.measures.sequential import MOST_AT_STAKE, ConfidenceSequence

ALPHA = 0.05


def ruled_out(values: list[float], mean: float, alpha: float) -> int:
    """Bet against one mean, value by value, as the paper has it; return when it is ruled out."""
    total = squares = up = down = 0.0
    for t, value in enumerate(values, 1):
        variance = (0.25 + squares) / t
        stake = sqrt(2 * log(2 / alpha) / (variance * t * log1p(t)))
        up += log1p(min(stake, MOST_AT_STAKE / mean) * (value - mean))
        down += log1p(-min(stake, MOST_AT_STAKE / (1 - mean)) * (value - mean))
        if max(up, down) >= log(2 / alpha):
            return t
        total += value
        squares += (value - (0.5 + total) / (t + 1)) ** 2
    return 0


@pytest.mark.parametrize("mean", [0.1, 0.3, 0.34, 0.453, 0.55, 0.9])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 2.0)])
def test_a_mean_is_ruled_out_when_a_bettor_against_it_has_won_enough(
    mean: float, bounds: tuple[float, float]
) -> None:
    values = np.random.default_rng(0).beta(2, 3, 500)  # their mean is 0.4
    when = ruled_out(values.tolist(), mean, ALPHA)
    least, span = bounds[0], bounds[1] - bounds[0]
    point = least + span * mean
    sequence = ConfidenceSequence(ALPHA, bounds, around=least, points=(point,))
    sequence.add(least + span * values[: when - 1])
    assert sequence.low < point < sequence.high
    sequence.add(least + span * values[when - 1 : when])
    assert sequence.low >= point - 1e-12 if mean < 0.4 else sequence.high <= point + 1e-12
    assert sequence.low < least + span * 0.4 < sequence.high
    assert sequence.mean == pytest.approx(least + span * values[:when].mean())


def test_one_by_one_or_all_at_once_is_the_same() -> None:
    values = np.random.default_rng(1).random(600)
    whole, parts = ConfidenceSequence(ALPHA), ConfidenceSequence(ALPHA)
    whole.add(values)
    for value in values:
        parts.add(np.array([value]))
    assert (parts.low, parts.high) == (whole.low, whole.high)
    assert 0 < whole.low < 0.5 < whole.high < 1


def test_values_of_other_bounds_are_those_of_0_to_1_stretched() -> None:
    values = np.random.default_rng(2).random(400)
    plain, wide = ConfidenceSequence(ALPHA, around=0.5), ConfidenceSequence(ALPHA, (-1, 1))
    plain.add(values)
    wide.add(2 * values - 1)
    assert (wide.low, wide.high) == pytest.approx((2 * plain.low - 1, 2 * plain.high - 1))


def test_what_never_happens_is_soon_known_to_be_rare_and_never_known_to_be_impossible() -> None:
    never = ConfidenceSequence(ALPHA / 4, points=(0.05,))
    never.add(np.zeros(131))
    assert never.high > 0.05
    never.add(np.zeros(9))
    assert never.low == 0
    assert 0 < never.high <= 0.05


def test_bounds_that_the_mean_has_left_are_given_up() -> None:
    sequence = ConfidenceSequence(ALPHA)
    sequence.add(np.zeros(500))
    assert sequence.high < 0.05
    sequence.add(np.ones(50))
    assert sequence.high == 1
    sequence.add(np.zeros(10_000))
    assert sequence.mean
    assert sequence.mean < sequence.high < 0.05


def test_looking_after_every_value_is_wrong_no_more_often_than_it_says() -> None:
    runs, dice = 50, np.random.default_rng(3)
    wrong = 0
    for _ in range(runs):
        sequence = ConfidenceSequence(0.2, points=(0.3,))
        sequence.add((dice.random(500) < 0.3).astype(float))
        wrong += sequence.low >= 0.3 or sequence.high <= 0.3
    assert wrong <= 0.2 * runs


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_a_value_outside_its_bounds_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.0\.\.1\.0"):
        ConfidenceSequence(ALPHA).add(np.array([0.5, value]))


def test_a_chance_is_no_certainty() -> None:
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        ConfidenceSequence(1)
