"""Is an ONNX file a classifier that can be served? What does it cost?

bytes -> pictures to logits? -> OnnxNetwork -> any batch? -> as onnx.reference computes it?
"""

from math import prod

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from nyquist.models.onnx_file import inputs_of, opset_of
from nyquist.models.onnx_network import OnnxNetwork, first_line

LEAST_OPSET = 7
"""The first that broadcasts as it is done now; onnxruntime answers for none that is older."""
BATCHES = (1, 2, 5)
ROUNDING = 1e-3
"""Largest difference of two ways to compute an output, as a share of its largest value."""
DYNAMIC = "export it with dynamic_axes={'input': {0: 'batch'}}, or dynamic_shapes"


def read_onnx(content: bytes, name: str) -> OnnxNetwork:
    """Return the network of an ONNX file, weights inside.

    Raises:
        ValueError: its opset is too old, it takes or gives something else than pictures and logits,
            has a fixed batch, or onnxruntime does not run it.
    """
    model = onnx.load_from_string(content)
    opset = opset_of(model)
    if opset < LEAST_OPSET:
        raise ValueError(
            f"{name} has opset {opset}, {LEAST_OPSET} or newer is taken: "
            f"onnx.version_converter.convert_version(model, {LEAST_OPSET})"
        )
    inputs, outputs = inputs_of(model), list(model.graph.output)
    for verb, values in (("takes", inputs), ("gives", outputs)):
        if len(values) != 1:
            names = ", ".join(value.name for value in values) or "nothing"
            raise ValueError(
                f"{name} {verb} {names}; a classifier takes one input and gives one output"
            )
    tensor = inputs[0].type.tensor_type
    sizes = [dim.dim_value or dim.dim_param or "?" for dim in tensor.shape.dim]
    types = [_type(inputs[0]), _type(outputs[0])]
    if types != ["FLOAT", "FLOAT"] or len(sizes) != 4:
        raise ValueError(
            f"{name} takes {types[0]} {sizes} and gives {types[1]}; "
            "a classifier takes FLOAT [batch, C, H, W] and gives FLOAT"
        )
    if isinstance(sizes[0], int):
        raise ValueError(f"{name} has a fixed batch of {sizes[0]}: {DYNAMIC}")  # noqa: TRY004 # a value
    return OnnxNetwork(content, name)


def check_onnx(network: OnnxNetwork, picture: tuple[int, int, int]) -> tuple[str, ...]:
    """Prove that a file takes any batch, and that onnx.reference computes the same.

    Noise is asked in batches of 1, 2 and 5, and one picture of it in ONNX's own evaluator, which is
    written in Python and for its operators alone.

    Args:
        network: of the file.
        picture: channels, height and width.

    Returns:
        What is to be told: the operator that onnx.reference does not know.

    Raises:
        ValueError: a batch is burnt in, pictures of a batch are mixed, or the two differ.
    """
    noise = torch.from_numpy(
        np.random.default_rng(0).standard_normal((max(BATCHES), *picture), np.float32)
    )
    try:
        alone = torch.cat([network(one[None]) for one in noise])
    except RuntimeError as error:
        raise ValueError(f"{network.name} does not take pictures {picture}: {error}") from error
    for batch in BATCHES[1:]:
        try:
            found = network(noise[:batch])
        except RuntimeError as error:
            raise ValueError(
                f"{network.name} does not run with a batch of {batch}, {DYNAMIC}: {error}"
            ) from error
        if not _same(found, alone[:batch]):
            raise ValueError(
                f"{network.name} answers otherwise in a batch of {batch} than picture by picture"
            )
    try:
        evaluator = ReferenceEvaluator(onnx.load_from_string(network.content))
        (wanted,) = evaluator.run(None, {network.input: noise[:1].numpy()})
    except Exception as error:  # noqa: BLE001 # whatever an operator in Python raises
        return (f"onnx.reference does not run {network.name}: {first_line(error)}",)
    if not _same(alone[:1], torch.from_numpy(np.asarray(wanted))):
        raise ValueError(f"{network.name} gives other logits in onnxruntime than in onnx.reference")
    return ()


def count_weights(network: OnnxNetwork) -> int:
    """Return the number of values in the weights of a file, statistics of its norms included."""
    return sum(prod(t.dims) for t in onnx.load_from_string(network.content).graph.initializer)


def count_multiply_adds(network: OnnxNetwork, picture: tuple[int, int, int]) -> int:
    """Return those of convolutions and matrix products for one picture, as shapes tell them."""
    model = onnx.load_from_string(network.content)
    given = next(value for value in model.graph.input if value.name == network.input)
    del model.graph.value_info[:]
    for dim, size in zip(given.type.tensor_type.shape.dim, (1, *picture), strict=True):
        dim.dim_value = size
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type == "Conv":
            window = prod(shapes.get(node.input[1], [0])[1:])
        elif node.op_type in ("Gemm", "MatMul"):
            turned = any(each.name == "transA" and each.i for each in node.attribute)
            window = shapes.get(node.input[0], [0])[-2 if turned else -1]
        else:
            continue
        total += window * prod(shapes.get(node.output[0], [0]))
    return total


def _type(value: onnx.ValueInfoProto) -> str:
    return str(onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type))


def _same(ours: Tensor, theirs: Tensor) -> bool:
    if ours.shape != theirs.shape:
        return False
    return bool((ours - theirs).abs().max() <= ROUNDING * theirs.abs().max())
