"""Networks and small graphs that the tests of the gates export, break and compare."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.onnx import ONNXProgram

from nyquist.companion.references.network import Reference
from nyquist.export.graph.export import OPSET, strip_metadata
from nyquist.export.graph.exporter_trace import Trace, trace_of
from nyquist.models.loading import load_network
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.samples import fashion_samples
from nyquist.models.zoo import specs


@dataclass(frozen=True)
class Exported:
    """A network, its graph, and pictures for both."""

    network: nn.Module
    trace: Trace
    graph: bytes
    pictures: NDArray[Any]

    @property
    def reference(self) -> Reference:
        return Reference(self.network)


def fashion_network(name: str) -> nn.Module:
    spec = specs()[name]
    return PreprocessedNetwork(load_network(spec), spec.preprocessing).eval()


def fashion_pictures() -> NDArray[np.float32]:
    return fashion_samples().images.numpy()


def export(network: nn.Module, example: Tensor, *, open_sizes: bool = False) -> ONNXProgram:
    axes = {0: torch.export.Dim("batch", min=1, max=64)}
    if open_sizes:
        axes |= {n: torch.export.Dim(name, min=16) for n, name in ((2, "height"), (3, "width"))}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=(axes,),
            verbose=False,
        )
    assert program is not None
    return program


def exported(network: nn.Module, pictures: NDArray[Any], *, open_sizes: bool = False) -> Exported:
    program = export(network.eval(), torch.from_numpy(pictures[:2]), open_sizes=open_sizes)
    model = program.model_proto
    strip_metadata(model)
    return Exported(network, trace_of(program), model.SerializeToString(), pictures)


def rewritten(graph: bytes, weight: str, change: Any) -> bytes:
    """Return the graph with one weight changed."""
    model = onnx.load_from_string(graph)
    (tensor,) = (each for each in model.graph.initializer if each.name == weight)
    values = np.ascontiguousarray(change(numpy_helper.to_array(tensor)))
    tensor.CopyFrom(numpy_helper.from_array(values, weight))
    return model.SerializeToString()


def small_graph(
    *nodes: onnx.NodeProto,
    constants: dict[str, Any] | None = None,
    outputs: tuple[str, ...] = ("logits",),
) -> onnx.ModelProto:
    """Return a graph of float pictures (batch, 1, 2, 2); every output is (batch, 4)."""
    pictures = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 2, 2])
    given = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in outputs
    ]
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()]
    graph = helper.make_graph(list(nodes), "small", [pictures], given, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
