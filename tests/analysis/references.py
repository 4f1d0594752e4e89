"""The receptive field once more, from a layer back to the picture, to hold the product against.

Araujo, Norris and Sim, "Computing Receptive Fields of Convolutional Neural Networks", Distill 2019.
"""

from nyquist.models.analysis.layer_graph import LayerGraph
from nyquist.models.analysis.receptive_field import AxisField, Field
from nyquist.models.analysis.window import Window


def backward_field(graph: LayerGraph, index: int) -> Field:
    """Return the field of one node by the recursion of Araujo et al. from it to the picture.

    r_in = s * r_out + k - s, S_in = s * S_out, P_in = s * P_out + p, from r = S = 1, P = 0; where
    several paths come back to one node, the hull of what they need. Exact for region and jump; the
    centres are those of the hull.
    """
    rows, columns = (_backward(graph, index, axis) for axis in ("rows", "columns"))
    return Field(rows, columns)


def _backward(graph: LayerGraph, index: int, axis: str) -> AxisField:
    needed = {index: AxisField()}
    for at in range(index, 0, -1):
        if at not in needed:
            continue
        region = needed.pop(at)
        for edge in graph.nodes[at].edges:
            if edge.everywhere:
                continue
            window: Window = getattr(edge, axis)
            source = _step_back(region, window)
            known = needed.get(edge.source)
            needed[edge.source] = source if known is None else _joined(known, source)
    return needed[0]


def _step_back(region: AxisField, window: Window) -> AxisField:
    size = window.stride * region.size + window.span - window.stride
    padding = window.stride * region.padding + window.pad_before
    centre = (size - 1) / 2 - padding
    return AxisField(size, window.stride * region.jump, -padding, (centre, centre))


def _joined(one: AxisField, other: AxisField) -> AxisField:
    start = min(one.start, other.start)
    end = max(one.start + one.size, other.start + other.size)
    centres = (min(one.centres[0], other.centres[0]), max(one.centres[1], other.centres[1]))
    assert one.jump == other.jump
    return AxisField(end - start, one.jump, start, centres)
