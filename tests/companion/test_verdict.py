"""companion/nyquist/companion/watch/verdict.py: what probes in a row make of a model."""

import pytest

from nyquist.companion.watch.verdict import Finding, Standing, Verdict, worst

GOOD = Finding(parity=True, consistency=True)
YOUNG = Finding(parity=True, consistency=None)
NEW = Finding(parity=None, consistency=None)
WRONG = Finding(parity=False, consistency=True)
FLICKERS = Finding(parity=True, consistency=False)
UNKNOWN = None

H, D, F, U = Verdict.HEALTHY, Verdict.DEGRADED, Verdict.FAILING, Verdict.UNVERIFIABLE
M = Verdict.MEASURING


@pytest.mark.parametrize(
    ("findings", "verdicts"),
    [
        ([GOOD, GOOD], [H, H]),
        ([NEW, YOUNG, YOUNG, GOOD], [M, M, M, H]),
        ([GOOD, NEW, YOUNG, GOOD], [H, M, M, H]),
        ([NEW, YOUNG, FLICKERS], [M, M, D]),
        ([NEW, WRONG, WRONG], [M, D, F]),
        ([UNKNOWN, NEW], [U, M]),
        ([WRONG, NEW, GOOD, NEW, GOOD, NEW, GOOD], [D, D, D, D, D, D, H]),
        ([GOOD, WRONG, WRONG, WRONG], [H, D, F, F]),
        ([WRONG, WRONG], [D, F]),
        ([GOOD, FLICKERS, FLICKERS, FLICKERS], [H, D, D, F]),
        ([GOOD, WRONG, GOOD, GOOD, GOOD], [H, D, D, D, H]),
        ([WRONG, WRONG, GOOD, GOOD, GOOD, GOOD], [D, F, F, F, H, H]),
        ([WRONG, WRONG, YOUNG, YOUNG, YOUNG], [D, F, F, F, M]),
        ([WRONG, WRONG, GOOD, GOOD, FLICKERS, GOOD, GOOD, GOOD], [D, F, F, F, F, F, F, H]),
        ([WRONG, GOOD, WRONG, GOOD, WRONG], [D, D, D, D, D]),
        ([FLICKERS, WRONG, FLICKERS, FLICKERS], [D, D, D, D]),
        ([GOOD, UNKNOWN, GOOD], [H, U, H]),
        ([UNKNOWN, WRONG, UNKNOWN, WRONG], [U, D, U, D]),
        ([WRONG, WRONG, UNKNOWN, GOOD], [D, F, U, H]),
    ],
)
def test_verdicts_follow_findings_with_hysteresis(
    findings: list[Finding | None], verdicts: list[Verdict]
) -> None:
    standing = Standing()
    seen = []
    for finding in findings:
        standing = standing.after(finding)
        seen.append(standing.verdict)
    assert seen == verdicts


def test_the_worst_of_several_versions_is_told() -> None:
    assert worst([H, U]) is U
    assert worst([D, U, H]) is D
    assert worst([F, D]) is F
    assert worst([H, M, H]) is M
