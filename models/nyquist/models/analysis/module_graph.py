"""A PyTorch module as windows: torch.export -> one node for each operator -> LayerGraph.

torch.export, and not forward hooks: it sees what forward itself computes (pads, residual sums, the
functional form of a convolution) and how it is connected.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from nyquist.models.analysis.layer_graph import GraphBuilder, Layer, LayerGraph
from nyquist.models.analysis.receptive_field import last_map
from nyquist.models.analysis.window import Window


@dataclass(frozen=True)
class Call:
    """One operator of the exported program.

    Attributes:
        layer: what it is.
        sources: nodes of the graph among its inputs, in order.
        arguments: all of its inputs, by the names of its schema; tensors as fx nodes.
    """

    layer: Layer
    sources: tuple[int, ...]
    arguments: dict[str, Any]

    def axes(self, name: str, rank: int) -> list[int]:
        """Return an argument of axes, none of them negative; all axes if it is not given."""
        value = self.arguments.get(name)
        listed = [value] if isinstance(value, int) else list(value or range(rank))
        return [axis % rank for axis in listed]

    def pair(self, name: str) -> tuple[int, int]:
        """Return an argument for height and width; one number stands for both."""
        value = self.arguments[name]
        values = [value] if isinstance(value, int) else list(value)
        return (values[0], values[-1])


def module_graph(network: nn.Module, picture: Tensor) -> LayerGraph:
    """Read the windows of every layer of a network in evaluation mode.

    Args:
        network: takes one tensor; its mode is the same afterwards.
        picture: an example, (B, C, H, W); the sizes of all maps are those that it gives.

    Raises:
        ValueError: the network uses an operator that is not known here, named in the message.
    """
    with evaluating(network):
        program = torch.export.export(network, (picture,), strict=False)
    builder = GraphBuilder(picture.shape, rows=2, columns=3)
    (given,) = program.graph_signature.user_inputs
    known: dict[fx.Node, int] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder" and node.name == given:
            known[node] = 0
        elif node.op == "call_function" and any(source in known for source in node.all_input_nodes):
            _add(builder, node, known)
    return builder.build()


def last_map_module(network: nn.Module, graph: LayerGraph) -> str:
    """Return the name of the last module whose output still has rows and columns.

    Raises:
        ValueError: no layer has more than one position, or none of those that have is a module.
    """
    modules = dict(network.named_modules())
    before = graph.nodes[: last_map(graph) + 1]
    names = [node.layer.name for node in before if node.layer.name in modules]
    if not names:
        raise ValueError("no module puts out a map of more than one position")
    return names[-1]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and every module back as it was."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _add(builder: GraphBuilder, node: fx.Node, known: dict[fx.Node, int]) -> None:
    value = node.meta.get("val")
    first = value[0] if isinstance(value, list | tuple) and value else value
    if not isinstance(first, Tensor):
        return  # an assertion, a size
    op = _operator(node)
    handler = HANDLERS.get(op)
    layer = Layer(_module_path(node) or node.name, op, tuple(first.shape))
    if handler is None:
        raise ValueError(f"{layer.name}: no receptive field is known for the operator {op!r}")
    sources = tuple(known[source] for source in node.all_input_nodes if source in known)
    known[node] = handler(builder, Call(layer, sources, _arguments(node)))


def _operator(node: fx.Node) -> str:
    """Return conv2d for aten.conv2d.default; in place or not is the same here."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return getattr(node.target, "__name__", str(node.target))
    name: str = schema.name.rpartition("::")[2]
    return name.rstrip("_")


def _arguments(node: fx.Node) -> dict[str, Any]:
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {}
    values = {argument.name: argument.default_value for argument in schema.arguments}
    values.update(zip(values, node.args, strict=False))
    return {**values, **node.kwargs}


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    return str(list(stack.values())[-1][0]) if stack else ""


