"""Figures over time as geometry: what a template draws as SVG, without knowing what it means.

times, series, scale -> runs between gaps -> Chart
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from math import ceil, floor, inf, isfinite, log10
from statistics import median

from nyquist.companion.page.kit.wording import moment

LEFT, RIGHT, TOP, BOTTOM = 54.0, 372.0, 12.0, 176.0
"""Edges of the plot in units of the drawing, which is 400 wide and 216 high."""

TICKS = 5
MOMENTS = 4
"""Ticks in time are at least a fourth of the plot apart: more would touch on a phone."""
GAP = 2.5
"""A pause of so many usual steps is one in which nothing was measured."""

SPARK_WIDTH, SPARK_HEIGHT = 120.0, 28.0
"""Of a line without axes, in units of its drawing."""

ROOM = 0.1
"""Of a power of ten, so that no line lies on the edge."""

BETWEEN = (1, 2, 5)

DOTS = 60
"""More points than this are a line without dots."""

DAY_S = 86400
STEPS_S = (
    *(1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800),
    *(3600, 7200, 10800, 21600, 43200, DAY_S),
)


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: its place in units of the drawing, and what stands there."""

    at: float
    text: str


@dataclass(frozen=True)
class Scale:
    """An upright axis.

    Attributes:
        share: where a value lies from the bottom, 0, to the top, 1.
        ticks: values that are marked, with their text.
    """

    share: Callable[[float], float]
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Return how far down a value is drawn; what lies outside stands at the edge."""
        return BOTTOM - (BOTTOM - TOP) * min(max(self.share(value), 0.0), 1.0)


@dataclass(frozen=True)
class Series:
    """One figure over time.

    Attributes:
        name: for the legend.
        style: class of its colour and dashes.
        values: at each time; None where it was not measured.
    """

    name: str
    style: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Line:
    """A series as it is drawn.

    Attributes:
        name: for the legend.
        style: class of its colour and dashes.
        path: of SVG, with a new start after each gap.
        dots: places of single points, (x, y); none where there are too many.
    """

    name: str
    style: str
    path: str
    dots: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        title: what it shows, with its unit.
        description: the same in words, for those who do not see it.
        across: ticks in time, in UTC.
        up: ticks of the figure.
        lines: one for each series that was measured at all.
        limit: where the tolerance lies, and what it says; None if there is none.
        changes: where another graph began to be served.
    """

    title: str
    description: str
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    lines: tuple[Line, ...]
    limit: Tick | None
    changes: tuple[float, ...]


def draw(
    title: str,
    times: Sequence[float],
    series: Iterable[Series],
    scale: Scale,
    limit: tuple[float, str] | None = None,
    graphs: Sequence[str] = (),
) -> Chart:
    """Lay out a chart.

    Args:
        title: what it shows, with its unit.
        times: of the measurements, in Unix time, ascending, at least one.
        series: each with a value or None for each time.
        scale: of the values.
        limit: a tolerance and what it is called.
        graphs: what was measured at each time, such as checksums; a line ends where that changes.
    """
    measured = [one for one in series if any(value is not None for value in one.values)]
    starts = changes(graphs)
    ends = starts | gaps(times)
    along = timeline(times)
    return Chart(
        title=title,
        description=describe(times, measured, limit),
        across=tuple(Tick(along(at), text) for at, text in time_ticks(times[0], times[-1])),
        up=tuple(Tick(scale.place(value), text) for value, text in scale.ticks),
        lines=tuple(line_of(one, [along(at) for at in times], scale, ends) for one in measured),
        limit=Tick(scale.place(limit[0]), limit[1]) if limit else None,
        changes=tuple(along(times[at]) for at in sorted(starts)),
    )


def spark(values: Sequence[float | None]) -> str:
    """Return the path of a line without axes from 0 to the greatest value; "" where there is none.

    Args:
        values: at equal distances; None where it was not measured.
    """
    top = max((value for value in values if value is not None), default=None)
    if top is None:
        return ""
    across = [SPARK_WIDTH * at / max(1, len(values) - 1) for at in range(len(values))]
    drawn: list[str] = []
    pen_down = False
    for x, value in zip(across, values, strict=True):
        if value is not None:
            y = 1 + (SPARK_HEIGHT - 2) * (1 - (value / top if top else 0.0))
            drawn.append(f"{'L' if pen_down else 'M'}{x:.1f} {y:.1f}" + "h0" * (not pen_down))
        pen_down = value is not None
    return "".join(drawn)


def timeline(times: Sequence[float]) -> Callable[[float], float]:
    """Return how far to the right a time is drawn; a single one stands in the middle."""
    first, span = times[0], times[-1] - times[0]
    if span <= 0:
        return lambda _: (LEFT + RIGHT) / 2
    return lambda at: LEFT + (RIGHT - LEFT) * (at - first) / span


