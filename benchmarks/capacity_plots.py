"""The simulation of nyquist plan as plots: beside real replicas, and at its full size.

The colours are told apart in grey and by the colour-blind (Okabe and Ito, 2008).
"""

from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from statistics import median

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from benchmarks.capacity_rows import Row, summed_up
from nyquist.client.capacity.answer import Answer, Limits
from nyquist.client.capacity.fleet import Trial
from nyquist.client.capacity.plots import P50, P99, STYLE, draw_incident, draw_search

COLUMNS = 3
WORDS = {
    "paced": "a model that takes 20 ms and 2.5 ms a picture",
    "cpu": "EfficientNet-Lite0 on one thread",
}


def draw_validation(rows: Sequence[Row], path: Path) -> None:
    """Draw what was measured as points, what was foreseen as lines: a row a kind of replica."""
    kinds = list(dict.fromkeys(row.kind for row in rows))
    columns = [(1, "round-robin"), (2, "round-robin"), (3, "round-robin"), (3, "least-requests")]
    with mpl.rc_context(STYLE):  # type: ignore[arg-type] # its stubs name every key
        figure = Figure(figsize=(13.2, 3.6 * len(kinds)), layout="constrained")
        for line, kind in enumerate(kinds):
            first: Axes | None = None
            for place, (replicas, balancing) in enumerate(columns):
                axes = figure.add_subplot(
                    len(kinds), len(columns), len(columns) * line + place + 1, sharey=first
                )
                first = first or axes
                windows = [
                    (one, each)
                    for one, each in summed_up(rows)
                    if (one.kind, one.replicas, one.balancing) == (kind, replicas, balancing)
                ]
                _draw_windows(axes, windows)
                plural = "s" if replicas > 1 else ""
                axes.set_title(f"{replicas} replica{plural}, {balancing}", fontsize=10)
                axes.set_xlabel("requests a second")
                if not place:
                    axes.set_ylabel(f"{WORDS[kind]}\nlatency, ms", fontsize=9)
        handles = figure.axes[0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
        _save(figure, path)


def _draw_windows(axes: Axes, windows: Sequence[tuple[Row, Sequence[Row]]]) -> None:
    rates = [one.rate for one, _ in windows]
    for at, colour, words in ((0, P50, "p50"), (2, P99, "p99")):
        measured = [sorted(row.measured_ms[at] for row in each) for _, each in windows]
        axes.plot(
            rates,
            [median(row.foreseen_ms[at] for row in each) for _, each in windows],
            color=colour,
            label=f"{words}, foreseen",
        )
        axes.plot(
            rates,
            [median(row.explained_ms[at] for row in each) for _, each in windows],
            color=colour,
            linestyle=":",
            label=f"{words}, with the runs of that time",
        )
        axes.errorbar(
            rates,
            [median(values) for values in measured],
            [
                [median(values) - values[0] for values in measured],
                [values[-1] - median(values) for values in measured],
            ],
            color=colour,
            marker="o" if at else "s",
            linestyle="",
            capsize=3,
            label=f"{words}, measured",
        )
    _milliseconds(axes)


def draw_sizes(tries: Mapping[str, tuple[Sequence[Answer], Limits]], path: Path) -> None:
    """Draw the search of each customer."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type] # its stubs name every key
        figure = Figure(
            figsize=(4.4 * COLUMNS, 3.6 * ceil(len(tries) / COLUMNS)), layout="constrained"
        )
        for at, (words, (each, limits)) in enumerate(tries.items()):
            axes = figure.add_subplot(ceil(len(tries) / COLUMNS), COLUMNS, at + 1)
            draw_search(axes, each, limits)
            axes.set_title(words, fontsize=10)
        _save(figure, path)


def draw_million(trials: Mapping[str, Trial], limits: Limits, path: Path) -> None:
    """Draw what incidents do to a large fleet while they last."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type] # its stubs name every key
        figure = Figure(figsize=(5.4 * len(trials), 4.0), layout="constrained")
        for at, (words, trial) in enumerate(trials.items()):
            draw_incident(figure.add_subplot(1, len(trials), at + 1), words, trial, limits)
        _save(figure, path)


def _milliseconds(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
