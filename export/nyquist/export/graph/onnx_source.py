"""An ONNX file of any exporter -> the graph that is served, with its preprocessing and outputs.

file -> names of its own -> nodes in front and behind -> strip -> lint -> bytes
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from nyquist.export.errors import ExportError
from nyquist.export.graph import lint
from nyquist.export.graph.export import OPSET, Exported, strip_metadata
from nyquist.models.onnx_checks import place_of
from nyquist.models.onnx_file import inputs_of, opset_of
from nyquist.models.spec import INPUT, ModelSpec

PREFIX = "network."
"""Of every name of the file, so that none is one of ours."""
LEAST_IR = 4
"""The first format in which weights are not inputs."""


def take_onnx(content: bytes, spec: ModelSpec, outputs: Mapping[str, tuple[int, ...]]) -> Exported:
    """Return a file as it is served: its own operators and opset, between nodes of ours.

    Those in front do what PreprocessedNetwork does without resizing; they and those behind mean the
    same in every opset from 7 on.

    Args:
        content: of the file, weights inside; checked by nyquist.models.onnx_network.
        spec: of the model.
        outputs: shape of each, by name, without the batch.

    Raises:
        ExportError: the result breaks a rule of export/nyquist/export/graph/lint.py.
    """
    file = onnx.load_from_string(content)
    model = compose.add_prefix(file, PREFIX)
    graph = model.graph
    (given,) = inputs_of(model)
    names = [value.name for value in graph.output]
    picked = {name: names[place_of(_bare(names), key)] for name, key in spec.picks}
    answer = picked.pop("logits", f"{PREFIX}logits")
    answer = answer if answer in names else names[0]
    constants, nodes = _in_front(spec, given.name)
    behind = [helper.make_node("Identity", [answer], [spec.answers.output])]
    behind += [helper.make_node("Identity", [source], [name]) for name, source in picked.items()]
    if "probabilities" in outputs and spec.answers.values == "logits":
        ends = [answer], ["probabilities"]
        labelled = spec.answers.labelled
        behind.append(
            helper.make_node("Sigmoid", *ends)
            if labelled
            else helper.make_node("Softmax", *ends, axis=1)
        )
    body = list(graph.node)
    for field in (graph.node, graph.input, graph.output):
        del field[:]
    graph.node.extend([*nodes, *body, *behind])
    graph.initializer.extend(constants)
    datatype = TensorProto.UINT8 if spec.datatype == "UINT8" else TensorProto.FLOAT
    graph.input.append(helper.make_tensor_value_info(INPUT, datatype, ["batch", *spec.shape]))
    graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
        for name, shape in outputs.items()
    )
    model.ir_version = max(model.ir_version, LEAST_IR)
    debug = model.SerializeToString(deterministic=True)
    strip_metadata(model)
    for function in model.functions:
        function.doc_string = ""
    promise = lint.Promise(None, {INPUT: spec.shape}, outputs)
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


def answer_only(content: bytes, place: int) -> bytes:
    """Return a file that gives one of its outputs, and computes it as before."""
    model = onnx.load_from_string(content)
    kept = model.graph.output[place]
    del model.graph.output[:]
    model.graph.output.append(kept)
    return model.SerializeToString(deterministic=True)


def _bare(names: Sequence[str]) -> list[str]:
    return [name.removeprefix(PREFIX) for name in names]


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
