"""How long graphs take in onnxruntime, side by side.

open all -> warm each shape -> one run of each, in turn, again and again -> median and quartiles
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution

BATCH_SIZES = (1, 8)
RUNS = 50
BUDGET_S = 5.0
LEAST_RUNS = 3


@dataclass(frozen=True)
class Latency:
    """What one graph took at one batch size.

    Attributes:
        median_s: of a batch, seconds.
        lower_s: its first quartile.
        upper_s: its third quartile.
        runs: how many were timed.
    """

    median_s: float
    lower_s: float
    upper_s: float
    runs: int


def measure_latencies(
    graphs: Mapping[str, bytes],
    pictures: NDArray[Any],
    batch_sizes: Sequence[int] = BATCH_SIZES,
    *,
    runs: int = RUNS,
    budget_s: float = BUDGET_S,
) -> dict[str, dict[int, Latency]]:
    """Time graphs of one input in turn, as the server runs them.

    What else the machine does falls on all of them alike, so their ratios are steadier than
    the times.

    Args:
        graphs: ONNX files by name.
        pictures: served inputs, (N, ...), repeated where a batch is larger.
        batch_sizes: of each measurement.
        runs: of each graph at each batch size, at most.
        budget_s: after this many seconds at a batch size no further round begins, but for the
            first LEAST_RUNS.

    Returns:
        Latencies by name and batch size.

    Raises:
        ValueError: there is no graph, no picture or no run.
        ArtifactError: onnxruntime cannot open a graph.
    """
    if not graphs or not len(pictures) or runs < 1 or min(batch_sizes, default=0) < 1:
        raise ValueError(
            f"needs graphs, pictures, runs and batch sizes from 1 on, got {len(graphs)}, "
            f"{len(pictures)}, {runs} and {tuple(batch_sizes)}"
        )
    execution = Execution(provider="cpu")
    engines = {name: Engine(graph, execution, max(batch_sizes)) for name, graph in graphs.items()}
    found: dict[str, dict[int, Latency]] = {name: {} for name in engines}
    for size in batch_sizes:
        batch = np.resize(pictures, (size, *pictures.shape[1:]))
        times = _time_in_turn(list(engines.values()), batch, runs, budget_s)
        for name, row in zip(engines, times, strict=True):
            found[name][size] = _summarise(row)
    return found


def _time_in_turn(
    engines: Sequence[Engine], batch: NDArray[Any], runs: int, budget_s: float
) -> NDArray[np.float64]:
    """Return seconds, (engines, rounds)."""
    for engine in engines:
        engine.run(batch)
    rounds: list[list[float]] = []
    end = perf_counter() + budget_s
    while len(rounds) < runs and (len(rounds) < LEAST_RUNS or perf_counter() < end):
        first = len(rounds) % len(engines)  # each goes first in turn: no one always follows another
        order = (*range(first, len(engines)), *range(first))
        seconds = {which: _time(engines[which], batch) for which in order}
        rounds.append([seconds[which] for which in range(len(engines))])
    return np.array(rounds).T


def _time(engine: Engine, batch: NDArray[Any]) -> float:
    start = perf_counter()
    engine.run(batch)
    return perf_counter() - start


def _summarise(times: NDArray[np.float64]) -> Latency:
    lower, median, upper = (float(value) for value in np.quantile(times, (0.25, 0.5, 0.75)))
    return Latency(median, lower, upper, len(times))
