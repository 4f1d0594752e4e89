"""The figures of an analysis as tables for a terminal of 80 columns."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from nyquist.models.analysis.aliasing import StrideAliasing
from nyquist.models.analysis.comparisons import BlockFigures, BottleneckFigures, Reducers
from nyquist.models.analysis.cost import Cost, LayerCost
from nyquist.models.analysis.effective_field import EffectiveField
from nyquist.models.analysis.gradient_monitor import LayerGradient
from nyquist.models.analysis.gradients import GradientStatistics
from nyquist.models.analysis.output import Figure, FigureTable, figure
from nyquist.models.analysis.properties import Properties, Spread
from nyquist.models.analysis.receptive_field import AxisField, LayerField
from nyquist.models.analysis.training import Interval, Outcome, interval
from nyquist.models.analysis.transposed import Backward
from nyquist.models.analysis.uses import Uses
from nyquist.models.analysis.window import COMMON_WINDOWS, Window, grid_offset, reads, unread_share


def output_table(sizes: Sequence[int]) -> FigureTable:
    """Lay out what the common windows make of maps of these sizes.

    Unread share, reads and offset are those of the first size.
    """
    size = sizes[0]
    headers = ("unread", "reads from the 2nd", "offset, px")
    title = f"Output sizes; what is unread, how often inputs are read, offset: at {size}"
    table = FigureTable(title, "window", *map(str, sizes), *headers)
    for name, window in COMMON_WINDOWS.items():
        table.add(
            name,
            *(_output(window, each) for each in sizes),
            figure(unread_share(window, size, size), ".2%"),
            _listed(reads(window, size)[1:7].tolist(), " "),
            figure(grid_offset(window, size), "+.1f"),
        )
    return table


def block_table(compared: dict[str, Cost]) -> FigureTable:
    """Lay out blocks that do the same with their parameters and work."""
    table = FigureTable("Ways to halve a map", "block", "parameters", "multiply-adds", "times")
    least = min(cost.multiply_adds for cost in compared.values())
    for name, cost in compared.items():
        times = figure(cost.multiply_adds / least, ".2f")
        table.add(name, figure(cost.parameters, ","), figure(cost.multiply_adds, ","), times)
    return table


def block_time_table(saved: Mapping[str, int], times: Mapping[str, Spread]) -> FigureTable:
    """Lay out what blocks keep for their backward pass and how long their forward pass takes."""
    headers = ("saved, MiB", "ms", "quartiles", "times")
    table = FigureTable("Memory and time of the same, 8 maps, one thread", "block", *headers)
    least = min(time.median for time in times.values())
    for name, time in times.items():
        memory = figure(saved[name] / 2**20, ".1f")
        table.add(name, memory, *_time_cells(time), figure(time.median / least, ".2f"))
    return table


def property_table(measured: Mapping[str, Properties]) -> FigureTable:
    """Lay out the usual table of strided convolution and pools, with figures."""
    table = FigureTable(
        "Layers that halve a map; memory and time of 8, work of one", "property", *measured
    )
    rows: dict[str, Callable[[Properties], Figure]] = {
        "parameters": lambda line: figure(line.parameters, ","),
        "not linear by": lambda line: figure(line.nonlinearity, ".1e"),
        "zeros in the gradient": lambda line: figure(line.zeros, ".0%"),
        "gradient sum, in / out": lambda line: figure(line.gradient_sum, "+.2f"),
        "shift error, 1 px": lambda line: figure(line.shift_error, ".2f"),
        "saved activations, MiB": lambda line: _mebibytes(line.saved.get("float32", 0)),
        "saved indices, MiB": lambda line: _mebibytes(line.saved.get("int64", 0)),
        "multiply-adds": lambda line: figure(line.operations.multiply_adds, ","),
        "additions": lambda line: figure(line.operations.additions, ","),
        "comparisons": lambda line: figure(line.operations.comparisons, ","),
        "ms": lambda line: figure(line.time.median * 1e3, ".1f"),
        "quartiles, ms": lambda line: _time_cells(line.time)[1],
    }
    for name, cell in rows.items():
        table.add(name, *map(cell, measured.values()))
    return table


def backward_table(compared: Mapping[str, Backward]) -> FigureTable:
    """Lay out how two ways to the gradient of a convolution's input differ from autograd's."""
    title = "Gradient of the input: largest difference from autograd's, float64"
    headers = ("transposed", "stride 1 / s, turned kernel", "largest gradient")
    table = FigureTable(title, "convolution", *headers)
    for name, line in compared.items():
        differences = (figure(line.transposed, ".1e"), figure(line.fractional, ".1e"))
        table.add(name, *differences, figure(line.largest, ".2f"))
    return table


def reducer_table(found: Mapping[str, Reducers]) -> FigureTable:
    """Lay out what makes maps smaller in published networks."""
    headers = ("strided convs", "pools", "global mean")
    table = FigureTable("What makes maps smaller before the head", "network", *headers)
    for name, line in found.items():
        mean = Figure(line.global_mean, "yes" if line.global_mean else "no")
        table.add(name, line.convolutions, line.pools, mean)
    return table


def use_table(measured: Mapping[str, Uses], pictures: int) -> FigureTable:
    """Lay out what pictures that move do to answers; the title says of how many."""
    headers = ("same", "flips a second", "jitter, px", "of its grid", "unchanged")
    table = FigureTable(f"{pictures} pictures that move", "network", *headers)
    for name, line in measured.items():
        table.add(
            name,
            figure(line.same, ".1%"),
            figure(line.flips, ".2f"),
            figure(line.jitter, ".1f"),
            figure(line.grid_jitter, ".1f"),
            figure(line.unchanged, ".1%"),
        )
    return table


def work_table(measured: Mapping[str, Uses]) -> FigureTable:
    """Lay out what networks get right, centred and moved, and what they cost."""
    headers = ("accuracy", "moved", "multiply-adds", "ms a picture")
    table = FigureTable("Accuracy on 10,000 pictures, as trained, and cost", "network", *headers)
    for name, line in measured.items():
        recorded = [
            Figure(None, "-") if share is None else figure(share, ".1%")
            for share in (line.accuracy, line.shifted_accuracy)
        ]
        work = figure(line.multiply_adds, ",")
        table.add(name, *recorded, work, figure(line.time.median * 1e3, ".2f"))
    return table


def training_tables(outcomes: Sequence[Outcome], made: str) -> Iterator[FigureTable]:
    """Lay out each experiment: mean over seeds and half of the 95 % interval."""
    for experiment in dict.fromkeys(outcome.experiment for outcome in outcomes):
        of_it = [outcome for outcome in outcomes if outcome.experiment == experiment]
        seeds = len({outcome.seed for outcome in of_it})
        title = f"{experiment}: {made}; {seeds} seeds, 95 % intervals"
        table = FigureTable(title, experiment, *of_it[0].figures)
        for variant in dict.fromkeys(outcome.variant for outcome in of_it):
            runs = [outcome.figures for outcome in of_it if outcome.variant == variant]
            spans = (interval([run[name] for run in runs]) for run in runs[:1] for name in run)
            table.add(variant, *map(_interval, spans))
        yield table


def growth_table(grown: Mapping[str, Sequence[int]]) -> FigureTable:
    """Lay out the receptive field after each layer, in pixels."""
    table = FigureTable("Receptive field after each layer, pixels", "layers", "field")
    for name, sizes in grown.items():
        table.add(name, _listed(sizes, ", "))
    return table


def stem_table(compared: Mapping[str, BlockFigures]) -> FigureTable:
    """Lay out stems with their cost and their receptive field, on pictures of 224 pixels."""
    headers = ("parameters", "multiply-adds", "field", "jump")
    table = FigureTable("Stems, RGB pictures of 224 pixels", "stem", *headers)
    table.columns[0].max_width = 32
    for name, figures in compared.items():
        table.add(name, *_block_cells(figures))
    return table


def bottleneck_table(compared: Mapping[str, BottleneckFigures]) -> FigureTable:
    """Lay out the versions of ResNet-50's bottleneck; unread are inputs of its strided layers."""
    headers = ("parameters", "multiply-adds", "field", "jump", "branch", "shortcut")
    table = FigureTable("ResNet-50; unread share of branch and shortcut", "bottleneck", *headers)
    for name, figures in compared.items():
        unread = (figure(figures.branch_unread, ".0%"), figure(figures.shortcut_unread, ".0%"))
        table.add(name, *_block_cells(figures.whole), *unread)
    return table


