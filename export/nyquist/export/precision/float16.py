"""float32 -> float16: half the file, and half the memory traffic where a device computes in it.

graph -> weights that fit -> converter -> no detour through float16 between float32 nodes -> check
"""

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

from nyquist.export.errors import PrecisionError
from nyquist.export.precision.calibration import ranges
from nyquist.export.precision.derived import finish

LARGEST = float(np.finfo(np.float16).max)

FLOAT32_OPERATORS = (
    *DEFAULT_OP_BLOCK_LIST,
    "GlobalAveragePool",
    "Pow",
    "ReduceMean",
    "ReduceSum",
    "Softmax",
)
"""Sums and squares: 65,504 is soon passed. Behind Pow and Cast, polyphase sums in float64."""

_FROM_GRAPH_INPUT, _BEHIND_FLOAT32 = "graph_input_cast", "_cast_to_fp16_node"  # the converter's
_WIDER = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)


def to_fp16(graph: bytes) -> bytes:
    """Convert weights and activations to float16; inputs and outputs keep their types.

    float32 remain: sums, means and squares, and all that stands in front of the first convolution,
    which is preprocessing. Same graph, same bytes.

    Raises:
        PrecisionError: a weight is beyond the range of float16; every such weight is named.
    """
    source = onnx.load_from_string(graph)
    _refuse_nameless(source)
    model = convert_float_to_float16(
        onnx.load_from_string(graph),
        keep_io_types=True,
        op_block_list=list(FLOAT32_OPERATORS),
        node_block_list=_in_front_of_first_conv(source.graph),
    )
    _refuse_large_weights(source, model)
    _drop_detours(model.graph)
    return finish(model, source)


def overflows(graph: bytes, pictures: NDArray[Any]) -> list[str]:
    """Name the activations that float16 cannot hold; empty if none.

    onnxruntime computes a float16 graph in float32 on the CPU: what overflows on a GPU is found
    only here.

    Args:
        graph: in float32.
        pictures: served inputs, (N, ...).
    """
    half = onnx.shape_inference.infer_shapes(onnx.load_from_string(to_fp16(graph)))
    kept = {
        value.name
        for value in half.graph.value_info
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    } | {value.name for value in half.graph.output}
    largest = {name: max(-low, high) for name, (low, high) in ranges(graph, pictures).items()}
    return [
        f"activation {name!r} reaches {value:.6g}, float16 ends at {LARGEST:.0f}"
        for name, value in largest.items()
        if name in kept and not value <= LARGEST
    ]


def _refuse_nameless(model: onnx.ModelProto) -> None:
    """Raise PrecisionError if a node has no name: it could not be told from the others."""
    if any(not node.name for node in model.graph.node):
        raise PrecisionError("every node needs a name; export the graph with export_graph")


def _in_front_of_first_conv(graph: onnx.GraphProto) -> list[str]:
    """Return the names of the nodes that the input of the first convolution is computed by."""
    producers = {output: node for node in graph.node for output in node.output}
    first = next((node for node in graph.node if node.op_type == "Conv"), None)
    waiting = list(first.input) if first else []
    found: dict[str, None] = {}
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in found:
            found[node.name] = None
            waiting.extend(node.input)
    return list(found)


def _refuse_large_weights(source: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Raise PrecisionError if the converter has clipped a weight."""
    halved = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT16
    }
    found = []
    for tensor in source.graph.initializer:
        if tensor.name in halved and tensor.data_type == onnx.TensorProto.FLOAT:
            value = float(np.abs(numpy_helper.to_array(tensor)).max(initial=0.0))
            if not value <= LARGEST:
                found.append(f"{tensor.name!r} reaches {value:.6g}")
    if found:
        raise PrecisionError(f"float16 ends at {LARGEST:.0f}: weight {', '.join(found)}")


def _drop_detours(graph: onnx.GraphProto) -> None:
    """Let float32 nodes read each other directly.

    The converter casts what a float32 node writes to float16, and back for the next: rounded, and
    infinite where the next node was kept in float32 against just that.
    """
    wide = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.name.startswith(_FROM_GRAPH_INPUT) or node.name.endswith(_BEHIND_FLOAT32)
    }
    direct = {}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in wide and node.attribute[0].i in _WIDER:
            node.input[0] = wide[node.input[0]]
            if node.attribute[0].i == onnx.TensorProto.FLOAT:
                direct[node.output[0]] = node.input[0]
    for node in graph.node:
        node.input[:] = [direct.get(name, name) for name in node.input]
    read = {name for node in graph.node for name in node.input}
    read.update(output.name for output in graph.output)
    for node in [node for node in graph.node if read.isdisjoint(node.output)]:
        graph.node.remove(node)
