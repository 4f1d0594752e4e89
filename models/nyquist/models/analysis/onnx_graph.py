"""An ONNX file as windows: shape inference -> one node for each operator -> LayerGraph.

Layers are named as their author did: by the module that its weights are of, else by the node.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from nyquist.models.analysis.layer_graph import GraphBuilder, Layer, LayerGraph
from nyquist.models.analysis.window import Window
from nyquist.models.spec import Layout

WEIGHT = ".weight"
_SPATIAL_AXES: dict[Layout, tuple[int, int]] = {"CHW": (2, 3), "HWC": (1, 2)}


@dataclass(frozen=True)
class Call:
    """One operator of the file.

    Attributes:
        layer: what it is.
        sources: nodes of the graph among its inputs, in order.
        inputs: value of each input that is constant, None of the others.
        attributes: by name.
    """

    layer: Layer
    sources: tuple[int, ...]
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]

    def option(self, name: str, position: int) -> list[int] | None:
        """Return a list that is an attribute in old opsets and an input in new ones, if given."""
        if name in self.attributes:
            return list(self.attributes[name])
        if position < len(self.inputs) and self.inputs[position] is not None:
            return [int(value) for value in self.inputs[position].ravel()]
        return None


def onnx_graph(
    path: Path, layout: Layout = "CHW", size: tuple[int, int] | None = None
) -> LayerGraph:
    """Read the windows of every layer of an ONNX file with one input.

    Args:
        path: the file; its weights may lie outside.
        layout: order of the axes of one input picture.
        size: height and width, for a file that leaves them open.

    Raises:
        ValueError: the file uses an operator that is not known here, or its sizes are open.
        FileNotFoundError: there is no such file.
    """
    model = onnx.load(path, load_external_data=False)
    shapes = _inferred_shapes(model, layout, size)
    constants = _constants(model.graph)
    (given,) = (value.name for value in model.graph.input if value.name not in constants)
    rows, columns = _SPATIAL_AXES[layout]
    if given not in shapes:
        raise ValueError(f"the shape of {given!r} is open; give size=")
    builder = GraphBuilder(shapes[given], rows, columns)
    known = {given: 0}
    names = _layer_names(model.graph)
    for node in model.graph.node:
        sources = tuple(known[name] for name in node.input if name in known)
        if not sources or node.op_type == "Shape":
            continue
        name = node.output[0]
        if name not in shapes:
            raise ValueError(f"the shape of {name!r} ({node.op_type}) is open; give size=")
        handler = HANDLERS.get(node.op_type)
        if handler is None:
            raise ValueError(f"{name}: no receptive field is known for {node.op_type!r}")
        layer = Layer(names[name], node.op_type, shapes[name])
        inputs = tuple(constants.get(source) for source in node.input)
        call = Call(layer, sources, inputs, _attributes(node))
        known.update(dict.fromkeys(node.output, handler(builder, call)))
    return builder.build()


def layout_of(path: Path) -> Layout:
    """Return the order of axes that a graph of ours says its pictures have; CHW of any other.

    Raises:
        FileNotFoundError: there is no such file.
    """
    facts = {
        entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props
    }
    described = json.loads(facts.get("nyquist.preprocessing", "{}"))
    return "HWC" if described.get("layout") == "HWC" else "CHW"


def _layer_names(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the name of each node's layer, by the node's first output.

    An exporter names weights after their modules, `stages.0.0.weight`, and what it makes up for
    nodes differs by exporter. What all modules share, such as the name of a wrapper, is left out.
    A module that is used again is its node's name there.
    """
    weights = {tensor.name for tensor in graph.initializer if tensor.name.endswith(WEIGHT)}
    modules = {
        node.output[0]: next(name for name in node.input if name in weights).removesuffix(WEIGHT)
        for node in graph.node
        if weights.intersection(node.input)
    }
    shared = _shared_prefix(modules.values())
    names: dict[str, str] = {}
    for node in graph.node:
        own = node.name or node.output[0]
        module = modules.get(node.output[0], own).removeprefix(shared)
        names[node.output[0]] = own if module in names.values() else module
    return names


def _shared_prefix(modules: Iterable[str]) -> str:
    paths = [module.split(".")[:-1] for module in modules]
    alike = takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))
    return "".join(f"{parts[0]}." for parts in alike)