def _block_cells(figures: BlockFigures) -> tuple[Figure, Figure, int, int]:
    work = Figure(figures.multiply_adds, f"{figures.multiply_adds / 1e6:,.1f} M")
    return figure(figures.parameters, ","), work, figures.field, figures.jump


def shift_table(errors: Mapping[str, Sequence[float]], shifts: Sequence[float]) -> FigureTable:
    """Lay out the relative error of each kind of downsampling under shifts, in pixels."""
    headers = (f"{shift:g} px" for shift in shifts)
    table = FigureTable("Relative error under a shift: conv, ReLU, halving", "kind", *headers)
    for kind, of_each in errors.items():
        table.add(kind, *(figure(error, ".3f") for error in of_each))
    return table


def field_table(lines: Sequence[LayerField]) -> FigureTable:
    """Lay out where the theoretical field grows, the rows alone where columns are alike."""
    headers = ("grid", "size", "jump", "centre", "drift", "")
    table = FigureTable("Theoretical receptive field, pixels", "layer", "op", *headers, names=2)
    for line in _changes(lines):
        rows, columns = line.field.rows, line.field.columns
        table.add(
            line.name,
            line.op,
            _both(line.grid[0], line.grid[1]),
            _both(rows.size, columns.size),
            _both(rows.jump, columns.jump),
            _centre(rows),
            figure(line.drift[0], "+.1f"),
            _remark(line),
        )
    return table


