from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.bench import Bench
from benchmarks.connection import CallFailed
from benchmarks.model import Request
from benchmarks.plan import QUICK
from benchmarks.results import Fact, Results
from benchmarks.work import Work, closed, poisson

REQUEST = Request(b"", 1, np.zeros((1, 10), np.float32))


class Overrun:
    """A server that answers nothing."""

    port = pid = 0

    def __init__(self) -> None:
        self.asked = 0

    def check(self, request: Request) -> None:
        del request
        self.asked += 1
        raise CallFailed("Exceeds maximum queue size of 1024")


def test_a_server_that_arrivals_have_overrun_is_measured_in_all_else(tmp_path: Path) -> None:
    bench = Bench(QUICK, Results({}), tmp_path / "results.json", Console(quiet=True))
    server: Any = Overrun()

    def measure(work: Work, number: int) -> int:
        of: dict[str, Fact] = {
            "experiment": "servers",
            "model": "m",
            "server": "nyquist",
            "round": number,
        }
        bench.window(server, work, {**of, **work.facts})
        return server.asked

    most, half = poisson(REQUEST, 0.9, 0.1), poisson(REQUEST, 0.5, 0.1)
    assert measure(most, 1) == 1
    assert measure(most, 2) == 1
    assert measure(half, 2) == 2
    assert measure(closed(REQUEST, 1, 0.1), 2) == 3
    assert measure(closed(REQUEST, 4, 0.1), 2) == 3
    assert list(bench.results.missing) == [
        "nyquist on m, 90% of the limit",
        "nyquist on m, 50% of the limit",
        "nyquist on m",
    ]
