"""A network as windows on rows and columns: what its layers read, whatever they compute.

PyTorch module (module_graph) or ONNX file (onnx_graph) -> GraphBuilder -> LayerGraph
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from nyquist.models.analysis.window import Window

IDENTITY = Window(1)


@dataclass(frozen=True)
class Layer:
    """What a node is.

    Attributes:
        name: of the module it belongs to, or of the operator.
        op: operator, as the source spells it.
        shape: of its output, the batch included.
    """

    name: str
    op: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Edge:
    """One input of a node.

    Attributes:
        source: index of the node that is read.
        rows: which rows of it an output row reads.
        columns: likewise for columns.
        everywhere: every output position reads all of the source, so that the windows say nothing:
            the gate of squeeze-and-excitation, the statistics of an instance norm, the choice of a
            polyphase component.
    """

    source: int
    rows: Window = IDENTITY
    columns: Window = IDENTITY
    everywhere: bool = False


@dataclass(frozen=True)
class Node:
    """A layer in its graph.

    Attributes:
        layer: what it is.
        edges: its inputs; none for the picture.
        rows: axis of its output that runs down the picture, None where no axis does any more.
        columns: axis that runs across, likewise.
    """

    layer: Layer
    edges: tuple[Edge, ...]
    rows: int | None
    columns: int | None

    @property
    def grid(self) -> tuple[int, int]:
        """Output positions down and across."""
        down = 1 if self.rows is None else self.layer.shape[self.rows]
        across = 1 if self.columns is None else self.layer.shape[self.columns]
        return down, across


@dataclass(frozen=True)
class LayerGraph:
    """Nodes in an order in which each comes after its inputs; the first is the picture."""

    nodes: tuple[Node, ...]

    def index(self, name: str) -> int:
        """Return the last node of a module or operator.

        Raises:
            ValueError: there is none of that name.
        """
        for index in reversed(range(len(self.nodes))):
            if self.nodes[index].layer.name == name:
                return index
        names = ", ".join(dict.fromkeys(node.layer.name for node in self.nodes))
        raise ValueError(f"no layer {name!r}; choose from {names}")


class GraphBuilder:
    """Collects nodes. Each method adds one and returns its index.

    Args:
        shape: of the picture, the batch included.
        rows: axis of the picture's rows.
        columns: axis of its columns.
    """

    def __init__(self, shape: Sequence[int], rows: int, columns: int) -> None:
        picture = Node(Layer("input", "input", tuple(shape)), (), rows, columns)
        self._nodes: list[Node] = [picture]

    def build(self) -> LayerGraph:
        """Return the graph."""
        return LayerGraph(tuple(self._nodes))

    def window(self, layer: Layer, source: int, windows: Mapping[int, Window]) -> int:
        """Read windows: convolution, pool, pad, slice. `windows` maps axes to what they read.

        Raises:
            ValueError: a window of more than one sample lies on an axis of the map that is neither
                rows nor columns, such as the channels of a convolution after a permutation.
        """
        node = self._nodes[source]
        for axis, window in windows.items():
            if axis not in (node.rows, node.columns) and window.span > 1:
                raise ValueError(
                    f"{layer.name} ({layer.op}) reads windows of {window.span} along axis {axis}, "
                    f"which is neither rows ({node.rows}) nor columns ({node.columns})"
                )
        down = IDENTITY if node.rows is None else windows.get(node.rows, IDENTITY)
        across = IDENTITY if node.columns is None else windows.get(node.columns, IDENTITY)
        return self._add(layer, (Edge(source, down, across),), node.rows, node.columns)

    def merge(self, layer: Layer, sources: Sequence[int]) -> int:
        """Combine position by position, broadcasting: activation, sum, product, gather."""
        rank = len(layer.shape)
        placed = [self._broadcast_axes(source, rank) for source in sources]
        rows = self._longest([down for down, _ in placed], layer)
        columns = self._longest([across for _, across in placed], layer)
        spread = [self._is_spread(source, (rows, columns), layer) for source in sources]
        if all(spread):  # one value over a whole map, such as a pooled branch that is expanded
            return self._add(layer, tuple(Edge(source) for source in sources), None, None)
        edges = tuple(
            Edge(source, everywhere=gate) for source, gate in zip(sources, spread, strict=True)
        )
        return self._add(layer, edges, rows, columns)

    def reshape(self, layer: Layer, source: int) -> int:
        """Regroup axes. An axis that is split keeps its outer part; one that is merged ends."""
        node = self._nodes[source]
        down, rows = reshaped_axis(node.layer.shape, layer.shape, node.rows)
        across, columns = reshaped_axis(node.layer.shape, layer.shape, node.columns)
        return self._add(layer, (Edge(source, down, across),), rows, columns)

    def permute(self, layer: Layer, source: int, order: Sequence[int]) -> int:
        """Reorder axes: axis i of the output is axis order[i] of the source."""
        node = self._nodes[source]
        rows = None if node.rows is None else list(order).index(node.rows)
        columns = None if node.columns is None else list(order).index(node.columns)
        return self._add(layer, (Edge(source),), rows, columns)

    def reduce(self, layer: Layer, source: int, axes: Sequence[int]) -> int:
        """Read whole axes; they stay with size 1 if the shape has as many axes as before."""
        node = self._nodes[source]
        kept = len(layer.shape) == len(node.layer.shape)
        down, rows = _reduced_axis(node, node.rows, axes, kept=kept)
        across, columns = _reduced_axis(node, node.columns, axes, kept=kept)
        return self._add(layer, (Edge(source, down, across),), rows, columns)

    def concatenate(self, layer: Layer, sources: Sequence[int], axis: int) -> int:
        """Join along an axis.

        Along rows or columns the longest part counts, since the rest is border: a circular pad
        joins both ends of a map to the map itself.
        """
        sizes = [self._nodes[source].layer.shape[axis] for source in sources]
        longest = sizes.index(max(sizes))
        node = self._nodes[sources[longest]]
        if axis not in (node.rows, node.columns):
            return self.merge(layer, sources)
        pad = Window(1, pad_before=sum(sizes[:longest]), pad_after=sum(sizes[longest + 1 :]))
        return self.window(layer, sources[longest], {axis: pad})

    def normalise(self, layer: Layer, source: int, axes: Sequence[int]) -> int:
        """Combine position by position with statistics over `axes`: layer norm, softmax."""
        node = self._nodes[source]
        edges = [Edge(source)]
        if node.rows in axes or node.columns in axes:
            edges.append(Edge(source, everywhere=True))
        return self._add(layer, tuple(edges), node.rows, node.columns)

    def mix(self, layer: Layer, sources: Sequence[int]) -> int:
        """Read all of every source: attention, a product of two maps."""
        edges = [
            Edge(source, Window(down), Window(across))
            for source in sources
            for down, across in [self._nodes[source].grid]
        ]
        return self._add(layer, tuple(edges), None, None)

    def node(self, index: int) -> Node:
        """Return a node that was added."""
        return self._nodes[index]

    def _add(
        self, layer: Layer, edges: tuple[Edge, ...], rows: int | None, columns: int | None
    ) -> int:
        self._nodes.append(Node(layer, edges, rows, columns))
        return len(self._nodes) - 1

    def _broadcast_axes(self, source: int, rank: int) -> tuple[int | None, int | None]:
        node = self._nodes[source]
        new = rank - len(node.layer.shape)
        down = None if node.rows is None else node.rows + new
        across = None if node.columns is None else node.columns + new
        return down, across

    def _longest(self, axes: Sequence[int | None], layer: Layer) -> int | None:
        known = [axis for axis in axes if axis is not None]
        return max(known, key=lambda axis: layer.shape[axis], default=None)

    def _is_spread(self, source: int, axes: tuple[int | None, ...], layer: Layer) -> bool:
        """Whether one position of the source goes to many of a map: a gate, an index."""
        own = self._broadcast_axes(source, len(layer.shape))
        shape = self._nodes[source].layer.shape
        new = len(layer.shape) - len(shape)
        return any(
            axis is not None and layer.shape[axis] > 1 and (mine is None or shape[mine - new] == 1)
            for axis, mine in zip(axes, own, strict=True)
        )


def reshaped_axis(
    before: Sequence[int], after: Sequence[int], axis: int | None
) -> tuple[Window, int | None]:
    """Follow an axis through a reshape: what its new positions read, and where it is now.

    (48,) -> (24, 2): axis 0 is now 24 positions that each stand for 2; (4, 48) -> (192,): every
    position may belong to any, so that each is said to read all 48, and the axis ends.
    """
    if axis is None:
        return IDENTITY, None
    size = before[axis]
    first, last = _group_of(before, after, axis)
    if size == 1:
        kept = first <= axis < last and after[axis] == 1
        return IDENTITY, axis if kept else None
    outer = next((new for new in range(first, last) if after[new] > 1), None)
    if outer is None or prod(after[first:last]) != size or size % after[outer]:
        return Window(size), None
    inner = size // after[outer]
    return Window(inner, stride=inner), outer


def _group_of(before: Sequence[int], after: Sequence[int], axis: int) -> tuple[int, int]:
    """Return the range of new axes that hold what the smallest group around `axis` held."""
    old = new = 0
    while old < len(before):
        first_old, first_new = old, new
        left, right = before[old], after[new] if new < len(after) else 1
        old, new = old + 1, new + 1
        while left != right:
            if left < right:
                left, old = left * before[old], old + 1
            else:
                right, new = right * after[new], new + 1
        if first_old <= axis < old:
            return first_new, min(new, len(after))
    raise ValueError(f"axis {axis} is not one of the {len(before)} of {tuple(before)}")


def _reduced_axis(
    node: Node, axis: int | None, axes: Sequence[int], *, kept: bool
) -> tuple[Window, int | None]:
    if axis is None:
        return IDENTITY, None
    window = Window(node.layer.shape[axis]) if axis in axes else IDENTITY
    if kept:
        return window, axis
    return window, None if axis in axes else axis - sum(1 for gone in axes if gone < axis)
