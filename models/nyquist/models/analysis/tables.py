"""The figures of an analysis as tables for a terminal of 80 columns."""

from collections.abc import Mapping, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from nyquist.models.analysis.aliasing import StrideAliasing
from nyquist.models.analysis.comparisons import BlockFigures, BottleneckFigures
from nyquist.models.analysis.cost import Cost, LayerCost
from nyquist.models.analysis.effective_field import EffectiveField
from nyquist.models.analysis.gradient_monitor import LayerGradient
from nyquist.models.analysis.gradients import GradientStatistics
from nyquist.models.analysis.receptive_field import AxisField, LayerField
from nyquist.models.analysis.window import COMMON_WINDOWS, Window, grid_offset, reads, unread_share

NAME_WIDTH = 28


def new_table(title: str, *headers: str, names: int = 1) -> Table:
    """Return an empty table whose first `names` columns are text and whose others are figures."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for at, header in enumerate(headers):
        if at < names:
            table.add_column(header, max_width=NAME_WIDTH, overflow="fold")
        else:
            table.add_column(header, justify="right", no_wrap=True)
    return table


def output_table(sizes: Sequence[int]) -> Table:
    """Lay out what the common windows make of maps of these sizes.

    Unread share, reads and offset are those of the first size.
    """
    size = sizes[0]
    headers = ("unread", "reads from the 2nd", "offset, px")
    title = f"Output sizes; what is unread, how often inputs are read, offset: at {size}"
    table = new_table(title, "window", *map(str, sizes), *headers)
    for name, window in COMMON_WINDOWS.items():
        table.add_row(
            name,
            *(_output(window, each) for each in sizes),
            f"{unread_share(window, size, size):.2%}",
            " ".join(str(count) for count in reads(window, size)[1:7].tolist()),
            f"{grid_offset(window, size):+.1f}",
        )
    return table


def block_table(compared: dict[str, Cost]) -> Table:
    """Lay out blocks that do the same with their parameters and work."""
    table = new_table("Ways to halve a map", "block", "parameters", "multiply-adds", "times")
    least = min(cost.multiply_adds for cost in compared.values())
    for name, cost in compared.items():
        times = f"{cost.multiply_adds / least:.2f}"
        table.add_row(name, f"{cost.parameters:,}", f"{cost.multiply_adds:,}", times)
    return table


def growth_table(grown: Mapping[str, Sequence[int]]) -> Table:
    """Lay out the receptive field after each layer, in pixels."""
    table = new_table("Receptive field after each layer, pixels", "layers", "field")
    for name, sizes in grown.items():
        table.add_row(name, ", ".join(map(str, sizes)))
    return table


def stem_table(compared: Mapping[str, BlockFigures]) -> Table:
    """Lay out stems with their cost and their receptive field, on pictures of 224 pixels."""
    headers = ("parameters", "multiply-adds", "field", "jump")
    table = new_table("Stems, RGB pictures of 224 pixels", "stem", *headers)
    table.columns[0].max_width = 32
    for name, figures in compared.items():
        table.add_row(name, *_block_cells(figures))
    return table


def bottleneck_table(compared: Mapping[str, BottleneckFigures]) -> Table:
    """Lay out the versions of ResNet-50's bottleneck; unread are inputs of its strided layers."""
    headers = ("parameters", "multiply-adds", "field", "jump", "branch", "shortcut")
    table = new_table("ResNet-50; unread share of branch and shortcut", "bottleneck", *headers)
    for name, figures in compared.items():
        unread = (f"{figures.branch_unread:.0%}", f"{figures.shortcut_unread:.0%}")
        table.add_row(name, *_block_cells(figures.whole), *unread)
    return table


def _block_cells(figures: BlockFigures) -> tuple[str, str, str, str]:
    work = f"{figures.multiply_adds / 1e6:,.1f} M"
    return f"{figures.parameters:,}", work, str(figures.field), str(figures.jump)


def shift_table(errors: Mapping[str, Sequence[float]], shifts: Sequence[float]) -> Table:
    """Lay out the relative error of each kind of downsampling under shifts, in pixels."""
    headers = (f"{shift:g} px" for shift in shifts)
    table = new_table("Relative error under a shift: conv, ReLU, halving", "kind", *headers)
    for kind, of_each in errors.items():
        table.add_row(kind, *(f"{error:.3f}" for error in of_each))
    return table


