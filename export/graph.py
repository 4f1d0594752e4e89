"""Network -> ONNX graph: exported, checked, and stripped of all that is not the model.

torch.onnx.export -> resize without shape arithmetic -> strip -> check -> facts -> bytes
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export.outcome import ExportError
from models.spec import INPUT, Output, Size

OPSET = 18
"""The newest at which Pad, MaxPool, ReduceMean, Conv, Gemm and Reshape match their CUDA kernels."""

MAX_BATCH = 1024


@dataclass(frozen=True)
class Exported:
    """A graph, and what is needed to find out where it goes wrong.

    Attributes:
        graph: the ONNX file.
        program: what torch.onnx.export returned, with the names of modules on its nodes.
        debug: the same graph before it was stripped: names of modules, source lines, paths.
    """

    graph: bytes
    program: torch.onnx.ONNXProgram
    debug: bytes


def export_graph(
    network: nn.Module,
    example: Tensor,
    outputs: Sequence[Output] = ("logits",),
    spans: Mapping[int, Size] | None = None,
    facts: Mapping[str, str] | None = None,
) -> Exported:
    """Export a frozen network with a dynamic batch. Same network, same bytes.

    Args:
        network: in evaluation mode; takes a batch, gives each output as (B, n).
        example: two or more inputs; its batch size is not burnt in.
        outputs: names of what it returns.
        spans: other axes that are dynamic, with their least and greatest size.
        facts: of the model, for the file's metadata_props.

    Returns:
        The ONNX file: input `image`, outputs as asked, opset 18, weights inside.

    Raises:
        ExportError: the exporter fails; opset, names or shapes are not those asked for; or the
            checker objects.
    """
    axes: dict[int, torch.export.Dim] = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
    for axis, (least, most) in (spans or {}).items():
        axes[axis] = torch.export.Dim(f"axis{axis}", min=least, max=most)
    program = _run_exporter(network, example, outputs, axes)
    model = program.model_proto
    debug = model.SerializeToString(deterministic=True)
    resize_by_axes(model)
    strip_metadata(model)
    check_graph(model, example, outputs, tuple(axes))
    for key, value in sorted((facts or {}).items()):
        model.metadata_props.add(key=key, value=value)
    return Exported(model.SerializeToString(deterministic=True), program, debug)


def _run_exporter(
    network: nn.Module,
    example: Tensor,
    outputs: Sequence[Output],
    axes: Mapping[int, torch.export.Dim],
) -> torch.onnx.ONNXProgram:
    try:
        with _quiet_exporter():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(outputs),
                dynamic_shapes=(axes,),
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"torch.onnx.export: {_reason(error)}") from error
    if program is None:
        raise ExportError("the exporter returned nothing")
    return program


def _reason(error: BaseException) -> str:
    """Return what the exporter objects to, without its report and stack."""
    cause = error.__cause__ or error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return " ".join(lines[:6]) if lines else type(cause).__name__


def resize_by_axes(model: onnx.ModelProto) -> None:
    """Let each Resize of a map name its two axes, instead of computing all four sizes.

    The exporter reads batch and channels from the map's Shape and appends height and width.
    """
    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if node.op_type == "Resize"]:
        concat = made_by.get(node.input[3]) if len(node.input) > 3 else None
        if concat is None or concat.op_type != "Concat" or concat.input[-1] not in constants:
            continue
        sizes = numpy_helper.to_array(constants[concat.input[-1]])
        if len(sizes) != 2:
            continue
        node.input[3] = concat.input[-1]
        node.attribute.append(onnx.helper.make_attribute("axes", [2, 3]))
        for unused in (concat, made_by[concat.input[0]]):
            if not any(unused.output[0] in other.input for other in graph.node):
                graph.node.remove(unused)


def strip_metadata(model: onnx.ModelProto) -> None:
    """Remove names of source files and the like: they carry build paths and change the bytes."""
    graph = model.graph
    parts: list[Any] = [model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer]
    for part in parts:
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]  # shapes that onnxruntime infers again


def check_graph(
    model: onnx.ModelProto,
    example: Tensor,
    outputs: Sequence[Output] = ("logits",),
    dynamic: Sequence[int] = (0,),
) -> None:
    """Raise ExportError unless the graph is valid and has the tensors that were asked for."""
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    if opsets.get("") != OPSET:
        raise ExportError(f"asked for opset {OPSET}, got {opsets}")
    found = {
        value.name: [dimension.dim_value for dimension in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    if list(found) != [INPUT, *outputs]:
        raise ExportError(f"asked for tensors {[INPUT, *outputs]}, got {list(found)}")
    expected = [0 if axis in dynamic else size for axis, size in enumerate(example.shape)]
    if found[INPUT] != expected or any(found[name][0] != 0 for name in outputs):
        raise ExportError(
            f"asked for a picture {expected} with a dynamic batch (0 is dynamic), got {found}"
        )
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
