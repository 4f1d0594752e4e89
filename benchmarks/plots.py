"""The results as plots: throughput against latency, CPU an image, latency, growth.

The colours are told apart in grey and by the colour-blind (Okabe and Ito, 2008).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from benchmarks.load import QUANTILES
from benchmarks.plan import DETAILED, MODELS, TARGET_CONCURRENCY
from benchmarks.results import Fact, Results, Spread
from benchmarks.tables import GROWTH
from benchmarks.targets import ONE, best_bare

COLOURS = {
    "bare": "#000000",
    "nyquist": "#D55E00",
    "echo": "#999999",
    "mlserver": "#0072B2",
    "kserve": "#009E73",
    "pytriton": "#CC79A7",
}
OTHER = "#E69F00"
MARKERS = {"nyquist": "o", "echo": "x", "mlserver": "s", "kserve": "^", "pytriton": "D"}
COLUMNS = 3
PLAIN = FuncFormatter(lambda value, _: f"{value:,.6g}")


def draw(results: Results, folder: Path) -> None:
    """Write every plot as SVG, the same bytes for the same results.

    The growth, which most runs leave out, stays as it was where nothing of it was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plots: dict[str, Callable[[Results], Figure]] = {
        "throughput_latency": _throughput_latency,
        "cpu": _cpu,
        "latency": _latency,
    }
    if any(results.values("value", experiment=name) for name in GROWTH):
        plots["growth"] = _growth
    style: dict[str, Any] = {
        "svg.hashsalt": "nyquist", "svg.fonttype": "none", "font.family": "sans-serif",
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
        "grid.alpha": 0.3,
    }  # fmt: skip
    with mpl.rc_context(style):  # type: ignore[arg-type] # its stubs name every key
        for name, plot in plots.items():
            plot(results).savefig(folder / f"{name}.svg", metadata={"Date": None})


def _panels(results: Results) -> tuple[Figure, list[tuple[str, Axes]]]:
    """Return a figure with a panel for each model of which every load was measured."""
    known = results.values("model", experiment="servers", load="closed", concurrency=4)
    models = [model for model in DETAILED if model in known]
    figure = Figure(figsize=(max(4.8 * len(models), 7.2), 4.4), layout="constrained")
    panels = [figure.add_subplot(1, len(models), at + 1) for at in range(len(models))]
    return figure, [*zip(models, panels, strict=True)]


def _legend(figure: Figure, panels: list[tuple[str, Axes]]) -> None:
    if panels:
        handles = panels[0][1].get_legend_handles_labels()
        figure.legend(*handles, loc="outside lower center", ncols=6, fontsize=8, frameon=False)


def _throughput_latency(results: Results) -> Figure:
    """Each server a line through its concurrencies; to the right and down is better."""
    figure, panels = _panels(results)
    for model, axes in panels:
        of: dict[str, Fact] = {"experiment": "servers", "model": model, **ONE}
        for server in _servers(results, of):
            points = _points(results, {**of, "server": server}, "concurrency", "images_s", "p50_us")
            axes.plot([x for _, x, _ in points], [y / 1000 for _, _, y in points], **_style(server))
            for calls, x, y in points:
                axes.annotate(str(calls), (x, y / 1000), (4, 4), textcoords="offset points", size=7)
        limit = best_bare(results, model, "images_s", max)
        best = Spread.over([*limit.values()]).median
        axes.axvline(best, color=COLOURS["bare"], linestyle=":", label="bare onnxruntime")
        axes.set(title=model, xlabel="images/s", ylabel="p50, ms", xscale="log", yscale="log")
        _plain(axes.xaxis, axes.yaxis)
    _legend(figure, panels)
    figure.suptitle("Throughput against latency; figures at the points: calls in flight")
    return figure


