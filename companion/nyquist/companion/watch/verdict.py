"""What the evidence of one probe after another says of a model.

Standing, Finding -> Standing

One bad probe is a warning, several in a row a verdict, and it takes several good ones to lift it:
so no verdict flaps, and none is lost between two scrapes.
"""

from dataclasses import dataclass, replace
from enum import Enum

PARITY_TO_FAIL = 2
CONSISTENCY_TO_FAIL = 3
GOOD_TO_RECOVER = 3


class Verdict(Enum):
    """How a model is, the worst last."""

    HEALTHY = "healthy"
    MEASURING = "measuring"
    UNVERIFIABLE = "unverifiable"
    DEGRADED = "degraded"
    FAILING = "failing"


@dataclass(frozen=True)
class Finding:
    """What one probe found.

    Attributes:
        parity: whether the answers are within the tolerance; None where that is not known yet.
        consistency: whether they stay under shifts as often as they must; likewise.
    """

    parity: bool | None
    consistency: bool | None

    @property
    def good(self) -> bool:
        """Whether nothing speaks against the model."""
        return self.parity is not False and self.consistency is not False

    @property
    def whole(self) -> bool:
        """Whether there is nothing left to measure."""
        return self.parity is not None and self.consistency is not None


@dataclass(frozen=True)
class Standing:
    """A verdict, and the probes in a row that led to it.

    Attributes:
        verdict: of the model; None before its first probe.
        bad_parity: latest probes in a row with a parity beyond the tolerance.
        bad_consistency: latest probes in a row with a consistency below it.
        good: latest probes in a row with neither.
    """

    verdict: Verdict | None = None
    bad_parity: int = 0
    bad_consistency: int = 0
    good: int = 0

    def after(self, finding: Finding | None) -> "Standing":
        """Return the standing after one more probe; None is one that could not be made.

        One that has not come to the parity yet counts for nothing.
        """
        if finding is None:
            return Standing(Verdict.UNVERIFIABLE)
        if finding.parity is None:
            return self if self.ill else Standing(Verdict.MEASURING)
        counted = Standing(
            self.verdict,
            bad_parity=0 if finding.parity else self.bad_parity + 1,
            bad_consistency=self.bad_consistency + 1 if finding.consistency is False else 0,
            good=self.good + 1 if finding.good else 0,
        )
        return replace(counted, verdict=_verdict(counted, finding))

    @property
    def ill(self) -> bool:
        """Whether good probes have something to make up for."""
        return self.verdict in (Verdict.DEGRADED, Verdict.FAILING)


def worst(verdicts: list[Verdict]) -> Verdict:
    """Return the worst of one or more, such as those of a model's versions."""
    return max(verdicts, key=list(Verdict).index)


def _verdict(counted: Standing, finding: Finding) -> Verdict:
    """Return the verdict that these counts turn the earlier one into."""
    enough = counted.bad_parity >= PARITY_TO_FAIL or counted.bad_consistency >= CONSISTENCY_TO_FAIL
    if counted.good:
        if counted.verdict and counted.ill and counted.good < GOOD_TO_RECOVER:
            return counted.verdict
        return Verdict.HEALTHY if finding.whole else Verdict.MEASURING
    failing = enough or counted.verdict is Verdict.FAILING
    return Verdict.FAILING if failing else Verdict.DEGRADED
