"""What the comparison of nyquist plan with real replicas has measured, row by row."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Row:
    """One window, and its simulations.

    Attributes:
        kind: of the replicas.
        replicas: how many.
        balancing: of the load.
        rate: requests a second that were planned, of all.
        round: from 1.
        requests: that were sent.
        answered: a second, from the first to the last answer.
        measured_ms: p50, p90, p99.
        foreseen_ms: the same, simulated with the profile as it was calibrated before.
        explained_ms: simulated with the runs as long, on average, as they were in this window.
        foreseen_rate: answers a second of the first.
        run: how much longer runs took in this window than as calibrated.
    """

    kind: str
    replicas: int
    balancing: str
    rate: float
    round: int
    requests: int
    answered: float
    measured_ms: tuple[float, ...]
    foreseen_ms: tuple[float, ...]
    explained_ms: tuple[float, ...]
    foreseen_rate: float
    run: float


def summed_up(rows: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    """Return the rows of each window over all rounds, each behind the first of them."""
    found: dict[tuple[str, int, str, float], list[Row]] = {}
    for row in rows:
        found.setdefault((row.kind, row.replicas, row.balancing, row.rate), []).append(row)
    return [(each[0], each) for each in found.values()]


def read(path: Path) -> list[Row]:
    """Read what `measure` wrote."""
    return [Row(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
