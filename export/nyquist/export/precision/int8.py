"""float32 -> int8 where it pays: a quarter of the file, and integer convolutions.

recipe -> nodes -> ranges of their activations on real pictures -> QuantizeLinear, DequantizeLinear
-> mean error of the logits on those pictures -> last bias

Activations are unsigned 8 bit, weights signed, one scale for each output channel. Weights use 7 of
their 8 bits: without VNNI instructions an x86 CPU adds pairs of products in 16 bits, which 8 bit
weights overflow, and the answer would depend on the machine.
"""

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import QDQQuantizer, QuantType

from nyquist.export.errors import PrecisionError
from nyquist.export.precision.calibration import Calibration, logits
from nyquist.export.precision.derived import finish
from nyquist.models.layers.blur import MAX_TAPS, blur_kernel

MULTIPLYING = ("Conv", "Gemm", "MatMul")
QUANTISABLE = ("Conv", "Gemm")
ACTIVATIONS = ("Relu", "Clip")
"""Absorbed by the convolution in front: else half of its 256 steps hold what they set to zero."""

CALIBRATED = (*QUANTISABLE, *ACTIVATIONS)

OPEN_SIZE = 224
"""Height and width that a share is counted for, where the graph leaves them open."""


@dataclass(frozen=True)
class Recipe:
    """What runs in int8. What moves data, adds or pools stays in float32.

    Attributes:
        name: for reports.
        operators: types of nodes, of QUANTISABLE.
        float_first: whether the first convolution that learns stays in float32.
        float_blur: whether the fixed low-pass filters do.

    Raises:
        ValueError: there is no operator, or one that is none of QUANTISABLE.
    """

    name: str
    operators: tuple[str, ...] = QUANTISABLE
    float_first: bool = False
    float_blur: bool = False

    def __post_init__(self) -> None:
        if not self.operators or not {*self.operators} <= {*QUANTISABLE}:
            raise ValueError(f"operators must be of {QUANTISABLE}, got {self.operators}")


def quantise(graph: bytes, recipe: Recipe, calibration: Calibration) -> bytes:
    """Quantise a graph. Same graph, recipe and pictures on one kind of CPU: same bytes.

    What rounding adds to each logit on the average picture is taken off the last bias: a flat
    ground is rounded the same way at every pixel, and the pooled sum of that would outweigh the
    object (Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
    2019, for the last layer and with pictures).

    Args:
        graph: in float32.
        recipe: what to quantise.
        calibration: of the graph, for CALIBRATED.

    Raises:
        PrecisionError: the recipe finds nothing to quantise.
    """
    source = onnx.load_from_string(graph)
    biased = _insert_roundings(source, recipe, calibration)
    shift = (calibration.logits - logits(biased, calibration.pictures)).mean(axis=0)
    if not _add_to_last_bias(source, shift):
        return biased
    return _insert_roundings(source, recipe, calibration)


def _insert_roundings(source: onnx.ModelProto, recipe: Recipe, calibration: Calibration) -> bytes:
    chosen = quantised_nodes(source.graph, recipe)
    if not chosen:
        raise PrecisionError(f"recipe {recipe.name!r} finds nothing to quantise")
    quantizer = QDQQuantizer(
        onnx.ModelProto.FromString(source.SerializeToString()),
        per_channel=True,
        reduce_range=True,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=calibration.ranges,
        nodes_to_quantize=[],
        nodes_to_exclude=[
            node.name
            for node in source.graph.node
            if node.op_type in recipe.operators and node.name not in chosen
        ],
        op_types_to_quantize=(*recipe.operators, *ACTIVATIONS),
        # logits in 256 steps would tie
        extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},
    )
    quantizer.quantize_model()
    return finish(quantizer.model.model, source)


