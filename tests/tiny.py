"""Models that are small enough to work out by hand, as artifacts."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.artifacts import copy_model

CLASSES = 10
ONNX_TYPES = {"FP32": TensorProto.FLOAT, "FP16": TensorProto.FLOAT16, "UINT8": TensorProto.UINT8}


def mean_graph(datatype: str, shape: Sequence[int | str]) -> bytes:
    """An ONNX graph: every class of a picture gets the mean of all its values."""
    nodes = [
        helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["values"], ["flat"], axis=1),
        helper.make_node("ReduceMean", ["flat", "last"], ["mean"], keepdims=1),
        helper.make_node("MatMul", ["mean", "ones"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", ONNX_TYPES[datatype], ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [
            helper.make_tensor("last", TensorProto.INT64, [1], [1]),
            helper.make_tensor("ones", TensorProto.FLOAT, [1, CLASSES], [1.0] * CLASSES),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def write_mean_model(
    repository: Path,
    target: Path,
    name: str,
    datatype: str,
    layout: str,
    least: Sequence[int],
    most: Sequence[int],
) -> Path:
    """Write an artifact with `mean_graph` and return its folder; axes between bounds are free.

    Args:
        repository: built models, one of which lends everything else.
        target: repository to write into.
        name: of the model.
        datatype: of its input.
        layout: CHW or HWC.
        least: smallest size of each axis of one picture.
        most: greatest.
    """
    folder = copy_model(repository, target, "fashion_strided").rename(target / name)
    shape = [low if low == high else -1 for low, high in zip(least, most, strict=True)]
    graph = mean_graph(
        datatype, [f"axis{at}" if size == -1 else size for at, size in enumerate(shape)]
    )
    (folder / "1" / "model.onnx").write_bytes(graph)
    dims = " ".join(f"dims: {size}" for size in shape)
    (folder / "config.pbtxt").write_text(
        f'name: "{name}" platform: "onnxruntime_onnx" max_batch_size: 8 dynamic_batching {{}}\n'
        f'input {{ name: "image" data_type: TYPE_{datatype} {dims} }}\n'
        f'output {{ name: "logits" data_type: TYPE_FP32 dims: {CLASSES} }}\n'
    )
    path = folder / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["name"] = name
    manifest["input"] = {"name": "image", "datatype": datatype, "shape": shape}
    if list(least) != list(most):
        manifest["input"] |= {"least": list(least), "most": list(most)}
    manifest["preprocessing"]["layout"] = layout
    manifest["picture"] = {"interpolation": "bilinear", "crop_share": 1.0, "fit": "crop"}
    manifest["files"]["1/model.onnx"] = hashlib.sha256(graph).hexdigest()
    path.write_text(json.dumps(manifest))
    return folder
