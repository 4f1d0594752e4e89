"""Every candidate beside the version that it would replace: the one source of its decision.

the worker -> note -> Trial, History -> `rollouts`: page, metrics, API and command line
"""

import logging
from collections.abc import Collection, Sequence
from threading import Lock
from time import time

from nyquist.companion.watch.candidate import Comparison, Decision, Pair, Rollout, Trial
from nyquist.companion.watch.history import History
from nyquist.companion.watch.limits import Limits
from nyquist.companion.watch.record import Disagreement, Key

logger = logging.getLogger(__name__)

KEPT = 24
"""Pictures that differ, of each pair."""

RESTORED = 50_000
"""Comparisons that are added up again at a start, which takes some 4 s of CPU time."""


class Rollouts:
    """The latest candidate of each model; safe to use from several threads.

    Args:
        limits: that candidates are held to.
        history: of earlier runs, and for later ones.

    Attributes:
        limits: as given.
    """

    def __init__(self, limits: Limits, history: History) -> None:
        self.limits, self._history = limits, history
        self._trials: dict[str, Trial] = {}
        self._over: set[str] = set()
        self._lock = Lock()
        for pair in history.pairs():
            comparisons = history.comparisons(pair, RESTORED)
            trial = self._trials[pair.model] = Trial(pair, limits, comparisons[0].time_s)
            trial.restore(comparisons, history.decided_at(pair))

    def rollouts(self, model: str = "") -> list[Rollout]:
        """Return how the candidate of one model stands, or those of all, by name."""
        with self._lock:
            return [
                self._trials[name].standing(over=name in self._over)
                for name in sorted(self._trials)
                if model in ("", name)
            ]

    def differences(self, pair: Pair) -> Sequence[Disagreement]:
        """Return pictures that both versions answer differently, the latest first.

        Of each, `served` is the candidate's answer and `reference` the baseline's.
        """
        return self._history.differences(pair)

    def note(self, pair: Pair, comparison: Comparison) -> None:
        """Add what both versions did with a picture."""
        self._history.note_comparison(pair, comparison)
        with self._lock:
            trial = self._of(pair, comparison.time_s)
            before = trial.decision
            trial.add([comparison])
            standing = trial.standing()
        if standing.decision is not before:
            self._decided(standing)

    def note_misfit(self, pair: Pair, why: str) -> None:
        """Hold a candidate that cannot be compared at all."""
        with self._lock:
            self._veto(self._of(pair, time()), why)

    def note_failing(self, key: Key, sha256: str, why: str) -> None:
        """Hold a candidate that is found not to compute what its reference does."""
        with self._lock:
            trial = self._trials.get(key[0])
            graph = trial and (trial.pair.candidate, trial.pair.candidate_sha256)
            if trial and graph == (key[1], sha256):
                self._veto(trial, f"version {key[1]} is failing: {why}")

    def note_difference(self, pair: Pair, difference: Disagreement) -> None:
        """Keep a picture that both answer differently; of a pair the latest stay."""
        self._history.note_difference(pair, difference, KEPT)

    def note_served(self, model: str, versions: Collection[str]) -> None:
        """Take down which versions of a model are served: a candidate needs the other one."""
        with self._lock:
            trial = self._trials.get(model)
            if trial and not {trial.pair.baseline, trial.pair.candidate} <= set(versions):
                self._over.add(model)

    def _veto(self, trial: Trial, why: str) -> None:
        held = trial.decision is Decision.HOLD
        trial.veto(why)
        if not held:
            self._decided(trial.standing())

    def _of(self, pair: Pair, now: float) -> Trial:
        """Return the trial of a pair; another pair of the same model is over."""
        trial = self._trials.get(pair.model)
        self._over.discard(pair.model)
        if trial is None or trial.pair != pair:
            trial = self._trials[pair.model] = Trial(pair, self.limits, now)
            logger.info("comparing %s version %s with %s", *_words(pair))
        return trial

    def _decided(self, standing: Rollout) -> None:
        self._history.note_decision(standing)
        level = logging.WARNING if standing.decision is Decision.HOLD else logging.INFO
        logger.log(
            level,
            "%s version %s beside %s: %s after %d pictures%s",
            *_words(standing.pair),
            standing.decision.words,
            standing.pictures,
            f": {standing.reason}" if standing.reason else "",
        )


def _words(pair: Pair) -> tuple[str, str, str]:
    return pair.model, pair.candidate, pair.baseline