def _cpu(results: Results) -> Figure:
    """A row for each model, a point for each server with its spread, bare onnxruntime a bar."""
    of: dict[str, Fact] = {"experiment": "servers", **ONE, "concurrency": TARGET_CONCURRENCY}
    models = [model for model in MODELS if results.select(**of, model=model)]
    servers = [name for name in _servers(results, of) if name != "echo"]
    figure = Figure(figsize=(9.6, 1.4 + 0.5 * len(models)), layout="constrained")
    axes = figure.add_subplot()
    for place, server in enumerate(servers):
        shift = (place + 0.5) / len(servers) * 0.6 - 0.3
        for at, model in enumerate(models):
            each = results.spread("cpu_us", **{**of, "model": model, "server": server})
            if each:
                axes.plot([each.least, each.most], [at + shift] * 2, color=_style(server)["color"])
                label = server if at == 0 else None
                axes.plot([each.median], [at + shift], linestyle="", **_style(server, label))
    limits = [best_bare(results, model, "cpu_us", min) for model in models]
    for at, limit in enumerate(limits):
        best, label = Spread.over([*limit.values()]).median, None if at else "bare onnxruntime"
        axes.plot([best, best], [at - 0.35, at + 0.35], color=COLOURS["bare"], label=label)
    axes.set_yticks(range(len(models)), models)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="CPU us an image")
    _plain(axes.xaxis)
    _legend(figure, [("", axes)])
    axes.set_title(f"CPU time an image, {TARGET_CONCURRENCY} calls in flight")
    return figure


def _latency(results: Results) -> Figure:
    """Distributions of latency, first round, at the target's concurrency."""
    figure, panels = _panels(results)
    for model, axes in panels:
        of: dict[str, Fact] = {"experiment": "servers", "model": model, **ONE}
        of["concurrency"] = TARGET_CONCURRENCY
        for server in _servers(results, of):
            (row, *_) = results.select(**of, server=server)
            times = [value / 1000 for value in row.figures["quantiles_us"]]
            axes.plot(times, QUANTILES, color=_style(server)["color"], label=server)
        axes.set(title=model, xlabel="latency, ms", ylabel="% of the calls", xscale="log")
        _plain(axes.xaxis)
    _legend(figure, panels)
    figure.suptitle(f"Latency, {TARGET_CONCURRENCY} calls in flight, first round")
    return figure


def _growth(results: Results) -> Figure:
    """CPU time an image of Nyquist, over what grows."""
    known = [name for name in GROWTH if results.values("value", experiment=name)]
    rows = -(-len(known) // COLUMNS)
    figure = Figure(figsize=(4.0 * COLUMNS, 3.4 * rows), layout="constrained")
    for at, experiment in enumerate(known):
        axes = figure.add_subplot(rows, COLUMNS, at + 1)
        for calls in results.values("concurrency", experiment=experiment):
            of: dict[str, Fact] = {"experiment": experiment, "concurrency": calls}
            points = _points(results, of, "value", "cpu_us", "p50_us")
            axes.plot(
                [value for value, _, _ in points],
                [cpu for _, cpu, _ in points],
                marker="o",
                label=f"{calls} in flight",
            )
        top = 1.08 * axes.dataLim.y1
        axes.set(title=GROWTH[experiment], ylabel="CPU us an image", ylim=(0, top))
        if experiment not in ("cores", "picture side"):
            axes.set_xscale("log")
        axes.set_xticks(results.values("value", experiment=experiment))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(PLAIN)
        axes.minorticks_off()
        axes.legend(fontsize=8)
    return figure


def _servers(results: Results, of: dict[str, Fact]) -> list[str]:
    """Return the servers measured, in the order of COLOURS, strangers last."""
    known = results.values("server", **of)
    return [name for name in COLOURS if name in known] + [x for x in known if x not in COLOURS]


def _style(server: str, label: str | None = "") -> dict[str, Any]:
    return {
        "color": COLOURS.get(server, OTHER),
        "marker": MARKERS.get(server, "v"),
        "label": server if label == "" else label,
    }


def _points(
    results: Results, of: dict[str, Fact], over: str, *figures: str
) -> list[tuple[float, float, float]]:
    """Return the medians of two figures at each value of a fact, ascending."""
    found = []
    for value in sorted(results.values(over, **of)):
        x, y = (results.spread(figure, **{**of, over: value}) for figure in figures)
        if x and y:
            found.append((value, x.median, y.median))
    return found


def _plain(*axes: Axis) -> None:
    """Let a logarithmic axis show 1, 2, 5, 10, ... as plain numbers."""
    for axis in axes:
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(PLAIN)
        axis.set_minor_formatter(NullFormatter())
