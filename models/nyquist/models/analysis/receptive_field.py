"""Which part of the picture a position of a feature map can see.

Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019,
carried to graphs with several paths: the field is the hull of the fields of all paths, and it is
aligned only where all paths have the same centre.

>>> closed_form([Window(3, stride=2, pad_before=1, pad_after=1)] * 4).size
31
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nyquist.models.analysis.layer_graph import LayerGraph
from nyquist.models.analysis.window import Window


@dataclass(frozen=True)
class AxisField:
    """The field of every output position along one axis, in pixels of the picture.

    Output i sees the pixels start + i * jump, ..., start + i * jump + size - 1; those that lie
    outside the picture are padding.

    Attributes:
        size: pixels from the first to the last.
        jump: distance between the fields of two neighbours.
        start: first pixel that output 0 sees; negative in the padding.
        centres: least and greatest centre of output 0 over all paths.
        whole: besides, every position sees all of the picture, through a gate or a statistic.
    """

    size: int = 1
    jump: int = 1
    start: int = 0
    centres: tuple[float, float] = (0.0, 0.0)
    whole: bool = False

    @property
    def aligned(self) -> bool:
        """Whether the fields of all paths have one centre."""
        return self.centres[0] == self.centres[1]

    @property
    def centre(self) -> float:
        """Middle of the field of output 0."""
        return self.start + (self.size - 1) / 2

    @property
    def padding(self) -> int:
        """The padding of the one layer that has this field (the P of Araujo et al.)."""
        return -self.start

    def through(self, window: Window) -> "AxisField":
        """Return the field behind one more layer."""
        shift = ((window.span - 1) / 2 - window.pad_before) * self.jump
        return AxisField(
            size=self.size + (window.span - 1) * self.jump,
            jump=self.jump * window.stride,
            start=self.start - window.pad_before * self.jump,
            centres=(self.centres[0] + shift, self.centres[1] + shift),
            whole=self.whole,
        )

    def drift(self, positions: int, pixels: int) -> float:
        """Return how far the middle of all centres lies from the middle of the picture, pixels.

        Negative is up or left.

        Args:
            positions: outputs along this axis.
            pixels: inputs along it.
        """
        middle = (self.centres[0] + self.centres[1]) / 2
        return middle + (positions - 1) * self.jump / 2 - (pixels - 1) / 2


@dataclass(frozen=True)
class Field:
    """The receptive field of one layer.

    Attributes:
        rows: along the height.
        columns: along the width.
    """

    rows: AxisField
    columns: AxisField

    @property
    def aligned(self) -> bool:
        """Whether the fields of all paths have one centre."""
        return self.rows.aligned and self.columns.aligned


@dataclass(frozen=True)
class LayerField:
    """A line of the report.

    Attributes:
        name: of the layer.
        op: its last operator.
        grid: output positions down and across.
        field: what each of them sees.
        drift: of the grid against the picture, pixels down and across.
    """

    name: str
    op: str
    grid: tuple[int, int]
    field: Field
    drift: tuple[float, float]


def closed_form(windows: Iterable[Window]) -> AxisField:
    """Return the field of a chain of layers: r = 1 + sum over l of (k_l - 1) * prod over i < l s_i.

    The padding adds up likewise: P = sum over l of p_l * prod over i < l s_i.
    """
    size, jump, padding = 1, 1, 0
    for window in windows:
        size += (window.span - 1) * jump
        padding += window.pad_before * jump
        jump *= window.stride
    centre = (size - 1) / 2 - padding
    return AxisField(size, jump, -padding, (centre, centre))


def receptive_fields(graph: LayerGraph) -> tuple[Field, ...]:
    """Return the field of every node of the graph, from the picture on.

    Raises:
        ValueError: two paths that meet have different jumps.
    """
    fields: list[Field] = []
    for node in graph.nodes:
        if not node.edges:
            fields.append(Field(AxisField(), AxisField()))
            continue
        local = [edge for edge in node.edges if not edge.everywhere]
        whole = len(local) < len(node.edges)
        rows = _hull([fields[edge.source].rows.through(edge.rows) for edge in local], whole=whole)
        columns = [fields[edge.source].columns.through(edge.columns) for edge in local]
        fields.append(Field(rows, _hull(columns, whole=whole)))
    return tuple(fields)


def layer_fields(graph: LayerGraph) -> tuple[LayerField, ...]:
    """Return one line for each module or operator, at its last node."""
    fields = receptive_fields(graph)
    pixels = graph.nodes[0].grid
    lines: dict[str, LayerField] = {}
    for node, field in zip(graph.nodes, fields, strict=True):
        drift = (
            field.rows.drift(node.grid[0], pixels[0]),
            field.columns.drift(node.grid[1], pixels[1]),
        )
        name = node.layer.name
        lines.pop(name, None)  # its place is that of its last node
        lines[name] = LayerField(name, node.layer.op, node.grid, field, drift)
    return tuple(lines.values())


def last_map(graph: LayerGraph) -> int:
    """Return the last node whose output still has rows and columns of more than one position.

    Raises:
        ValueError: there is none.
    """
    for index in reversed(range(len(graph.nodes))):
        if min(graph.nodes[index].grid) > 1:
            return index
    raise ValueError("no layer has more than one position; use a larger picture")


def _hull(fields: Sequence[AxisField], *, whole: bool) -> AxisField:
    jumps = {field.jump for field in fields}
    if len(jumps) > 1:
        raise ValueError(f"paths with jumps of {sorted(jumps)} pixels meet; they cannot line up")
    start = min(field.start for field in fields)
    end = max(field.start + field.size for field in fields)
    return AxisField(
        size=end - start,
        jump=jumps.pop(),
        start=start,
        centres=(min(f.centres[0] for f in fields), max(f.centres[1] for f in fields)),
        whole=whole or any(field.whole for field in fields),
    )
