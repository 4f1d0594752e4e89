"""Is an ONNX file a classifier that can be served? What does it cost?

bytes -> pictures to logits? -> OnnxNetwork -> any batch? -> as onnx.reference computes it?
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from nyquist.models.onnx_file import inputs_of, opset_of
from nyquist.models.onnx_network import OnnxNetwork, first_line
from nyquist.models.outputs import several_of

LEAST_OPSET = 7
"""The first that broadcasts as it is done now; onnxruntime answers for none that is older."""
BATCHES = (1, 2, 5)
KEEPS_VALUES = ("Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Dropout")
ROUNDING = 1e-3
"""Largest difference of two ways to compute an output, as a share of its largest value."""
CHOOSE = "--outputs logits=NAME,other=NAME, each name or its place from 0"
DYNAMIC = "export it with dynamic_axes={'input': {0: 'batch'}}, or dynamic_shapes"


def read_onnx(content: bytes, name: str, *, several: bool = False) -> OnnxNetwork:
    """Return the network of an ONNX file, weights inside.

    Args:
        content: of the file.
        name: for messages.
        several: whether it may give several outputs, among which somebody chooses.

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
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "nothing"
        raise ValueError(f"{name} takes {names}; a classifier takes one input")
    if len(outputs) != 1 and not several:
        names = ", ".join(value.name for value in outputs) or "nothing"
        raise ValueError(f"{name} gives {names}; say which is which: {CHOOSE}")
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
        given = evaluator.run(None, {network.input: noise[:1].numpy()})
        picks = dict(several_of(network).picks)
        place = place_of(network.outputs, picks.get("logits", "logits")) if picks else 0
        wanted = [*given][place]
    except Exception as error:  # noqa: BLE001 # whatever an operator in Python raises
        return (f"onnx.reference does not run {network.name}: {first_line(error)}",)
    if not _same(alone[:1], torch.from_numpy(np.asarray(wanted))):
        raise ValueError(f"{network.name} gives other logits in onnxruntime than in onnx.reference")
    return ()


def place_of(outputs: Sequence[str], key: str) -> int:
    """Return where among the outputs of a file one lies: its name, or its place from 0."""
    return outputs.index(key) if key in outputs else int(key)


def ends_in_sigmoid(network: OnnxNetwork, key: str) -> bool:
    """Say whether a sigmoid gave an output, behind which nothing but its shape was changed.

    Args:
        network: of the file.
        key: name of the output, or its place from 0; another name is the first.
    """
    graph = onnx.load_from_string(network.content).graph
    made_by = {name: node for node in graph.node for name in node.output}
    known = key in network.outputs or key.isdecimal()
    node = made_by.get(network.outputs[place_of(network.outputs, key) if known else 0])
    while node is not None and node.op_type in KEEPS_VALUES:
        node = made_by.get(node.input[0])
    return node is not None and node.op_type == "Sigmoid"


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