def field_table(lines: Sequence[LayerField]) -> Table:
    """Lay out where the theoretical field grows, the rows alone where columns are alike."""
    headers = ("grid", "size", "jump", "centre", "drift", "")
    table = new_table("Theoretical receptive field, pixels", "layer", "op", *headers, names=2)
    for line in _changes(lines):
        rows, columns = line.field.rows, line.field.columns
        table.add_row(
            line.name,
            line.op,
            _both(line.grid[0], line.grid[1]),
            _both(rows.size, columns.size),
            _both(rows.jump, columns.jump),
            _centre(rows),
            f"{line.drift[0]:+.1f}",
            _remark(line),
        )
    return table


def effective_table(effective: EffectiveField, theory: AxisField, layer: str) -> Table:
    """Lay out the size of an effective field beside the theoretical."""
    table = new_table("Effective receptive field, pixels", "measure", "value")
    row, column = effective.centroid
    side = effective.mass_square()
    table.add_row("looked at", f"{layer} {effective.position}")
    table.add_row("inputs", f"{effective.inputs}")
    table.add_row("side of the 95 % square", f"{side}")
    table.add_row("theoretical size", f"{theory.size}")
    table.add_row("ratio", f"{side / theory.size:.2f}")
    table.add_row("standard deviation", f"{effective.spread:.1f}")
    table.add_row("centroid, row and column", f"{row:.1f} {column:.1f}")
    return table


def gradient_table(measured: dict[str, GradientStatistics]) -> Table:
    """Lay out what each downsampling layer hands back."""
    headers = ("sparsity", "mean |g|", "std", "sum out/in", "norm out/in")
    table = new_table("Gradients of downsampling layers", "layer", *headers)
    for name, line in measured.items():
        table.add_row(
            name,
            f"{line.sparsity:.2%}",
            f"{line.mean_magnitude:.4f}",
            f"{line.deviation:.4f}",
            f"{line.sum_ratio:+.3f}",
            f"{line.norm_ratio:.3f}",
        )
    return table


def monitor_table(lines: Sequence[LayerGradient]) -> Table:
    """Lay out the gradients of a network, layer by layer."""
    headers = ("passes", "mean |g|", "std", "zeros")
    table = new_table("Gradients at the outputs of layers", "layer", "kind", *headers, names=2)
    for line in lines:
        table.add_row(
            line.name,
            line.kind,
            str(line.passes),
            f"{line.mean_magnitude:.2e}",
            f"{line.deviation:.2e}",
            f"{line.sparsity:.1%}",
        )
    return table


def aliasing_table(lines: Sequence[StrideAliasing]) -> Table:
    """Lay out the energy above the new limit before each stride."""
    headers = ("stride", "entering", "sampled")
    title = "Energy above the new Nyquist limit, mean removed"
    table = new_table(title, "layer", "kind", *headers, names=2)
    for line in lines:
        sampled = "not known" if line.sampled is None else f"{line.sampled:.1%}"
        table.add_row(line.name, line.kind, str(line.stride), f"{line.entering:.1%}", sampled)
    return table


def cost_table(cost: Cost, most: int = 12) -> Table:
    """Lay out the layers that multiply most, and the sum of all."""
    title = f"Cost of one picture: the {most} layers with most work"
    table = new_table(title, "layer", "kind", "parameters", "multiply-adds", "share", names=2)

    def work(layer: LayerCost) -> int:
        return layer.multiply_adds

    for layer in sorted(cost.layers, key=work, reverse=True)[:most]:
        share = layer.multiply_adds / max(cost.multiply_adds, 1)
        figures = (f"{layer.parameters:,}", f"{layer.multiply_adds:,}", f"{share:.1%}")
        table.add_row(layer.name, layer.kind, *figures)
    table.add_section()
    table.add_row("all layers", "", f"{cost.parameters:,}", f"{cost.multiply_adds:,}", "100.0%")
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


def _output(window: Window, size: int) -> str:
    return str(window.output_size(size)) if size >= window.span else "-"


def _both(down: int, across: int) -> str:
    return str(down) if down == across else f"{down}x{across}"


def _centre(field: AxisField) -> str:
    low, high = field.centres
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


def _remark(line: LayerField) -> str:
    remarks = []
    if not line.field.aligned:
        remarks.append("unaligned")
    if line.field.rows.whole:
        remarks.append("+all")
    return " ".join(remarks)