def _convolution(builder: GraphBuilder, call: Call) -> int:
    kernel = call.arguments["weight"].meta["val"].shape[2:]
    strides, dilations = call.pair("stride"), call.pair("dilation")
    padding = call.arguments["padding"]
    if isinstance(padding, str):
        spans = [
            d * (k - 1) if padding == "same" else 0 for k, d in zip(kernel, dilations, strict=True)
        ]
        befores = (spans[0] // 2, spans[1] // 2)
    else:
        befores = call.pair("padding")
    windows = [
        Window(k, s, pad_before=p, dilation=d)
        for k, s, p, d in zip(kernel, strides, befores, dilations, strict=True)
    ]
    return _on_last_two_axes(builder, call, windows)


def _pool(builder: GraphBuilder, call: Call) -> int:
    kernels, paddings = call.pair("kernel_size"), call.pair("padding")
    strides = call.pair("stride") if call.arguments["stride"] else kernels
    dilations = call.pair("dilation") if "dilation" in call.arguments else (1, 1)
    windows = [
        Window(k, s, pad_before=p, dilation=d)
        for k, s, p, d in zip(kernels, strides, paddings, dilations, strict=True)
    ]
    return _on_last_two_axes(builder, call, windows)


def _adaptive_pool(builder: GraphBuilder, call: Call) -> int:
    shape = builder.node(call.sources[0]).layer.shape
    windows = []
    for size, count in zip(shape[-2:], call.layer.shape[-2:], strict=True):
        if size % count:
            raise ValueError(
                f"{call.layer.name}: {size} positions do not fall evenly into {count}; "
                "choose a picture size with which they do"
            )
        windows.append(Window(size // count, stride=size // count))
    return _on_last_two_axes(builder, call, windows)


def _on_last_two_axes(builder: GraphBuilder, call: Call, windows: Sequence[Window]) -> int:
    rank = len(call.layer.shape)
    return builder.window(
        call.layer, call.sources[0], dict(zip((rank - 2, rank - 1), windows, strict=True))
    )


def _pad(builder: GraphBuilder, call: Call) -> int:
    pads, rank = call.arguments["pad"], len(call.layer.shape)
    windows = {
        rank - 1 - at: Window(1, pad_before=before, pad_after=after)
        for at, (before, after) in enumerate(zip(pads[::2], pads[1::2], strict=True))
    }
    return builder.window(call.layer, call.sources[0], windows)


def _cut(builder: GraphBuilder, call: Call) -> int:
    shape = builder.node(call.sources[0]).layer.shape
    axis = call.arguments["dim"] % len(shape)
    start, step = call.arguments["start"] or 0, call.arguments.get("step", 1)
    start = max(start + shape[axis], 0) if start < 0 else min(start, shape[axis])
    window = Window(1, stride=step, pad_before=-start)
    return builder.window(call.layer, call.sources[0], {axis: window})


def _merge(builder: GraphBuilder, call: Call) -> int:
    return builder.merge(call.layer, call.sources)


def _reshape(builder: GraphBuilder, call: Call) -> int:
    return builder.reshape(call.layer, call.sources[0])


def _permute(builder: GraphBuilder, call: Call) -> int:
    order = call.axes("dims", len(call.layer.shape))
    return builder.permute(call.layer, call.sources[0], order)


def _transpose(builder: GraphBuilder, call: Call) -> int:
    rank = len(call.layer.shape)
    first, second = call.arguments["dim0"] % rank, call.arguments["dim1"] % rank
    order = list(range(rank))
    order[first], order[second] = order[second], order[first]
    return builder.permute(call.layer, call.sources[0], order)


def _reduce(builder: GraphBuilder, call: Call) -> int:
    rank = len(builder.node(call.sources[0]).layer.shape)
    return builder.reduce(call.layer, call.sources[0], call.axes("dim", rank))


def _concatenate(builder: GraphBuilder, call: Call) -> int:
    axis = call.arguments["dim"] % len(call.layer.shape)
    return builder.concatenate(call.layer, call.sources, axis)


def _along_one_axis(builder: GraphBuilder, call: Call) -> int:
    """Pick, split or sort along an axis that is neither rows nor columns."""
    node = builder.node(call.sources[0])
    axis = call.arguments["dim"] % len(node.layer.shape)
    if axis in (node.rows, node.columns):
        raise ValueError(f"{call.layer.name}: {call.layer.op} along rows or columns is not known")
    return builder.merge(call.layer, call.sources)


def _normalise_last_axes(builder: GraphBuilder, call: Call) -> int:
    rank = len(call.layer.shape)
    axes = range(rank - len(call.arguments["normalized_shape"]), rank)
    return builder.normalise(call.layer, call.sources[0], list(axes))


def _normalise_axis(builder: GraphBuilder, call: Call) -> int:
    return builder.normalise(call.layer, call.sources[0], call.axes("dim", len(call.layer.shape)))


def _normalise_map(builder: GraphBuilder, call: Call) -> int:
    return builder.normalise(call.layer, call.sources[0], list(range(len(call.layer.shape))))


def _linear(builder: GraphBuilder, call: Call) -> int:
    node = builder.node(call.sources[0])
    if len(node.layer.shape) - 1 in (node.rows, node.columns):
        return builder.mix(call.layer, call.sources)
    return builder.merge(call.layer, call.sources)


def _mix(builder: GraphBuilder, call: Call) -> int:
    return builder.mix(call.layer, call.sources)


Handler = Callable[[GraphBuilder, Call], int]

# fmt: off
POSITION_BY_POSITION = (
    "_to_copy", "abs", "add", "alias", "batch_norm", "bernoulli", "clamp", "clamp_max",
    "clamp_min", "clone", "contiguous", "cos", "detach", "div", "dropout", "elu", "erf",
    "exp", "expand", "expand_as", "feature_dropout", "float", "gelu", "getitem",
    "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "lift_fresh_copy", "log",
    "log_sigmoid", "maximum", "minimum", "mish", "mul", "neg", "pow", "prelu", "reciprocal",
    "relu", "relu6", "rsqrt", "rsub", "selu", "sigmoid", "silu", "sin", "softplus", "sqrt",
    "square", "sub", "tanh", "to", "type_as", "where",
)
# fmt: on

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(POSITION_BY_POSITION, _merge),
    **dict.fromkeys(("conv2d", "convolution"), _convolution),
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), _pool),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive_pool),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("narrow", "slice"), _cut),
    **dict.fromkeys(("reshape", "view", "flatten", "unflatten", "squeeze", "unsqueeze"), _reshape),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "argmax", "argmin", "norm"), _reduce),
    **dict.fromkeys(("gather", "split", "chunk", "split_with_sizes"), _along_one_axis),
    **dict.fromkeys(("group_norm", "instance_norm"), _normalise_map),
    **dict.fromkeys(("softmax", "log_softmax"), _normalise_axis),
    **dict.fromkeys(("matmul", "bmm", "scaled_dot_product_attention"), _mix),
    "cat": _concatenate,
    "layer_norm": _normalise_last_axes,
    "linear": _linear,
    "permute": _permute,
    "transpose": _transpose,
}
"""What each operator of ATen reads; in-place forms go by the same name."""
