"""Network -> ONNX graph: exported, checked, and stripped of all that is not the model.

torch.onnx.export -> opset and names as asked -> strip -> onnx.checker -> bytes
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import onnx
import torch
from torch import Tensor, nn

OPSET = 18
"""The newest at which Pad, MaxPool, ReduceMean, Conv, Gemm and Reshape match their CUDA kernels."""

INPUT, OUTPUT = "image", "logits"
MAX_BATCH = 1024


class ExportError(Exception):
    """The exporter returned something other than it was asked for."""


def export_graph(network: nn.Module, example: Tensor) -> bytes:
    """Export a frozen network with a dynamic batch. Same network, same bytes.

    Args:
        network: in evaluation mode; takes a batch, gives logits (B, C).
        example: two or more inputs; its batch size is not burnt in.

    Returns:
        The ONNX file: input `image`, output `logits`, opset 18, weights inside.

    Raises:
        ExportError: opset, names or shapes are not those asked for, or the checker objects.
    """
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with _quiet_exporter():
        program = torch.onnx.export(
            network,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: batch},),
            verbose=False,
        )
    if program is None:
        raise ExportError("the exporter returned nothing")
    model = program.model_proto
    strip_metadata(model)
    check_graph(model, example)
    return model.SerializeToString(deterministic=True)


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove names of source files and the like: they carry build paths and change the bytes."""
    graph = model.graph
    parts: list[Any] = [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]  # shapes that onnxruntime infers again


def check_graph(model: onnx.ModelProto, example: Tensor) -> None:
    """Raise ExportError unless the graph is valid and has the tensors that were asked for."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("") != OPSET:
        raise ExportError(f"asked for opset {OPSET}, got {opsets}")
    found = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    if list(found) != [INPUT, OUTPUT]:
        raise ExportError(f"asked for tensors {[INPUT, OUTPUT]}, got {list(found)}")
    if found[INPUT] != [0, *example.shape[1:]] or found[OUTPUT][0] != 0:
        raise ExportError(f"asked for a dynamic batch and fixed pictures, got {found}")
    try:
        onnx.checker.check_model(model, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"onnx.checker: {error}") from error


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says of packages that are not used here (torchvision, pytree)."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
