"""companion/nyquist/companion/watch/candidate.py: what comparisons make of a candidate."""

from dataclasses import replace

import numpy as np
import pytest

from nyquist.companion.watch.candidate import Comparison, Decision, Pair, Trial
from nyquist.companion.watch.limits import Limits

PAIR = Pair("fashion", "1", "2", "a", "b")
ALIKE = Comparison(
    time_s=1.0,
    disagreement=0.0,
    baseline_flips=0.0,
    candidate_flips=0.0,
    baseline_confidence=0.9,
    candidate_confidence=0.9,
    baseline_s=0.01,
    candidate_s=0.01,
)


def decided(trial: Trial, comparison: Comparison, most: int = 3000) -> int:
    """Add the same comparison until there is a decision; return how many that took."""
    for count in range(1, most):
        trial.add([comparison])
        if trial.decision is not Decision.UNDECIDED:
            return count
    raise AssertionError(f"{most} comparisons decide nothing: {trial.standing()}")


def test_a_candidate_that_does_all_alike_is_promoted_once_every_limit_is_sure() -> None:
    trial = Trial(PAIR, Limits(), began_s=0.0)
    before = trial.standing()
    assert (before.decision, before.decided_at, before.over) == (Decision.UNDECIDED, 0, False)
    took = decided(trial, ALIKE)
    standing = trial.standing()
    assert standing.decision is Decision.PROMOTE
    assert standing.decided_at == standing.pictures == took < 800
    assert standing.reason == ""
    assert all(figure.held for figure in standing.figures)


@pytest.mark.parametrize(
    ("change", "figure", "most"),
    [
        ({"disagreement": 1.0}, "answers that differ", 30),
        ({"candidate_flips": 0.5}, "flip when the picture moves", 60),
        ({"candidate_confidence": 0.6}, "-5% to 5% allowed", 120),
        ({"candidate_confidence": 0.6, "baseline_confidence": 0.3}, "mean confidence", 120),
        ({"candidate_s": 0.02}, "more than 1.25 times as long", 30),
    ],
)
def test_each_figure_by_itself_holds_a_candidate_and_is_named(
    change: dict[str, float], figure: str, most: int
) -> None:
    trial = Trial(PAIR, Limits(), began_s=0.0)
    assert decided(trial, replace(ALIKE, **change)) <= most  # type: ignore[arg-type] # floats all
    assert trial.decision is Decision.HOLD
    assert figure in trial.standing().reason


def test_fewer_flips_and_shorter_times_speak_for_a_candidate() -> None:
    trial = Trial(PAIR, Limits(), began_s=0.0)
    decided(trial, replace(ALIKE, baseline_flips=0.5, candidate_s=0.001))
    assert trial.decision is Decision.PROMOTE


def test_what_is_held_stays_held_and_what_is_promoted_only_as_long_as_it_keeps_to_its_limits() -> (
    None
):
    good, bad = (Trial(PAIR, Limits(), began_s=0.0) for _ in range(2))
    differs = replace(ALIKE, disagreement=1.0)
    decided(good, ALIKE)
    assert good.standing().decision is Decision.PROMOTE
    good.add([differs] * 60)
    assert good.standing().decision is Decision.UNDECIDED
    decided(bad, differs)
    bad.add([ALIKE] * 3000)
    assert bad.standing().decision is Decision.HOLD


def test_an_embedding_has_no_confidence_and_needs_none() -> None:
    trial = Trial(PAIR, Limits(), began_s=0.0)
    bare = replace(ALIKE, baseline_confidence=None, candidate_confidence=None)
    decided(trial, bare)
    assert trial.decision is Decision.PROMOTE
    names = [figure.name for figure in trial.standing().figures]
    assert names == ["disagreement", "flips", "latency"]


def test_a_veto_holds_a_candidate_for_good_whatever_its_figures_are() -> None:
    trial = Trial(PAIR, Limits(), began_s=0.0)
    trial.add([ALIKE] * 10)
    trial.veto("version 2 takes bytes")
    trial.add([ALIKE] * 1000)
    standing = trial.standing()
    assert (standing.decision, standing.decided_at) == (Decision.HOLD, 10)
    assert standing.reason == "version 2 takes bytes"


def test_what_was_compared_before_a_restart_counts_as_if_there_had_been_none() -> None:
    dice = np.random.default_rng(0)
    seen = [replace(ALIKE, disagreement=float(dice.random() < 0.15)) for _ in range(300)]
    whole, first, again = (Trial(PAIR, Limits(), began_s=0.0) for _ in range(3))
    for one in seen:
        whole.add([one])
    for one in seen[:200]:
        first.add([one])
    again.restore(seen[:200], first.standing().decided_at)
    for one in seen[200:]:
        again.add([one])
    assert again.standing() == whole.standing()
    assert whole.decision is Decision.HOLD


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"disagreement": 0.0}, "disagreement lies between 0 and 1, got 0"),
        ({"alpha": 1.0}, "alpha lies between 0 and 1, got 1"),
        ({"latency": 1.0}, "latency is more than 1 time that of the other, got 1"),
    ],
)
def test_a_limit_out_of_its_range_is_named(limits: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**limits)