def _add_to_last_bias(model: onnx.ModelProto, shift: NDArray[Any]) -> bool:
    """Add to the bias of the Gemm that gives the logits, (C,); False if there is no such bias."""
    graph = model.graph
    last = next((node for node in graph.node if node.output[0] == graph.output[0].name), None)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    if last is None or last.op_type != "Gemm" or len(last.input) < 3 or last.input[2] not in stored:
        return False
    bias = numpy_helper.to_array(stored[last.input[2]])
    name = f"{last.input[2]}_corrected"  # another node may read the same initializer
    graph.initializer.append(numpy_helper.from_array((bias + shift).astype(bias.dtype), name))
    last.input[2] = name
    return True


def quantised_nodes(graph: onnx.GraphProto, recipe: Recipe) -> frozenset[str]:
    """Return the names of the nodes that a recipe quantises.

    Raises:
        PrecisionError: a node that multiplies has no name to exclude it by.
    """
    multiplying = [node for node in graph.node if node.op_type in MULTIPLYING]
    if any(not node.name for node in multiplying):
        raise PrecisionError("every Conv, Gemm and MatMul needs a name")
    left: set[str] = set()
    if recipe.float_blur:
        left.update(blur_nodes(graph))
    if recipe.float_first and (first := first_convolution(graph)):
        left.add(first.name)
    return frozenset(
        node.name
        for node in multiplying
        if node.op_type in recipe.operators and node.name not in left
    )


def blur_nodes(graph: onnx.GraphProto) -> frozenset[str]:
    """Return the names of the depthwise convolutions whose every filter is the binomial one."""
    weights = {tensor.name: tensor for tensor in graph.initializer}
    return frozenset(
        node.name
        for node in graph.node
        if node.op_type == "Conv" and _is_blur(weights.get(node.input[1]))
    )


def _is_blur(weight: onnx.TensorProto | None) -> bool:
    """Say whether a weight is (C, 1, taps, taps), each channel the filter of layers.blur."""
    if weight is None or len(weight.dims) != 4 or weight.dims[1] != 1:
        return False
    taps = weight.dims[2]
    if taps != weight.dims[3] or not 2 <= taps <= MAX_TAPS:
        return False
    return np.allclose(numpy_helper.to_array(weight), blur_kernel(taps).numpy(), atol=1e-7)


def first_convolution(graph: onnx.GraphProto) -> onnx.NodeProto | None:
    """Return the first convolution that is no blur; nodes of a graph stand in order."""
    blurs = blur_nodes(graph)
    convolutions = (node for node in graph.node if node.op_type == "Conv")
    return next((node for node in convolutions if node.name not in blurs), None)


def share_of(costs: dict[str, int], nodes: frozenset[str]) -> float:
    """Return the share of the multiply-adds that fall to some nodes."""
    return sum(costs[name] for name in nodes) / sum(costs.values())


def multiply_adds(model: onnx.ModelProto) -> dict[str, int]:
    """Return what one picture costs in each convolution and matrix product, by node.

    Raises:
        PrecisionError: the graph multiplies nothing, or its shapes cannot be inferred.
    """
    shapes = _shapes(model)
    found = {}
    for node in model.graph.node:
        if node.op_type in MULTIPLYING:
            if not {node.input[1], node.output[0]} <= shapes.keys():
                raise PrecisionError(f"the shape of {node.output[0]!r} cannot be inferred")
            weight, output = shapes[node.input[1]], shapes[node.output[0]]
            found[node.name] = prod(output) * products(node, weight)
    if not found:
        raise PrecisionError("the graph has neither convolutions nor matrix products")
    return found


def products(node: onnx.NodeProto, weight: tuple[int, ...]) -> int:
    """Return how many products make one value of a node's output."""
    if node.op_type == "Conv":
        return prod(weight[1:])
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return weight[-1] if transposed else weight[-2]


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Infer the shape of each tensor, for one picture."""
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    for value in fixed.graph.input:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_value = 1 if axis == 0 else dim.dim_value or OPEN_SIZE
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    inferred = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.value_info, *graph.output)
    }
    known = {name: shape for name, shape in inferred.items() if all(shape)}
    return known | {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
