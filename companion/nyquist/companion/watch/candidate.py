"""Is a new version fit to take the old one's place? What comparisons say, and nothing else.

Pair, Limits -> Comparison by Comparison -> a figure each, with what it may still be -> Decision

Each figure has a confidence sequence, so that the decision may be looked at after every picture:
the chance that one of them is ever wrong is `Limits.alpha`, over all figures and times together.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from math import inf, isfinite
from statistics import median

import numpy as np
from numpy.typing import NDArray

from nyquist.companion.measures.sequential import ConfidenceSequence
from nyquist.companion.watch.limits import Limits

RECENT = 1000
"""Comparisons that the usual latency is over."""

RESTORED_AT_ONCE = 25
HALF = 0.5


class Decision(Enum):
    """What is to be done with a candidate."""

    PROMOTE = "promote"
    HOLD = "hold"
    UNDECIDED = "not_enough_yet"

    @property
    def words(self) -> str:
        """As people read it."""
        return self.value.replace("_", " ")


@dataclass(frozen=True)
class Pair:
    """Two versions of a model that are served at once, by their graphs.

    Attributes:
        model: its name.
        baseline: version that is to be replaced.
        candidate: version that would replace it.
        baseline_sha256: of its graph.
        candidate_sha256: of its graph.
    """

    model: str
    baseline: str
    candidate: str
    baseline_sha256: str
    candidate_sha256: str


@dataclass(frozen=True)
class Comparison:
    """What both versions did with one picture.

    Attributes:
        time_s: when, in Unix time.
        disagreement: how far their answers differ, 0..1: 0 or 1 for classes.
        baseline_flips: share of the moves by a pixel that changed the baseline's answer, 0..1.
        candidate_flips: the candidate's.
        baseline_confidence: probability of its answer, 0..1; None where there is none (embeddings).
        candidate_confidence: the candidate's.
        baseline_s: time of its request, in seconds.
        candidate_s: the candidate's.
        trace_id: of the caller's request, hexadecimal; empty without one.
    """

    time_s: float
    disagreement: float
    baseline_flips: float
    candidate_flips: float
    baseline_confidence: float | None
    candidate_confidence: float | None
    baseline_s: float
    candidate_s: float
    trace_id: str = ""


@dataclass(frozen=True)
class Figure:
    """A mean over the pictures so far, and what it may still be.

    Attributes:
        name: disagreement, flips, confidence or latency.
        mean: of the pictures so far; None before the first.
        low: the true one is at least this.
        high: and at most this.
        least: that is fine; -inf where less is only better.
        most: that is fine.
    """

    name: str
    mean: float | None
    low: float
    high: float
    least: float
    most: float

    @property
    def held(self) -> bool | None:
        """Whether the true figure keeps to its limits; None while it may be either."""
        if self.low >= self.most or self.high <= self.least:
            return False
        return True if self.low >= self.least and self.high <= self.most else None


@dataclass(frozen=True)
class Rollout:
    """How a candidate stands.

    Attributes:
        pair: that is compared.
        began_s: when the first picture was, in Unix time.
        seen_s: when the latest was.
        pictures: compared so far.
        figures: each with what it may still be.
        decision: that they make.
        decided_at: pictures at which the decision became this one; 0 while it is open.
        reason: for it, in words.
        veto: why it is held whatever its figures are; empty where they decide.
        baseline_s: median time of a request to the baseline, lately, in seconds; None before any.
        candidate_s: to the candidate.
        over: whether one of the two is no longer served.
    """

    pair: Pair
    began_s: float
    seen_s: float
    pictures: int
    figures: tuple[Figure, ...]
    decision: Decision
    decided_at: int
    reason: str
    veto: str
    baseline_s: float | None
    candidate_s: float | None
    over: bool = False


class Trial:
    """Adds comparisons of one pair up. Not safe to use from several threads.

    Args:
        pair: that is compared.
        limits: that the candidate is held to.
        began_s: Unix time.

    Attributes:
        decision: that what was added so far makes.
    """

    def __init__(self, pair: Pair, limits: Limits, began_s: float) -> None:
        self.pair, self._veto = pair, ""
        self._began_s = self._seen_s = began_s
        self._latency = limits.latency
        each = limits.alpha / 4
        apart, flips, drift = limits.disagreement, limits.flips, limits.confidence
        both = (-1.0, 1.0)
        self._sequences = {
            "disagreement": ConfidenceSequence(each, points=(apart,)),
            "flips": ConfidenceSequence(each, both, points=(flips,)),
            "confidence": ConfidenceSequence(each, both, points=(-drift, drift)),
            "latency": ConfidenceSequence(each, around=HALF),
        }
        self._limits = {
            "disagreement": (-inf, apart),
            "flips": (-inf, flips),
            "confidence": (-drift, drift),
            "latency": (-inf, HALF),
        }
        self._times: deque[tuple[float, float]] = deque(maxlen=RECENT)
        self._decided_at = 0
        self.decision = Decision.UNDECIDED

    @property
    def pictures(self) -> int:
        """Compared so far."""
        return self._sequences["disagreement"].count

    def add(self, comparisons: Sequence[Comparison]) -> None:
        """Take comparisons in, in their order."""
        for name, values in self._values(comparisons).items():
            self._sequences[name].add(values)
        self._times.extend((one.baseline_s, one.candidate_s) for one in comparisons)
        self._seen_s = max([self._seen_s, *(one.time_s for one in comparisons)])
        if self.decision is Decision.HOLD:
            return  # for good: another candidate is another graph
        decision = decide(self._figures())
        if decision is not self.decision:
            self.decision, self._decided_at = decision, self.pictures

    def veto(self, why: str) -> None:
        """Hold the candidate whatever its figures are."""
        if self.decision is not Decision.HOLD:
            self.decision, self._decided_at = Decision.HOLD, self.pictures
        self._veto = why

    def restore(self, comparisons: Sequence[Comparison], decided_at: int) -> None:
        """Take in what was compared in an earlier run, which decided after so many pictures."""
        for start in range(0, len(comparisons), RESTORED_AT_ONCE):
            self.add(comparisons[start : start + RESTORED_AT_ONCE])
        if self.decision is not Decision.UNDECIDED and decided_at:
            self._decided_at = decided_at

    def standing(self, *, over: bool = False) -> Rollout:
        """Return how the candidate stands."""
        figures = self._figures()
        usual = [median(times) for times in zip(*self._times, strict=True)] or [None, None]
        return Rollout(
            pair=self.pair,
            began_s=self._began_s,
            seen_s=self._seen_s,
            pictures=self.pictures,
            figures=figures,
            decision=self.decision,
            decided_at=self._decided_at,
            reason=reason_of(figures, self._latency, self._veto),
            veto=self._veto,
            baseline_s=usual[0],
            candidate_s=usual[1],
            over=over,
        )

    def _values(self, comparisons: Sequence[Comparison]) -> dict[str, NDArray[np.float64]]:
        known = [
            (one.candidate_confidence, one.baseline_confidence)
            for one in comparisons
            if one.candidate_confidence is not None and one.baseline_confidence is not None
        ]
        values = {
            "disagreement": [one.disagreement for one in comparisons],
            "flips": [one.candidate_flips - one.baseline_flips for one in comparisons],
            "confidence": [candidate - baseline for candidate, baseline in known],
            "latency": [
                float(one.candidate_s > self._latency * one.baseline_s) for one in comparisons
            ],
        }
        return {name: np.array(of) for name, of in values.items() if of}

    def _figures(self) -> tuple[Figure, ...]:
        """Return every figure; of embeddings there is no confidence."""
        return tuple(
            Figure(name, one.mean, one.low, one.high, *self._limits[name])
            for name, one in self._sequences.items()
            if one.count or name != "confidence" or not self.pictures
        )


def decide(figures: Sequence[Figure]) -> Decision:
    """Return what figures make of a candidate: one beyond its limit is enough to hold it."""
    held = [figure.held for figure in figures]
    if False in held:
        return Decision.HOLD
    return Decision.UNDECIDED if None in held else Decision.PROMOTE


def reason_of(figures: Sequence[Figure], latency: float, veto: str = "") -> str:
    """Say what speaks against a candidate, or what is not known yet; nothing if all is well."""
    beyond = [_in_words(figure, latency) for figure in figures if figure.held is False]
    if veto or beyond:
        return "; ".join(filter(None, (veto, *beyond)))
    known = [figure for figure in figures if figure.mean is not None]
    unsure = [_in_words(figure, latency) for figure in known if figure.held is None]
    return "not known yet: " + "; ".join(unsure) if unsure else ""


def _in_words(figure: Figure, latency: float) -> str:
    what = {
        "disagreement": "answers that differ",
        "flips": "more answers that flip when the picture moves by a pixel",
        "confidence": "difference of the mean confidence",
        "latency": f"requests that take more than {latency:g} times as long",
    }[figure.name]
    limit = f"at most {100 * figure.most:g}%"
    if isfinite(figure.least):
        limit = f"{100 * figure.least:g}% to {100 * figure.most:g}%"
    return f"{what}: {100 * figure.low:.2f}% to {100 * figure.high:.2f}%, {limit} allowed"