def changes(graphs: Sequence[str]) -> set[int]:
    """Return the places of those that differ from the one before."""
    return {at for at, (before, now) in enumerate(pairwise(graphs), 1) if before != now}


def gaps(times: Sequence[float]) -> set[int]:
    """Return the places of the times that follow a pause longer than is usual."""
    pauses = [now - before for before, now in pairwise(times)]
    usual = median(pauses) if pauses else inf
    return {at for at, pause in enumerate(pauses, 1) if pause > GAP * usual}


def line_of(series: Series, across: Sequence[float], scale: Scale, ends: set[int]) -> Line:
    """Draw a series: a line starts anew after a gap and after what was not measured."""
    steps: list[str] = []
    dots: list[tuple[float, float]] = []
    pen_down = False
    for at, (x, value) in enumerate(zip(across, series.values, strict=True)):
        if value is None:
            pen_down = False
            continue
        y = scale.place(value)
        dots.append((round(x, 1), round(y, 1)))
        goes_on = pen_down and at not in ends
        steps.append(f"L{x:.1f} {y:.1f}" if goes_on else f"M{x:.1f} {y:.1f}h0")
        pen_down = True
    few = tuple(dots) if len(dots) <= DOTS else ()
    return Line(series.name, series.style, "".join(steps), few)


def describe(
    times: Sequence[float],
    series: Iterable[Series],
    limit: tuple[float, str] | None,
) -> str:
    """Say in words what a chart shows: when, and for each line how it began, lay and ended."""
    said = [f"{len(times)} probes from {moment(times[0])} to {moment(times[-1])}"]
    for one in series:
        values = [value for value in one.values if value is not None]
        said.append(
            f"{one.name}: latest {values[-1]:.3g}, from {min(values):.3g} to {max(values):.3g}"
        )
    if limit:
        said.append(limit[1])
    return "; ".join(said) + "."


def decades(values: Iterable[float], write: Callable[[float], str]) -> Scale:
    """Return a logarithmic scale from one power of ten to another, with what is between if few.

    Zeros stand at its bottom, below a power of ten, and what is not finite at its top.

    Args:
        values: that are drawn.
        write: text of a tick.
    """
    known = list(values)
    exponents = [log10(value) for value in known if value > 0 and isfinite(value)] or [0.0]
    low, high = floor(min(exponents) - ROOM), ceil(max(exponents) + ROOM)
    marks = [
        mark * 10.0**power
        for power in thinned(range(low, high + 1))
        for mark in (BETWEEN if high - low <= 2 else BETWEEN[:1])
        if mark == 1 or power < high
    ]
    ticks = [(mark, write(mark)) for mark in marks]
    if any(value <= 0 for value in known):
        low -= 1
        ticks.insert(0, (0.0, "0"))
    if not all(map(isfinite, known)):
        high += 1
        ticks.append((inf, "∞"))

    def share(value: float) -> float:
        if value <= 0:
            return 0.0
        return (log10(value) - low) / (high - low) if isfinite(value) else 1.0

    return Scale(share, tuple(ticks))


def shares(values: Iterable[float]) -> Scale:
    """Return a scale up to 100 % from a round share below the least value."""
    least = min(values, default=1.0)
    step = next(step for step in (0.01, 0.02, 0.05, 0.1, 0.25) if 1 - least <= 4 * step)
    low = max(0.0, 1 - step * ceil((1 - least) / step + 0.25))
    marked = [1 - step * at for at in range(round((1 - low) / step) + 1)]
    ticks = tuple((share, f"{100 * share:.0f}%") for share in reversed(marked))
    return Scale(lambda value: (value - low) / (1 - low), ticks)


def thinned(exponents: range) -> range:
    """Return every so many of these powers, the first among them, so that no label hits another."""
    return exponents[:: ceil(len(exponents) / (TICKS + 1))]


def time_ticks(first: float, last: float) -> list[tuple[float, str]]:
    """Return round times of a span and how they are written, in UTC."""
    if last <= first:
        return [(first, written(first, 1))]
    span = last - first
    fitting = (step for step in STEPS_S if span <= MOMENTS * step)
    step = next(fitting, DAY_S * ceil(span / DAY_S / MOMENTS))
    start = step * ceil(first / step)
    return [(at, written(at, step)) for at in range(start, floor(last) + 1, step)]


def written(time_s: float, step_s: int) -> str:
    """Write a time as exactly as its distance from the next needs."""
    form = "%H:%M:%S" if step_s < 60 else "%H:%M" if step_s < DAY_S else "%m-%d"
    return f"{datetime.fromtimestamp(time_s, UTC):{form}}"
