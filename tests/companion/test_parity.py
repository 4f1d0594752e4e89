from math import inf

import numpy as np
import pytest

from nyquist.companion.measures.parity import Parity, compare, measure_parity


def test_errors_and_agreement_are_what_they_are_by_hand() -> None:
    reference = np.array([[1.0, 2.0], [5.0, 4.0]], np.float32)
    served = np.array([[1.0, 2.5], [3.0, 4.0]], np.float32)
    parity = compare(reference, served)
    assert parity.max_abs_error == 2.0
    assert parity.mean_abs_error == pytest.approx(2.5 / 4)
    assert parity.agreement == 0.5
    assert parity.pictures == 2


def test_a_nan_on_either_side_is_an_infinite_error() -> None:
    sound, broken = np.zeros((1, 2)), np.array([[0.0, np.nan]])
    assert compare(sound, broken).max_abs_error == np.inf
    assert compare(broken, sound).max_abs_error == np.inf
    infinite = np.array([[0.0, np.inf]])
    assert compare(infinite, infinite).max_abs_error == np.inf


def test_the_relative_error_is_a_share_of_the_spread_over_the_classes() -> None:
    reference = np.array([[0.0, 2.0], [100.0, 107.0]])  # standard deviations 1 and 3.5
    parity = compare(reference, reference + np.array([[0, 0], [0, 0.25]]))
    assert parity.spread == pytest.approx(np.sqrt((1 + 3.5**2) / 2))
    assert parity.relative_error == pytest.approx(0.25 / parity.spread)


def test_an_error_beside_no_spread_is_infinite_and_no_error_is_none() -> None:
    constant = np.ones((2, 3))
    assert compare(constant, constant).relative_error == 0
    assert compare(constant, constant + 1e-9).relative_error == np.inf


@pytest.mark.parametrize("shapes", [((2, 3), (2, 4)), ((0, 3), (0, 3)), ((2, 3), (1, 3))])
def test_logits_that_cannot_be_compared_are_refused(
    shapes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    with pytest.raises(ValueError, match="cannot compare"):
        compare(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_every_batch_goes_through_both_paths_as_it_is() -> None:
    sizes: list[int] = []

    def first(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        return batch

    parity = measure_parity(first, lambda batch: batch + 1, [np.zeros((n, 2)) for n in (1, 3, 8)])
    assert sizes == [1, 3, 8]
    assert (parity.max_abs_error, parity.pictures) == (1.0, 12)


def test_what_is_beyond_a_limit_counts_as_that_and_keeps_its_share_of_the_spread() -> None:
    usual = Parity(1e-5, 1e-6, 1.0, 4, spread=2.0)
    assert usual.bounded(20.0) == usual
    assert usual.bounded(0.0) == usual
    forged = Parity(1e30, 1e29, 0.0, 4, spread=2.0).bounded(20.0)
    assert (forged.max_abs_error, forged.mean_abs_error, forged.spread) == (20.0, 20.0, 2.0)
    assert Parity(inf, inf, 0.0, 4, spread=2.0).bounded(20.0).relative_error == 10.0
    bright = Parity(1e-3, 1e-4, 1.0, 4, spread=200.0).bounded(20.0)
    assert bright.spread == 20.0
    assert bright.relative_error == pytest.approx(1e-3 / 200)
    assert bright.mean_abs_error == pytest.approx(1e-5)
