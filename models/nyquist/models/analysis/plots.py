"""Figures of an analysis, as PNG files.

Without pyplot: no window, no state, so that a test or a thread may draw.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from nyquist.models.analysis.aliasing import StrideAliasing, frequency_response
from nyquist.models.analysis.effective_field import EffectiveField
from nyquist.models.analysis.gradient_monitor import LayerGradient
from nyquist.models.analysis.properties import Properties
from nyquist.models.analysis.receptive_field import Field, LayerField
from nyquist.models.analysis.training import Outcome, interval
from nyquist.models.analysis.transposed import fractional_convolution, spread_apart
from nyquist.models.analysis.uses import DISTANCES, Uses

Item = TypeVar("Item")
DOTS_PER_INCH = 150
MOST_BOXES = 8
FAINTEST = 1e-3
PADDING_COLOUR = "#9a9a9a"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#f0e442")
"""Told apart by colour-blind readers too (Okabe and Ito, with one more)."""


_SAVED = {"float32": "activations", "int64": "indices"}
_DARK_GROUND, _DARK_INK = "#15181d", "#e3e6ea"
_INKED = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color")
_DARK: dict[Any, str] = {
    "figure.facecolor": _DARK_GROUND,
    "savefig.facecolor": _DARK_GROUND,
    "axes.facecolor": _DARK_GROUND,
    "grid.color": "#3a3f47",
    **dict.fromkeys(_INKED, _DARK_INK),
}


@contextmanager
def style(*, dark: bool = False) -> Iterator[None]:
    """Draw what is drawn inside for a light page, or for a dark one."""
    with rc_context(_DARK if dark else {}):
        yield


def plot_receptive_fields(picture: Tensor, lines: Sequence[LayerField], path: Path) -> None:
    """Draw the field of the middle position of some layers over a picture (C, H, W).

    What lies outside the picture is grey: padding.
    """
    figure, axes = _figure(6.4, 5.2)
    _show_picture(axes, picture)
    growing = [line for line in lines if min(line.grid) > 1 and line.field.rows.size > 1]
    distinct = list({line.field: line for line in growing}.values())
    for colour, line in zip(COLOURS, spread(distinct, MOST_BOXES), strict=False):
        position = (line.grid[0] // 2, line.grid[1] // 2)
        label = f"{line.name}: {line.field.rows.size} px"
        _box(axes, line.field, position, colour, label)
    axes.set_facecolor(PADDING_COLOUR)
    axes.autoscale_view()
    axes.set_title("Theoretical receptive field of the middle position", fontsize=10)
    _legend_beside(axes)
    _save(figure, path)


def plot_effective_field(effective: EffectiveField, field: Field, path: Path) -> None:
    """Draw the effective field with its 95 % square and the theoretical box."""
    figure, axes = _figure(6.0, 5.0)
    weights = effective.weights / effective.weights.max()
    norm = LogNorm(vmin=FAINTEST, vmax=1)
    image = axes.imshow(weights.clamp(min=FAINTEST).numpy(), cmap="magma", norm=norm)
    figure.colorbar(image, ax=axes, label="mean size of the gradient, of its largest")
    _box(axes, field, effective.position, "#56b4e9", f"theory: {field.rows.size} px")
    side = effective.mass_square()
    row, column = effective.centroid
    corner = (round(column) - side / 2, round(row) - side / 2)
    axes.add_patch(
        Rectangle(corner, side, side, fill=False, ec="white", ls="--", label=f"95 %: {side} px")
    )
    axes.set_facecolor(PADDING_COLOUR)
    axes.autoscale_view()
    axes.set_title(f"Effective receptive field over {effective.inputs} inputs", fontsize=10)
    axes.legend(fontsize=8, loc="upper right", facecolor="#333333", labelcolor="white")
    axes.set_xlabel("column, pixels")
    axes.set_ylabel("row, pixels")
    _save(figure, path)


def plot_gradient_patterns(patterns: Mapping[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """Draw, for each layer, how many outputs reach an input, and what one output hands back."""
    figure = Figure(figsize=(1.5 * len(patterns) + 0.6, 3.7), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, len(patterns), squeeze=False)
    for column, (name, (counts, single)) in enumerate(patterns.items()):
        above, below = grid[0][column], grid[1][column]
        above.imshow(counts.numpy(), cmap="viridis", vmin=0, vmax=9)
        _annotate(above, counts)
        above.set_title(name, fontsize=8)
        limit = max(float(single.abs().max()), 1e-9)
        below.imshow(single.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        for axes in (above, below):
            axes.set_xticks([])
            axes.set_yticks([])
    grid[0][0].set_ylabel("outputs that reach\nan input", fontsize=8)
    grid[1][0].set_ylabel("gradient from\noutput [1, 1]", fontsize=8)
    _save(figure, path)


def plot_filter_responses(path: Path, stride: int = 2) -> None:
    """Draw the frequency response of every blur filter and the limit of a stride."""
    figure, axes = _figure(6.0, 4.0)
    frequencies = torch.linspace(0, torch.pi, 200, dtype=torch.float64)
    for taps, colour in zip(range(1, 8), COLOURS, strict=False):
        response = frequency_response(taps, frequencies).numpy()
        axes.plot(frequencies / torch.pi, response, color=colour, label=f"{taps} taps")
    axes.axvline(1 / stride, color=rcParams["text.color"], ls=":", lw=1)
    axes.axvspan(1 / stride, 1, color=rcParams["text.color"], alpha=0.08)
    axes.annotate("aliases at stride 2", (0.75, 0.9), ha="center", fontsize=8)
    axes.set_xlabel("frequency, of pi radians a sample")
    axes.set_ylabel("gain")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=8, frameon=False, loc="center right")
    axes.set_title("Binomial blur: gain cos(w / 2) ** (taps - 1)", fontsize=10)
    _save(figure, path)


def plot_stride_aliasing(lines: Sequence[StrideAliasing], path: Path) -> None:
    """Draw the energy above the limit, as it enters each stride and as it is sampled."""
    figure, axes = _figure(6.0, 0.55 * len(lines) + 1.4)
    places = torch.arange(len(lines)).numpy()
    entering = [line.entering for line in lines]
    sampled = [line.sampled or 0.0 for line in lines]
    for place, line in zip(places, lines, strict=True):
        if line.sampled is None:
            axes.text(0.01, place + 0.2, "not known", va="center", fontsize=8)
    axes.barh(places - 0.2, entering, height=0.38, color=COLOURS[5], label="input of the layer")
    axes.barh(places + 0.2, sampled, height=0.38, color=COLOURS[1], label="what is sampled")
    axes.set_yticks(places, [f"{line.name} ({line.kind})" for line in lines], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the energy")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    figure.suptitle("Above the new Nyquist limit, mean removed", fontsize=10)
    _save(figure, path)


def plot_gradient_history(history: Sequence[Sequence[LayerGradient]], path: Path) -> None:
    """Draw the norm of each layer's gradient over training steps; of many layers, some.

    Raises:
        ValueError: there is no step.
    """
    norms: dict[str, list[float]] = {}
    for lines in history:
        for line in lines:
            norms.setdefault(line.name, []).append(line.norm)
    if not norms:
        raise ValueError("no step was ended; call step() behind each backward pass")
    figure, axes = _figure(6.4, 4.0)
    shown = spread(list(norms), MOST_BOXES)
    for colour, name in zip(COLOURS, shown, strict=False):
        axes.plot(range(len(norms[name])), norms[name], color=colour, lw=1.2, label=name)
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("norm of the gradient")
    axes.set_title("Gradients at the outputs of layers", fontsize=10)
    _legend_beside(axes)
    _save(figure, path)


def plot_field_growth(grown: Mapping[str, Sequence[int]], path: Path) -> None:
    """Draw the receptive field after each layer of each strategy."""
    figure, axes = _figure(6.4, 3.6)
    for (name, sizes), colour in zip(grown.items(), COLOURS, strict=False):
        axes.plot(range(len(sizes) + 1), (1, *sizes), color=colour, marker="o", ms=4, label=name)
        axes.annotate(f"{sizes[-1]}", (len(sizes), sizes[-1]), (6, -3), textcoords="offset points")
    axes.set_xlabel("layers")
    axes.set_ylabel("receptive field, pixels")
    axes.margins(x=0.08)
    axes.set_title("Growth of the receptive field over four halvings", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    _save(figure, path)


def plot_effective_fields(fields: Mapping[str, tuple[EffectiveField, int]], path: Path) -> None:
    """Draw effective fields side by side on one scale.

    Args:
        fields: by name, each with the size of its theoretical field, pixels.
        path: of the PNG file.
    """
    figure = Figure(figsize=(2.3 * len(fields) + 1.2, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    (row,) = figure.subplots(1, len(fields), squeeze=False)
    brightest = max(float(field.weights.max()) for field, _ in fields.values())
    norm = LogNorm(vmin=FAINTEST * brightest, vmax=brightest)
    for axes, (name, (field, theory)) in zip(row, fields.items(), strict=True):
        weights = field.weights.clamp(min=FAINTEST * brightest).numpy()
        image = axes.imshow(weights, cmap="magma", norm=norm)
        axes.set_title(f"{name}\n95 %: {field.mass_square()} of {theory} px", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    figure.colorbar(image, ax=row, label="share of the gradient", shrink=0.8)
    _save(figure, path)


def plot_properties(measured: Mapping[str, Properties], path: Path) -> None:
    """Draw the memory and the time of layers as bars; the whiskers are quartiles."""
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    names = list(measured)
    places = range(len(names))
    begin = [0.0] * len(names)
    for (kind, label), colour in zip(_SAVED.items(), COLOURS, strict=False):
        sizes = [line.saved.get(kind, 0) / 2**20 for line in measured.values()]
        left.barh(places, sizes, left=begin, color=colour, label=label)
        begin = [a + b for a, b in zip(begin, sizes, strict=True)]
    left.set_xlabel("saved for the backward pass, MiB")
    left.legend(fontsize=7, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    times = [line.time for line in measured.values()]
    medians = [time.median * 1e3 for time in times]
    whiskers = [
        [(time.median - time.low) * 1e3 for time in times],
        [(time.high - time.median) * 1e3 for time in times],
    ]
    ink = rcParams["text.color"]
    right.barh(places, medians, xerr=whiskers, color=COLOURS[2], ecolor=ink, capsize=3)
    right.set_xlabel("forward pass, ms")
    left.margins(x=0.06)
    for axes, labels in ((left, names), (right, [""] * len(names))):
        axes.set_yticks(places, labels, fontsize=8)
        axes.invert_yaxis()
    _save(figure, path)


def plot_distances(measured: Mapping[str, Uses], path: Path) -> None:
    """Draw how many pictures keep their answer, by how far they were moved."""
    figure, axes = _figure(6.4, 3.8)
    for (name, line), colour in zip(measured.items(), COLOURS, strict=False):
        axes.plot(DISTANCES, line.distances, color=colour, marker="o", ms=3, lw=1.2, label=name)
    axes.set_xlabel("moved along the diagonal, pixels")
    axes.set_ylabel("share with the answer of before")
    axes.set_title("Consistency against distance", fontsize=10)
    _legend_beside(axes)
    _save(figure, path)


def plot_training(outcomes: Sequence[Outcome], path: Path) -> None:
    """Draw the loss over the training: mean over seeds, and its 95 % interval as a band."""
    figure, axes = _figure(6.4, 3.8)
    curves: dict[str, list[Sequence[float]]] = {}
    for outcome in outcomes:
        if outcome.curve:
            curves.setdefault(outcome.variant, []).append(outcome.curve)
    for (variant, runs), colour in zip(curves.items(), COLOURS, strict=False):
        spans = [interval(values) for values in zip(*runs, strict=True)]
        means = [span.mean for span in spans]
        along = [100 * (at + 0.5) / len(spans) for at in range(len(spans))]
        axes.plot(along, means, color=colour, lw=1.4, label=variant)
        if len(runs) > 1:
            low = [span.mean - span.half_width for span in spans]
            high = [span.mean + span.half_width for span in spans]
            axes.fill_between(along, low, high, color=colour, alpha=0.18, lw=0)
    axes.set_xlabel("of the training, %")
    axes.set_ylabel("cross entropy, nats")
    axes.set_title("Loss while training; the bands are 95 % intervals over seeds", fontsize=10)
    axes.legend(fontsize=8, frameon=False, loc="upper right")
    _save(figure, path)


def plot_fractional_stride(path: Path) -> None:
    """Draw how the gradient of a 3x3 convolution of stride 2 comes back to a map of 7x7."""
    conv = nn.Conv2d(1, 1, 3, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]]))
        given = torch.tensor([[1.0, -1, 2, 1], [2, 1, -2, 1], [-1, 2, 1, -1], [1, 1, -1, 2]])
        apart = spread_apart(given[None, None], 2)
        back = fractional_convolution(conv, given[None, None], (7, 7))
    panels = {
        "gradient of the output": given,
        "one zero between: stride 1/2": apart[0, 0],
        "the kernel, turned": conv.weight.detach()[0, 0].flip(0, 1),
        "gradient of the input": back[0, 0],
    }
    figure = Figure(figsize=(9.2, 2.7), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, values) in zip(figure.subplots(1, 4), panels.items(), strict=True):
        limit = float(values.abs().max())
        axes.imshow(values.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit)
        for row, column in torch.cartesian_prod(*map(torch.arange, values.shape)).tolist():
            value = float(values[row, column])
            colour = "white" if abs(value) > 0.6 * limit else "black"
            axes.text(column, row, f"{value:g}", ha="center", va="center", fontsize=7, color=colour)
        axes.set_title(title, fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    _save(figure, path)


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` items, first and last among them, at equal distances."""
    if len(items) <= most:
        return list(items)
    return [items[round(at * (len(items) - 1) / (most - 1))] for at in range(most)]


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _legend_beside(axes: Axes) -> None:
    axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)


