"""The probes of a version over time: three charts and the usual latency.

history, tolerances -> parity, consistency, latency -> Chart
"""

from collections.abc import Sequence
from statistics import median

from nyquist.companion.page.charts import Chart, Series, decades, draw, shares
from nyquist.companion.page.kit.wording import fine_percent, plain, power_of_ten, short
from nyquist.companion.watch.record import BACKENDS, SERVED, Point
from nyquist.server.artifact.manifest import Tolerances

RECENT = 20
"""Probes that the latency of a table is the median of."""

PATHS = {SERVED: "served", "torch": "reference"}
"""Colour of each path."""


def trends(history: Sequence[Point], tolerances: Tolerances | None) -> tuple[Chart, ...]:
    """Return the charts of a version: none before its first probe."""
    if not history:
        return ()
    if tolerances is None:
        return consistency_chart(history, None), latency_chart(history, 1)
    return (
        parity_chart(history, tolerances.parity),
        consistency_chart(history, tolerances.consistency),
        latency_chart(history, 1),
    )


def parity_chart(history: Sequence[Point], tolerance: float) -> Chart:
    """Show the relative error of each probe, on a logarithmic scale."""
    errors = [point.parity.relative_error if point.parity else None for point in history]
    return draw(
        "Parity: largest difference of a logit, as a share of their spread",
        times(history),
        [Series("of the probe", "line-1", tuple(errors))],
        decades([*(one for one in errors if one is not None), tolerance], power_of_ten),
        (tolerance, f"at most {short(tolerance)}"),
        graphs(history),
    )


def consistency_chart(history: Sequence[Point], tolerance: float | None) -> Chart:
    """Show the share of answers that stay, a line for each protocol."""
    protocols = sorted({name for point in history for name in point.consistency})
    series = [
        Series(
            name.replace("_", " "),
            f"line-{at}",
            tuple(point.consistency.get(name) for point in history),
        )
        for at, name in enumerate(protocols, 1)
    ]
    known = [share for point in history for share in point.consistency.values()]
    return draw(
        "Shift consistency: share of answers that stay",
        times(history),
        series,
        shares(known if tolerance is None else [*known, tolerance]),
        None if tolerance is None else (tolerance, f"circular at least {fine_percent(tolerance)}"),
        graphs(history),
    )


def latency_chart(history: Sequence[Point], batch_size: int) -> Chart:
    """Show the time of a batch on both paths, in milliseconds, on a logarithmic scale."""
    series = [
        Series(
            path_name(backend),
            PATHS[backend],
            tuple(in_milliseconds(point, backend, batch_size) for point in history),
        )
        for backend in BACKENDS
    ]
    known = [value for one in series for value in one.values if value is not None]
    return draw(
        f"Latency of batch {batch_size}, ms",
        times(history),
        series,
        decades(known, plain),
        graphs=graphs(history),
    )


def usual_ms(history: Sequence[Point], backend: str, batch_size: int) -> float | None:
    """Return the median latency over the latest probes of the graph served now; None before any."""
    now = history[-1].sha256 if history else ""
    recent = [point for point in history[-RECENT:] if point.sha256 == now]
    times_ms = [in_milliseconds(point, backend, batch_size) for point in recent]
    measured = [time_ms for time_ms in times_ms if time_ms is not None]
    return median(measured) if measured else None


def batch_sizes(history: Sequence[Point]) -> tuple[int, ...]:
    """Return the batch sizes that were timed, ascending."""
    return tuple(sorted({size for point in history for _, size in point.latency_s}))


def in_milliseconds(point: Point, backend: str, batch_size: int) -> float | None:
    """Return the latency that one probe measured; None if it did not."""
    seconds = point.latency_s.get((backend, batch_size))
    return None if seconds is None else 1e3 * seconds


def path_name(backend: str) -> str:
    """Return what a path is called on a page."""
    return "served, onnxruntime" if backend == SERVED else "PyTorch"


def times(history: Sequence[Point]) -> list[float]:
    """Return when each probe was."""
    return [point.time_s for point in history]


def graphs(history: Sequence[Point]) -> list[str]:
    """Return what each probe saw."""
    return [point.sha256 for point in history]
