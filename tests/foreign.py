"""Models that others could have made: graphs by hand, in folders as Triton's users have them."""

import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.artifacts import copy_model

Tensor = tuple[str, int, Sequence[int | str]]

SHAPE = (3, 8, 8)
CLASSES = 5
WEIGHTS = np.random.default_rng(0).normal(size=(3, CLASSES)).astype(np.float32)
EMBEDDING = np.random.default_rng(1).normal(size=(3, 16)).astype(np.float32)


def make_net(
    batch: int | str = "N", also: Collection[str] = (), opset: int = 13, ir_version: int = 8
) -> onnx.ModelProto:
    """Return a graph x: (batch, 3, 8, 8) -> y: (batch, 5), means by channel times WEIGHTS.

    Args:
        batch: of the input; a name leaves it open.
        also: outputs beside y: `e`, an embedding of 16; `s`, a map of 3 x 8 x 8; `a`, the INT64
            class; `t`, y turned round, (5, batch).
        opset: of the graph.
        ir_version: of the file.
    """
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, CLASSES])]
    weights = [numpy_helper.from_array(WEIGHTS, "w")]
    if "e" in also:
        nodes.append(helper.make_node("MatMul", ["f", "v"], ["e"]))
        weights.append(numpy_helper.from_array(EMBEDDING, "v"))
        outputs.append(helper.make_tensor_value_info("e", TensorProto.FLOAT, [batch, 16]))
    if "s" in also:
        nodes.append(helper.make_node("Relu", ["x"], ["s"]))
        outputs.append(helper.make_tensor_value_info("s", TensorProto.FLOAT, [batch, *SHAPE]))
    if "a" in also:
        nodes.append(helper.make_node("ArgMax", ["y"], ["a"], axis=1, keepdims=0))
        outputs.append(helper.make_tensor_value_info("a", TensorProto.INT64, [batch]))
    if "t" in also:
        nodes.append(helper.make_node("Transpose", ["y"], ["t"]))
        outputs.append(helper.make_tensor_value_info("t", TensorProto.FLOAT, [CLASSES, batch]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, *SHAPE])]
    if ir_version < 4:  # in which weights are inputs with a default
        inputs += [
            helper.make_tensor_value_info(one.name, TensorProto.FLOAT, one.dims) for one in weights
        ]
    graph = helper.make_graph(nodes, "net", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = ir_version
    return model


def make_graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Sequence[TensorProto] = (),
    opset: int = 17,
) -> onnx.ModelProto:
    """Return a graph of these nodes; each tensor is name, type and shape."""
    taken, given = (
        [helper.make_tensor_value_info(*tensor) for tensor in tensors]
        for tensors in (inputs, outputs)
    )
    graph = helper.make_graph(nodes, "net", taken, given, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 8
    return model


def put_model(
    target: Path,
    name: str,
    model: onnx.ModelProto,
    config: str | None = None,
    labels: Sequence[str] = (),
) -> Path:
    """Write a model as Triton's users have it, without a manifest; return its folder."""
    folder = target / name
    (folder / "1").mkdir(parents=True)
    onnx.save(model, folder / "1" / "model.onnx")
    if config is not None:
        (folder / "config.pbtxt").write_text(config)
    if labels:
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels))
    return folder


def put_artifact(
    repository: Path,
    target: Path,
    model: onnx.ModelProto,
    outputs: Sequence[tuple[str, str, Sequence[int]]],
    labels: Sequence[str] = (),
    config: str = "",
) -> Path:
    """Write a model with a manifest that describes it, rightly or not; return its folder.

    Args:
        repository: built models, one of which lends the rest of its manifest.
        target: repository to write into.
        model: the graph.
        outputs: name, datatype and shape of each, as the manifest has them.
        labels: of the classes.
        config: lines of config.pbtxt beside the name, the platform and the batch size, 8.
    """
    folder = copy_model(repository, target, "fashion_strided").rename(target / "net")
    content = model.SerializeToString()
    text = "".join(f"{label}\n" for label in labels).encode()
    (folder / "1" / "model.onnx").write_bytes(content)
    (folder / "1" / "labels.txt").write_bytes(text)
    settings = 'name: "net" platform: "onnxruntime_onnx" max_batch_size: 8 dynamic_batching {}'
    (folder / "config.pbtxt").write_text(f"{settings}\n{config}")
    path = folder / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["name"] = "net"
    manifest["input"] = {"name": "x", "datatype": "FP32", "shape": SHAPE}
    manifest["outputs"] = [
        {"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in outputs
    ]
    manifest["files"]["1/model.onnx"] = hashlib.sha256(content).hexdigest()
    manifest["files"]["1/labels.txt"] = hashlib.sha256(text).hexdigest()
    path.write_text(json.dumps(manifest))
    return folder
