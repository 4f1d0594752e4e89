"""A plan as a picture: the search, and what an incident does to latency while it lasts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from nyquist.client.capacity.answer import Answer, Limits
from nyquist.client.capacity.fleet import Trial
from nyquist.client.capacity.replica import Outcome

P50, P99, GOAL, COUNT = "#56b4e9", "#0072b2", "#d55e00", "#999999"
"""Told apart in grey and by the colour-blind (Okabe and Ito, 2008)."""
BINS = 60
STYLE = {
    "svg.hashsalt": "nyquist", "svg.fonttype": "none", "font.family": "sans-serif",
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.3,
}  # fmt: skip


def draw(tries: Sequence[Answer], trials: Mapping[str, Trial], limits: Limits, path: Path) -> None:
    """Write a plot: the tries of a search, then a panel for each incident.

    Args:
        tries: p99 over the number of replicas.
        trials: of incidents, by their words.
        limits: as a line.
        path: its ending says the format.

    Raises:
        ValueError: the file cannot be written.
    """
    panels = bool(tries) + len(trials)
    if not panels:
        raise ValueError("--plot has nothing to draw: no search, and no incident")
    with mpl.rc_context(STYLE):  # type: ignore[arg-type] # its stubs name every key
        figure = Figure(figsize=(5.4 * panels, 4.0), layout="constrained")
        axes = [figure.add_subplot(1, panels, at + 1) for at in range(panels)]
        if tries:
            draw_search(axes.pop(0), tries, limits)
        for panel, (words, trial) in zip(axes, trials.items(), strict=True):
            draw_incident(panel, words, trial, limits)
        try:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        except (OSError, ValueError) as error:
            raise ValueError(f"--plot {path} cannot be written: {error}") from error


def draw_search(axes: Axes, tries: Sequence[Answer], limits: Limits) -> None:
    """Draw p50 and p99, with its interval, over the number of replicas."""
    replicas = [one.replicas for one in tries]
    axes.errorbar(
        replicas,
        [1e3 * one.p99_s.mean for one in tries],
        [1e3 * one.p99_s.half for one in tries],
        color=P99,
        marker="o",
        capsize=3,
        label="p99",
    )
    axes.plot(replicas, [1e3 * one.p50_s.mean for one in tries], color=P50, marker="s", label="p50")
    _with_limit(axes, limits)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(
        title=f"{tries[0].rate:,.0f} requests a second", xlabel="replicas", ylabel="latency, ms"
    )
    axes.legend(fontsize=8)


def draw_incident(axes: Axes, words: str, trial: Trial, limits: Limits) -> None:
    """Draw p50 and p99 of what was sent at each moment, and how many replicas answer."""
    edges = np.linspace(0, float(trial.sent.max()), BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    for percent, colour in ((99, P99), (50, P50)):
        values = percentiles(trial, edges, percent)
        axes.plot(middles, 1e3 * values, color=colour, label=f"p{percent}")
    _with_limit(axes, limits)
    axes.set(title=words, xlabel="sent, s", ylabel="latency, ms")
    whole = trial.replicas[0][1]
    beside = axes.twinx()
    times = [max(0.0, when) for when, _ in trial.replicas] + [float(edges[-1])]
    shares = [100 * count / whole for _, count in trial.replicas]
    beside.step(
        times, [*shares, shares[-1]], where="post", color=COUNT, linestyle="--", label="replicas"
    )
    beside.set(ylim=(0, 1.35 * max(shares)), ylabel="replicas that answer, %")
    beside.grid(visible=False)
    beside.spines["right"].set_visible(True)
    handles = [one for each in (axes, beside) for one in each.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, fontsize=8)


def percentiles(trial: Trial, edges: NDArray[np.float64], percent: float) -> NDArray[np.float64]:
    """Return a percentile of the answered that were sent between two edges each. (N,) -> (N - 1,).

    NaN where none was.
    """
    answered = trial.of(Outcome.ANSWERED)
    places = np.digitize(trial.sent[answered], edges) - 1
    seconds = trial.seconds[answered]
    return np.array(
        [
            np.percentile(chosen, percent) if len(chosen := seconds[places == at]) else np.nan
            for at in range(len(edges) - 1)
        ]
    )


def _with_limit(axes: Axes, limits: Limits) -> None:
    axes.axhline(1e3 * limits.p99_s, color=GOAL, linestyle=":", label="limit of p99")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
