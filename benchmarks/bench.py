"""Servers started and paused, windows measured and saved: what every experiment is made of.

started -> rounds -> awake -> window -> results, saved after every round
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.connection import CallFailed
from benchmarks.load import LoadWindow, press
from benchmarks.model import MeasuredModel, WrongAnswer
from benchmarks.plan import Plan
from benchmarks.results import Fact, Results
from benchmarks.servers import (
    HEAVY_MMACS,
    AttachedServer,
    Contender,
    Launch,
    NotMeasured,
    RunningServer,
    free_port,
    running,
)
from benchmarks.work import Work, tensors

WARM_UP = 0.25
"""Of a window's time, before it."""


class Bench:
    """Where measurements are made and kept.

    Args:
        plan: what to measure.
        results: what there is already; it is not measured again.
        path: where the results are saved.
        console: where progress is told.
    """

    def __init__(self, plan: Plan, results: Results, path: Path, console: Console) -> None:
        self.plan, self.results = plan, results
        self._path, self._console = path, console

    def started(
        self,
        stack: ExitStack,
        contender: Contender,
        subject: MeasuredModel,
        repository: Path,
        of: Mapping[str, Fact],
    ) -> RunningServer | None:
        """Start a server, note how long that took, and pause it; None if it cannot be had.

        Args:
            stack: ends the server.
            contender: what to start.
            subject: the model that it is asked for.
            repository: what it serves.
            of: the facts of the measurement.
        """
        if self._gave_up(of):
            return None
        scratch = repository.parent / contender.name
        scratch.mkdir(exist_ok=True)
        launch = Launch(subject, repository, tensors(subject, 1), free_port(), scratch)
        begin = "starting" if contender.installed() else "installing and starting"
        self._console.print(f"{subject.name}: {begin} {contender.name}")
        try:
            server = stack.enter_context(running(contender, launch))
        except NotMeasured as error:
            self._miss({"server": contender.name}, str(error))
            return None
        number = len(self.results.select(**of, what="start")) + 1
        times = {"start_s": server.start_s, "load_s": server.load_s()}
        self.results.add({**of, "what": "start", "round": number}, times)
        server.pause()
        return server

    def rounds(self, what: str) -> Iterator[int]:
        """Count the rounds, tell of each, and save after each."""
        for number in range(1, self.plan.rounds + 1):
            self._console.print(f"{what}: round {number} of {self.plan.rounds}")
            yield number
            self.save()

    def window(self, server: AttachedServer, work: Work, of: Mapping[str, Fact]) -> None:
        """Check an answer, warm the server up, measure one window; `of` has the round."""
        if self.results.has(**of) or self._gave_up(of):
            return
        pattern, body = work.pattern(self._most(of)), work.request.body
        try:
            server.check(work.request)
            press(server.port, body, pattern, work.seconds * WARM_UP, server.pid)
            window = press(
                server.port, body, pattern, work.seconds, server.pid, seed=int(of["round"])
            )
        except (CallFailed, WrongAnswer, OSError) as error:
            self._miss(of, str(error))
            return
        self.results.add(of, figures(window, work.request.images))

    def save(self) -> None:
        """Write the results."""
        self.results.save(self._path)

    def seconds(self, subject: MeasuredModel, server: str) -> float:
        """Return how long a window of a server takes on a model."""
        heavy = subject.mmacs >= HEAVY_MMACS and not server.startswith("echo")
        return self.plan.heavy_s if heavy else self.plan.light_s

    def _most(self, of: Mapping[str, Fact]) -> float:
        """Return the most images a second of this server in closed loops of this round."""
        same = {key: of[key] for key in ("experiment", "model", "server", "round")}
        rows = self.results.select(**same, load="closed", payload="tensor", batch=1)
        return max((row.figures["images_s"] for row in rows), default=0.0)

    def _miss(self, of: Mapping[str, Fact], reason: str) -> None:
        name = _names(of)[-1]
        self.results.missing[name] = reason
        self._console.print(f"[red]{name} is not measured:[/] {reason}", highlight=False)

    def _gave_up(self, of: Mapping[str, Fact]) -> bool:
        return any(name in self.results.missing for name in _names(of))


def _names(of: Mapping[str, Fact]) -> list[str]:
    """Return what can be left out of these facts, from the server to its work.

    A server that Poisson arrivals have overrun is measured in all else.
    """
    names = [str(of["server"])]
    if "model" in of:
        names.append(f"{names[-1]} on {of['model']}")
    if "fraction" in of:
        names.append(f"{names[-1]}, {of['fraction']:.0%} of the limit")
    return names


@contextmanager
def folder() -> Iterator[Path]:
    """Make a folder and remove it."""
    with tempfile.TemporaryDirectory(prefix="nyquist-bench-") as name:
        yield Path(name)


def figures(window: LoadWindow, images: int) -> dict[str, Any]:
    """Return what the tables and plots show of a window, with `images` in each request."""
    count = window.calls * images
    return {
        "images_s": round(count / window.seconds, 2),
        "cpu_us": round(window.server_cpu_s / count * 1e6, 2),
        "client_cpu_us": round(window.client_cpu_s / count * 1e6, 2),
        "p50_us": round(window.latency_us(50), 1),
        "p95_us": round(window.latency_us(95), 1),
        "p99_us": round(window.latency_us(99), 1),
        "p999_us": round(window.latency_us(99.9), 1),
        "peak_mb": round(window.peak_bytes / 1e6, 1),
        "calls": window.calls,
        "seconds": round(window.seconds, 4),
        "quantiles_us": [round(value, 1) for value in window.quantiles_us],
    }