def effective_table(effective: EffectiveField, theory: AxisField, layer: str) -> FigureTable:
    """Lay out the size of an effective field beside the theoretical."""
    table = FigureTable("Effective receptive field, pixels", "measure", "value")
    row, column = effective.centroid
    side = effective.mass_square()
    table.add("looked at", f"{layer} {effective.position}")
    table.add("inputs", effective.inputs)
    table.add("side of the 95 % square", side)
    table.add("theoretical size", theory.size)
    table.add("ratio", figure(side / theory.size, ".2f"))
    table.add("standard deviation", figure(effective.spread, ".1f"))
    table.add("centroid, row and column", Figure([row, column], f"{row:.1f} {column:.1f}"))
    return table


def gradient_table(measured: dict[str, GradientStatistics]) -> FigureTable:
    """Lay out what each downsampling layer hands back."""
    headers = ("sparsity", "mean |g|", "std", "sum out/in", "norm out/in")
    table = FigureTable("Gradients of downsampling layers", "layer", *headers)
    for name, line in measured.items():
        table.add(
            name,
            figure(line.sparsity, ".2%"),
            figure(line.mean_magnitude, ".4f"),
            figure(line.deviation, ".4f"),
            figure(line.sum_ratio, "+.3f"),
            figure(line.norm_ratio, ".3f"),
        )
    return table


def monitor_table(lines: Sequence[LayerGradient]) -> FigureTable:
    """Lay out the gradients of a network, layer by layer."""
    headers = ("passes", "mean |g|", "std", "zeros")
    table = FigureTable("Gradients at the outputs of layers", "layer", "kind", *headers, names=2)
    for line in lines:
        table.add(
            line.name,
            line.kind,
            line.passes,
            figure(line.mean_magnitude, ".2e"),
            figure(line.deviation, ".2e"),
            figure(line.sparsity, ".1%"),
        )
    return table


def aliasing_table(lines: Sequence[StrideAliasing]) -> FigureTable:
    """Lay out the energy above the new limit before each stride."""
    headers = ("stride", "entering", "sampled")
    title = "Energy above the new Nyquist limit, mean removed"
    table = FigureTable(title, "layer", "kind", *headers, names=2)
    for line in lines:
        unknown = Figure(None, "not known")
        sampled = unknown if line.sampled is None else figure(line.sampled, ".1%")
        table.add(line.name, line.kind, line.stride, figure(line.entering, ".1%"), sampled)
    return table


def cost_table(cost: Cost, most: int = 12) -> FigureTable:
    """Lay out the layers that multiply most, and the sum of all."""
    title = f"Cost of one picture: the {most} layers with most work"
    table = FigureTable(title, "layer", "kind", "parameters", "multiply-adds", "share", names=2)

    def work(layer: LayerCost) -> int:
        return layer.multiply_adds

    whole = LayerCost("all layers", "", cost.parameters, cost.multiply_adds)
    for layer in (*sorted(cost.layers, key=work, reverse=True)[:most], whole):
        if layer is whole:
            table.add_section()
        share = layer.multiply_adds / max(cost.multiply_adds, 1)
        figures = (figure(layer.parameters, ","), figure(layer.multiply_adds, ","))
        table.add(layer.name, layer.kind, *figures, figure(share, ".1%"))
    return table


def _changes(lines: Sequence[LayerField]) -> list[LayerField]:
    """Return the lines whose field is not as large, or not as far apart, as that before."""
    changed, before = [], None
    for line in lines:
        sizes = [(axis.size, axis.jump) for axis in (line.field.rows, line.field.columns)]
        if sizes != before:
            changed.append(line)
        before = sizes
    return changed


def _interval(span: Interval) -> Figure:
    if span.half_width == 0:
        return figure(span.mean, ",g")
    if math.isnan(span.half_width):
        return Figure([span.mean, None], f"{span.mean:.3f}")
    return Figure([span.mean, span.half_width], f"{span.mean:.3f} ± {span.half_width:.3f}")


def _mebibytes(size: int) -> Figure:
    return figure(size / 2**20, ".1f")


def _time_cells(time: Spread) -> tuple[Figure, Figure]:
    low, middle, high = (seconds * 1e3 for seconds in (time.low, time.median, time.high))
    return figure(middle, ".1f"), Figure([low, high], f"{low:.1f}..{high:.1f}")


def _listed(numbers: Sequence[int], between: str) -> Figure:
    return Figure(list(numbers), between.join(map(str, numbers)))


def _output(window: Window, size: int) -> Figure:
    return figure(window.output_size(size)) if size >= window.span else Figure(None, "-")


def _both(down: int, across: int) -> Figure:
    return figure(down) if down == across else Figure([down, across], f"{down}x{across}")


def _centre(field: AxisField) -> Figure:
    low, high = field.centres
    return figure(low, "g") if low == high else Figure([low, high], f"{low:g}..{high:g}")


def _remark(line: LayerField) -> str:
    remarks = []
    if not line.field.aligned:
        remarks.append("unaligned")
    if line.field.rows.whole:
        remarks.append("+all")
    return " ".join(remarks)