def picture_shape(graph: LayerGraph) -> tuple[int, int, int]:
    """Return (C, H, W) of the picture that a graph takes."""
    picture = graph.nodes[0]
    (channels,) = (
        size
        for axis, size in enumerate(picture.layer.shape)
        if axis not in (0, picture.rows, picture.columns)
    )
    return channels, *picture.grid


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return {key: v.decode() if isinstance(v, bytes) else v for key, v in values.items()}


def _inferred_shapes(
    model: onnx.ModelProto, layout: Layout, size: tuple[int, int] | None
) -> dict[str, tuple[int, ...]]:
    initial = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        if value.name in initial:
            continue
        dims = value.type.tensor_type.shape.dim
        dims[0].dim_value = 1
        for axis, pixels in zip(_SPATIAL_AXES[layout], size or (), strict=False):
            dims[axis].dim_value = pixels
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    graph = inferred.graph
    shapes = {}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dims = value.type.tensor_type.shape.dim
        sizes = tuple(
            1 if dim.dim_param and i == 0 else dim.dim_value for i, dim in enumerate(dims)
        )
        if all(sizes):
            shapes[value.name] = sizes
    return shapes


def _constants(graph: onnx.GraphProto) -> dict[str, Any]:
    """Return the value of every initializer and constant, by name."""
    values = {tensor.name: _value(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            attributes = _attributes(node)
            if "value" in attributes:
                values[node.output[0]] = _value(attributes["value"])
            elif "value_ints" in attributes:
                values[node.output[0]] = np.array(attributes["value_ints"])
    return values


def _value(tensor: onnx.TensorProto) -> onnx.TensorProto | NDArray[Any]:
    """Return an array, or the descriptor itself where the values lie in another file."""
    outside = tensor.data_location == onnx.TensorProto.EXTERNAL
    return tensor if outside else numpy_helper.to_array(tensor)


def _shape(value: onnx.TensorProto | NDArray[Any]) -> tuple[int, ...]:
    return tuple(value.dims) if isinstance(value, onnx.TensorProto) else tuple(value.shape)


def _convolution(builder: GraphBuilder, call: Call) -> int:
    kernel = call.attributes.get("kernel_shape") or _shape(call.inputs[1])[2:]
    return _windows(builder, call, list(kernel))


def _pool(builder: GraphBuilder, call: Call) -> int:
    return _windows(builder, call, list(call.attributes["kernel_shape"]))


def _windows(builder: GraphBuilder, call: Call, kernel: list[int]) -> int:
    rank = len(kernel)
    strides = call.attributes.get("strides", [1] * rank)
    dilations = call.attributes.get("dilations", [1] * rank)
    sizes = builder.node(call.sources[0]).layer.shape[-rank:]
    befores = call.attributes.get("pads", [0] * 2 * rank)[:rank]
    same = call.attributes.get("auto_pad", "NOTSET")
    if same.startswith("SAME"):
        befores = [
            _same_before(n, d * (k - 1) + 1, s, same)
            for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
        ]
    first = len(call.layer.shape) - rank
    windows = {
        first + at: Window(kernel[at], strides[at], befores[at], dilation=dilations[at])
        for at in range(rank)
    }
    return builder.window(call.layer, call.sources[0], windows)


def _same_before(size: int, span: int, stride: int, mode: str) -> int:
    total = max((-(-size // stride) - 1) * stride + span - size, 0)
    return total - total // 2 if mode == "SAME_LOWER" else total // 2


def _pad(builder: GraphBuilder, call: Call) -> int:
    pads = call.option("pads", 1)
    if pads is None:
        raise ValueError(f"{call.layer.name}: the pads are no constant")
    axes = call.option("axes", 3) or list(range(len(call.layer.shape)))
    windows = {
        axis % len(call.layer.shape): Window(1, pad_before=before)
        for axis, before in zip(axes, pads[: len(axes)], strict=True)
    }
    return builder.window(call.layer, call.sources[0], windows)


def _slice(builder: GraphBuilder, call: Call) -> int:
    shape = builder.node(call.sources[0]).layer.shape
    starts = call.option("starts", 1)
    if starts is None:
        raise ValueError(f"{call.layer.name}: the starts are no constant")
    axes = call.option("axes", 3) or list(range(len(starts)))
    steps = call.option("steps", 4) or [1] * len(starts)
    windows = {}
    for axis, start, step in zip(axes, starts, steps, strict=True):
        size = shape[axis]
        first = max(start + size, 0) if start < 0 else min(start, size)
        windows[axis % len(shape)] = Window(1, stride=step, pad_before=-first)
    return builder.window(call.layer, call.sources[0], windows)


def _merge(builder: GraphBuilder, call: Call) -> int:
    return builder.merge(call.layer, call.sources)


def _reshape(builder: GraphBuilder, call: Call) -> int:
    return builder.reshape(call.layer, call.sources[0])


def _transpose(builder: GraphBuilder, call: Call) -> int:
    rank = len(call.layer.shape)
    order = call.attributes.get("perm", list(reversed(range(rank))))
    return builder.permute(call.layer, call.sources[0], order)


def _reduce(builder: GraphBuilder, call: Call) -> int:
    rank = len(builder.node(call.sources[0]).layer.shape)
    axes = call.option("axes", 1) or list(range(rank))
    return builder.reduce(call.layer, call.sources[0], [axis % rank for axis in axes])


def _arg_reduce(builder: GraphBuilder, call: Call) -> int:
    rank = len(builder.node(call.sources[0]).layer.shape)
    return builder.reduce(call.layer, call.sources[0], [call.attributes.get("axis", 0) % rank])


def _global_pool(builder: GraphBuilder, call: Call) -> int:
    return builder.reduce(call.layer, call.sources[0], list(range(2, len(call.layer.shape))))


def _concatenate(builder: GraphBuilder, call: Call) -> int:
    axis = call.attributes["axis"] % len(call.layer.shape)
    return builder.concatenate(call.layer, call.sources, axis)


def _normalise_axis(builder: GraphBuilder, call: Call) -> int:
    axis = call.attributes.get("axis", -1) % len(call.layer.shape)
    return builder.normalise(call.layer, call.sources[0], [axis])


def _normalise_last_axes(builder: GraphBuilder, call: Call) -> int:
    rank = len(call.layer.shape)
    axes = range(call.attributes.get("axis", -1) % rank, rank)
    return builder.normalise(call.layer, call.sources[0], list(axes))


def _normalise_map(builder: GraphBuilder, call: Call) -> int:
    return builder.normalise(call.layer, call.sources[0], list(range(len(call.layer.shape))))


def _product(builder: GraphBuilder, call: Call) -> int:
    """Multiply by a matrix: position by position, unless it is another map or rows or columns."""
    node = builder.node(call.sources[0])
    on_a_map = len(node.layer.shape) - 1 in (node.rows, node.columns)
    if on_a_map or len(call.sources) > 1:
        return builder.mix(call.layer, call.sources)
    return builder.merge(call.layer, call.sources)


def _gather(builder: GraphBuilder, call: Call) -> int:
    node = builder.node(call.sources[0])
    axis = call.attributes.get("axis", 0) % len(node.layer.shape)
    if axis in (node.rows, node.columns):
        raise ValueError(f"{call.layer.name}: {call.layer.op} along rows or columns is not known")
    return builder.merge(call.layer, call.sources)


Handler = Callable[[GraphBuilder, Call], int]

# fmt: off
POSITION_BY_POSITION = (
    "Abs", "Add", "BatchNormalization", "Cast", "Ceil", "Clip", "Cos", "DequantizeLinear",
    "Div", "Dropout", "Elu", "Equal", "Erf", "Exp", "Expand", "Floor", "Gelu", "Greater",
    "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Less", "Log", "Max", "Min", "Mish",
    "Mul", "Neg", "Not", "PRelu", "Pow", "QuantizeLinear", "Reciprocal", "Relu", "Round",
    "Selu", "Sigmoid", "Sign", "Sin", "Softplus", "Sqrt", "Sub", "Sum", "Swish", "Tanh",
    "Where",
)
# fmt: on

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(POSITION_BY_POSITION, _merge),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare"),
        _reduce,
    ),
    **dict.fromkeys(("GlobalAveragePool", "GlobalMaxPool"), _global_pool),
    **dict.fromkeys(("ArgMax", "ArgMin"), _arg_reduce),
    **dict.fromkeys(("Gemm", "MatMul"), _product),
    **dict.fromkeys(("Softmax", "LogSoftmax"), _normalise_axis),
    **dict.fromkeys(("GroupNormalization", "InstanceNormalization"), _normalise_map),
    "LayerNormalization": _normalise_last_axes,
    "Concat": _concatenate,
    "Conv": _convolution,
    "GatherElements": _gather,
    "Pad": _pad,
    "Slice": _slice,
    "Transpose": _transpose,
}
"""What each operator of ONNX reads."""
