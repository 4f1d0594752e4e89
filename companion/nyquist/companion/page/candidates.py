"""What the page of a candidate says, as values: its figures, each as a bar with its limits.

Rollout, Limits -> RolloutView -> template
"""

from dataclasses import dataclass
from math import isfinite

from nyquist.companion.watch.candidate import Figure, Rollout
from nyquist.companion.watch.limits import Limits

LEFT, RIGHT = 6.0, 294.0
"""Edges of a bar in units of the drawing, which is 300 wide."""

LIMITS_SHOWN, MEANS_SHOWN = 3.0, 1.5
"""A bar shows this many times the limit, or the mean where that lies further out."""


@dataclass(frozen=True)
class Bar:
    """A figure as it is drawn: places in units of the drawing.

    Attributes:
        low: where what it may be begins.
        high: where it ends.
        mean: of the pictures so far; None before the first.
        fine: from where to where it is fine.
        zero: where no difference lies.
        cut: whether it goes on beyond the drawing, to the left and to the right.
    """

    low: float
    high: float
    mean: float | None
    fine: tuple[float, float]
    zero: float
    cut: tuple[bool, bool]


@dataclass(frozen=True)
class FigureView:
    """A figure in words, and as a bar.

    Attributes:
        of: as it stands.
        title: what it is.
        limit: what is allowed, in words.
        bar: the same, drawn.
    """

    of: Figure
    title: str
    limit: str
    bar: Bar


@dataclass(frozen=True)
class RolloutView:
    """A candidate.

    Attributes:
        rollout: how it stands.
        figures: in words and drawn.
    """

    rollout: Rollout
    figures: tuple[FigureView, ...]


def view_of(rollout: Rollout, limits: Limits) -> RolloutView:
    """Return what there is to say of a candidate."""
    titles = {
        "disagreement": "answers that differ",
        "flips": "more answers that flip as the picture moves a pixel",
        "confidence": "difference of the mean confidence",
        "latency": f"requests that take over {limits.latency:g} times as long",
    }
    return RolloutView(
        rollout,
        tuple(
            FigureView(figure, titles[figure.name], _limit(figure), bar_of(figure))
            for figure in rollout.figures
        ),
    )


def bar_of(figure: Figure) -> Bar:
    """Lay a figure out: from no difference, or as far below it as above, to some limits away."""
    mean = figure.mean or 0.0
    end = min(1.0, max(LIMITS_SHOWN * figure.most, MEANS_SHOWN * abs(mean)))
    start = -end if isfinite(figure.least) or figure.name == "flips" else 0.0

    def place(value: float) -> float:
        return LEFT + (RIGHT - LEFT) * (min(max(value, start), end) - start) / (end - start)

    return Bar(
        low=place(figure.low),
        high=place(figure.high),
        mean=None if figure.mean is None else place(figure.mean),
        fine=(place(figure.least), place(figure.most)),
        zero=place(0.0),
        cut=(figure.low < start, figure.high > end),
    )


def _limit(figure: Figure) -> str:
    if isfinite(figure.least):
        return f"{100 * figure.least:+g}% to {100 * figure.most:+g}%".replace("-", "\N{MINUS SIGN}")
    return f"at most {100 * figure.most:g}%"