def _show_picture(axes: Axes, picture: Tensor) -> None:
    low, high = picture.min(), picture.max()
    scaled = ((picture - low) / (high - low).clamp(min=1e-9)).permute(1, 2, 0)
    if scaled.shape[2] == 3:
        axes.imshow(scaled.numpy())
    else:
        axes.imshow(scaled.mean(2).numpy(), cmap="gray")
    axes.set_xlabel("column, pixels")
    axes.set_ylabel("row, pixels")


def _box(axes: Axes, field: Field, position: tuple[int, int], colour: str, label: str) -> None:
    top = field.rows.start + position[0] * field.rows.jump - 0.5
    left = field.columns.start + position[1] * field.columns.jump - 0.5
    size = (field.columns.size, field.rows.size)
    axes.add_patch(Rectangle((left, top), *size, fill=False, ec=colour, lw=1.6, label=label))


def _annotate(axes: Axes, counts: Tensor) -> None:
    for row, column in torch.cartesian_prod(torch.arange(len(counts)), torch.arange(len(counts))):
        value = int(counts[row, column])
        colour = "black" if value > 5 else "white"
        axes.text(column, row, str(value), ha="center", va="center", fontsize=5, color=colour)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial.png")
    figure.savefig(partial, dpi=DOTS_PER_INCH)
    partial.replace(path)
