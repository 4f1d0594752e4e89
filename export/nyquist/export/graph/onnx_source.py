"""An ONNX file of any exporter -> the graph that is served, with its preprocessing and outputs.

file -> names of its own -> nodes in front and behind -> strip -> lint -> bytes
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from nyquist.export.errors import ExportError
from nyquist.export.graph import lint
from nyquist.export.graph.export import OPSET, Exported, strip_metadata
from nyquist.models.onnx_file import inputs_of, opset_of
from nyquist.models.spec import INPUT, ModelSpec

PREFIX = "network."
"""Of every name of the file, so that none is one of ours."""
LEAST_IR = 4
"""The first format in which weights are not inputs."""


def take_onnx(content: bytes, spec: ModelSpec, outputs: Mapping[str, int]) -> Exported:
    """Return a file as it is served: its own operators and opset, between nodes of ours.

    Those in front do what PreprocessedNetwork does without resizing; they and those behind mean the
    same in every opset from 7 on.

    Args:
        content: of the file, weights inside; checked by nyquist.models.onnx_network.
        spec: of the model.
        outputs: length of each, by name.

    Raises:
        ExportError: the result breaks a rule of export/nyquist/export/graph/lint.py.
    """
    file = onnx.load_from_string(content)
    model = compose.add_prefix(file, PREFIX)
    graph = model.graph
    (given,), (answer,) = inputs_of(model), list(graph.output)
    constants, nodes = _in_front(spec, given.name)
    behind = [helper.make_node("Identity", [answer.name], [spec.answers.output])]
    if "probabilities" in outputs and spec.answers.values == "logits":
        names = [answer.name], ["probabilities"]
        labelled = spec.answers.labelled
        behind.append(
            helper.make_node("Sigmoid", *names)
            if labelled
            else helper.make_node("Softmax", *names, axis=1)
        )
    body = list(graph.node)
    for field in (graph.node, graph.input, graph.output):
        del field[:]
    graph.node.extend([*nodes, *body, *behind])
    graph.initializer.extend(constants)
    datatype = TensorProto.UINT8 if spec.datatype == "UINT8" else TensorProto.FLOAT
    graph.input.append(helper.make_tensor_value_info(INPUT, datatype, ["batch", *spec.shape]))
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in outputs.items()
    )
    model.ir_version = max(model.ir_version, LEAST_IR)
    debug = model.SerializeToString(deterministic=True)
    strip_metadata(model)
    for function in model.functions:
        function.doc_string = ""
    promise = lint.Promise(
        None, {INPUT: spec.shape}, {name: (size,) for name, size in outputs.items()}
    )
    problems = lint.lint(model, promise)
    if problems:
        raise ExportError("; ".join(problems))
    notes = lint.costs(model, promise)
    if opset_of(file) != OPSET:
        notes.append(
            f"opset {opset_of(file)} stays as it is; {OPSET} is the one that CUDA kernels of "
            "onnxruntime are proved with here"
        )
    return Exported(model.SerializeToString(deterministic=True), None, debug, tuple(notes))


def _in_front(spec: ModelSpec, last: str) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """Return the weights and nodes from the served picture to the file's input."""
    steps: list[tuple[str, str, dict[str, Any]]] = []
    constants = []
    if spec.preprocessing.layout == "HWC":
        steps.append(("Transpose", "", {"perm": [0, 3, 1, 2]}))
    if spec.datatype == "UINT8":
        steps.append(("Cast", "", {"to": TensorProto.FLOAT}))
    preprocessing = spec.preprocessing
    if (preprocessing.mean, preprocessing.scale) != (0.0, 1.0):
        for name, operator in (("mean", "Sub"), ("scale", "Div")):
            values = np.asarray(getattr(preprocessing, name), np.float32).reshape(-1, 1, 1)
            constants.append(numpy_helper.from_array(values, name))
            steps.append((operator, name, {}))
    steps.append(("Identity", "", {}))
    nodes, current = [], INPUT
    for place, (operator, constant, attributes) in enumerate(steps, start=1):
        made = last if place == len(steps) else f"prepared.{place}"
        inputs = [current, constant] if constant else [current]
        nodes.append(helper.make_node(operator, inputs, [made], **attributes))
        current = made
    return constants, nodes
