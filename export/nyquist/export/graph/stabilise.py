"""A graph behind a choice of what it sees, which moves with the picture: operators in front of it.

pixels -> whole numbers -> difference of boxes -> first highest place -> crop or roll -> graph

What nyquist.models.stabilised does in PyTorch, written anew: parity holds one against the other.
Every operator has a CUDA kernel in onnxruntime at opset 18. ArgMax has none from 13 on, and leaves
open there which of equal scores counts. Boxes grow by doubling, each time by adding two slices.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import TensorProto, compose, helper, numpy_helper

from nyquist.export.errors import ExportError
from nyquist.export.graph import lint
from nyquist.models.onnx_file import opset_of
from nyquist.models.spec import INPUT, ModelSpec, Stabilisation
from nyquist.models.stabilised import LEVELS

PREFIX = "seen."
"""Of every name of the graph behind."""
CHOICE = "choice."
"""Of every name of the operators in front."""
LEAST_OPSET = 13
"""From which on these operators mean the same, ReduceMax apart."""
AXES_ARE_INPUTS = 18
"""Of ReduceMax."""
NHWC_TO_NCHW, NCHW_TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def stabilise(graph: bytes, spec: ModelSpec) -> bytes:
    """Put the stabilisation of a spec in front of a graph; the graph itself where it has none.

    Of several averaged views, probabilities are those of the averaged logits.

    Args:
        graph: of `spec.plain`, which takes `image` at the network's own size.
        spec: of the model.

    Raises:
        ExportError: the graph is of an opset below 13, or the result breaks a rule of
            export/nyquist/export/graph/lint.py.
    """
    given = spec.stabilisation
    if given is None:
        return graph
    model = compose.add_prefix(onnx.load_from_string(graph), PREFIX)
    opset = opset_of(model)
    if opset < LEAST_OPSET:
        raise ExportError(
            f"--stabilise needs opset {LEAST_OPSET} or newer, the file has {opset}: "
            f"onnx.version_converter.convert_version(model, {AXES_ARE_INPUTS}) brings it there"
        )
    sizes = {
        value.name.removeprefix(PREFIX): value.type.tensor_type.shape.dim[-1].dim_value
        for value in model.graph.output
    }
    before = _Operators(opset, "front")
    seen = _average(before, spec) if given.runs > 1 else _chosen(before, spec, given)
    before.make("Identity", seen, name=PREFIX + INPUT)
    after = _Operators(opset, "back")
    for name, size in sizes.items():
        answer = PREFIX + name
        if given.runs > 1:
            answer = after.mean_of_views(answer, given.runs, size)
        after.make("Identity", answer, name=name)
    sizes = {name: sizes.get(name, sizes[spec.outputs[0]]) for name in spec.outputs}
    if given.runs > 1 and "probabilities" in spec.outputs[1:]:
        after.probabilities(spec.outputs[0], labelled=spec.answers.labelled)
    _rewire(model.graph, before, after, spec, sizes)
    promise = lint.Promise(None, {INPUT: spec.shape}, {name: (sizes[name],) for name in sizes})
    problems = lint.lint(model, promise)
    if problems:
        raise ExportError("; ".join(problems))
    return model.SerializeToString(deterministic=True)


def _rewire(
    graph: onnx.GraphProto,
    before: "_Operators",
    after: "_Operators",
    spec: ModelSpec,
    sizes: Mapping[str, int],
) -> None:
    """Put operators before and after those of a graph, and declare the new input and outputs."""
    body = list(graph.node)
    for field in (graph.node, graph.input, graph.output):
        del field[:]
    graph.node.extend([*before.nodes, *body, *after.nodes])
    graph.initializer.extend([*before.constants, *after.constants])
    datatype = TensorProto.UINT8 if spec.datatype == "UINT8" else TensorProto.FLOAT
    graph.input.append(helper.make_tensor_value_info(INPUT, datatype, ["batch", *spec.shape]))
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in sizes.items()
    )


class _Operators:
    """Nodes in order, named one after the other, and the constants that they read."""

    def __init__(self, opset: int, side: str) -> None:
        self.opset, self._side = opset, f"{CHOICE}{side}."
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._known: dict[tuple[Any, ...], str] = {}

    def make(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:  # noqa: ANN401 # as onnx has it
        made = name or f"{self._side}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [made], **attributes))
        return made

    def constant(self, values: ArrayLike, datatype: DTypeLike = np.int64) -> str:
        array: NDArray[Any] = np.asarray(values, datatype)
        key = array.shape, array.dtype.str, array.tobytes()
        if key not in self._known:
            self._known[key] = f"{self._side}constant{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]

    def slice(self, value: str, axis: int, start: int, end: int) -> str:
        """Return what lies from start up to, not including, end."""
        places = (self.constant([place]) for place in (start, end, axis))
        return self.make("Slice", value, *places)

    def highest(self, value: str) -> str:
        """Return the maximum of each (B, H, W), (B, 1, 1)."""
        if self.opset < AXES_ARE_INPUTS:
            return self.make("ReduceMax", value, axes=[1, 2], keepdims=1)
        return self.make("ReduceMax", value, self.constant([1, 2]), keepdims=1)

    def window(self, start: str, length: int, whole: int) -> str:
        """Return the places from a start on, around the end of the whole. (B, 1) -> (B, length)."""
        return self.modulo(self.make("Add", start, self.constant(np.arange(length)[None])), whole)

    def modulo(self, value: str, divisor: int) -> str:
        """Return what is left of whole numbers from 0 on, by operators of int64 on every device."""
        wholes = self.make("Div", value, self.constant(divisor))
        return self.make("Sub", value, self.make("Mul", wholes, self.constant(divisor)))

    def box_sums(self, value: str, size: tuple[int, int], side: int) -> str:
        """Add up every square of a side, a power of two. (B, H, W) -> smaller by side - 1."""
        for axis, length in enumerate(size, start=1):
            width = 1
            while width < side:
                kept = length - width
                one = self.slice(value, axis, 0, kept)
                value = self.make("Add", one, self.slice(value, axis, width, width + kept))
                length, width = kept, 2 * width
        return value

    def probabilities(self, logits: str, *, labelled: bool) -> None:
        """Give the probabilities of logits as an output."""
        if labelled:
            self.make("Sigmoid", logits, name="probabilities")
        else:
            self.make("Softmax", logits, name="probabilities", axis=1)

    def mean_of_views(self, value: str, views: int, size: int) -> str:
        """Return the mean over views, which lie one after the other. (views B, n) -> (B, n)."""
        stacked = self.make("Reshape", value, self.constant([views, -1, size]))
        total = self.make("ReduceSum", stacked, self.constant([0]), keepdims=0)
        return self.make("Div", total, self.constant(views, np.float32))


def _average(before: _Operators, spec: ModelSpec) -> str:
    """Return all crops of all pictures, one place after the other. -> (views B, ...)."""
    assert spec.stabilisation is not None  # noqa: S101 # the caller's condition, for mypy
    _, height, width = spec.input
    views = []
    for corner in spec.stabilisation.corners:
        view = INPUT
        axes = spec.preprocessing.shift_axes
        for axis, start, length in zip(axes, corner, (height, width), strict=True):
            view = before.slice(view, axis, start, start + length)
        views.append(view)
    return before.make("Concat", *views, axis=0)


def _chosen(before: _Operators, spec: ModelSpec, given: Stabilisation) -> str:
    """Return what each picture shows from the place on that it chooses itself."""
    pixels = spec.datatype == "UINT8"
    maps = before.make("Cast", INPUT, to=TensorProto.FLOAT) if pixels else INPUT
    _, height, width = spec.served
    corner = _corner(before, spec, given, maps, pixels)  # row and column, each int64 (B, 1)
    channels, *lengths = spec.input
    chw = spec.preprocessing.layout == "CHW"
    if chw:
        maps = before.make("Transpose", maps, perm=NCHW_TO_NHWC)
    row, column = (
        before.window(start, length, whole)
        for start, length, whole in zip(corner, lengths, (height, width), strict=True)
    )
    row = before.make("Mul", row, before.constant(width))
    row = before.make("Reshape", row, before.constant([-1, lengths[0], 1]))
    column = before.make("Reshape", column, before.constant([-1, 1, lengths[1]]))
    at = before.make("Add", row, column)
    at = before.make("Reshape", at, before.constant([-1, lengths[0] * lengths[1], 1]))
    line = before.make("Reshape", maps, before.constant([-1, height * width, channels]))
    line = before.make("GatherND", line, at, batch_dims=1)
    maps = before.make("Reshape", line, before.constant([-1, *lengths, channels]))
    if chw:
        maps = before.make("Transpose", maps, perm=NHWC_TO_NCHW)
    return before.make("Cast", maps, to=TensorProto.UINT8) if pixels else maps


def _corner(
    before: _Operators,
    spec: ModelSpec,
    given: Stabilisation,
    maps: str,
    pixels: bool,  # noqa: FBT001 # private
) -> tuple[str, str]:
    """Return where what is seen begins, by the first highest score of each picture."""
    score, rows, columns = _score(before, spec, given, maps, pixels)
    order = np.arange(rows * columns, dtype=np.float32).reshape(1, rows, columns)
    ahead = before.constant(-order, np.float32)
    best = before.make("Equal", score, before.highest(score))
    last = before.constant(-rows * columns, np.float32)
    first = before.highest(before.make("Where", best, ahead, last))  # less its place, (B, 1, 1)
    at = before.make("Cast", before.make("Neg", first), to=TensorProto.INT64)
    at = before.make("Reshape", at, before.constant([-1, 1]))
    row = before.make("Div", at, before.constant(columns))
    column = before.make("Sub", at, before.make("Mul", row, before.constant(columns)))
    if given.kind == "crop":
        return before.modulo(row, given.period), before.modulo(column, given.period)
    _, height, width = spec.served
    up, left = before.constant(height - height // 2), before.constant(width - width // 2)
    return before.make("Add", row, up), before.make("Add", column, left)  # modulo follows


def _score(
    before: _Operators,
    spec: ModelSpec,
    given: Stabilisation,
    maps: str,
    pixels: bool,  # noqa: FBT001 # private
) -> tuple[str, int, int]:
    """Return the score of each place, (B, rows, columns), and how many rows and columns it has."""
    if not pixels:
        levels = before.make("Mul", maps, before.constant(LEVELS, np.float32))
        bounds = (before.constant(bound, np.float32) for bound in (0, LEVELS))
        maps = before.make("Clip", before.make("Round", levels), *bounds)
    channels = 3 if spec.preprocessing.layout == "HWC" else 1
    grey = before.make("ReduceSum", maps, before.constant([channels]), keepdims=0)  # (B, H, W)
    _, *size = spec.served
    small, large = given.boxes
    if given.kind == "circular":
        for axis in (1, 2):
            ends = grey, before.slice(grey, axis, 0, large - 1)
            grey = before.make("Concat", *ends, axis=axis)
            size[axis - 1] += large - 1
    rows, columns = (length - large + 1 for length in size)
    wide = before.box_sums(grey, (size[0], size[1]), large)
    narrow = before.box_sums(grey, (size[0], size[1]), small)
    inside = (large - small) // 2
    narrow = before.slice(narrow, 1, inside, inside + rows)
    narrow = before.slice(narrow, 2, inside, inside + columns)
    weight = before.constant((large // small) ** 2, np.float32)
    return before.make("Sub", before.make("Mul", narrow, weight), wide), rows, columns
