"""Network -> ONNX graph: exported, stripped of all that is not the model, and checked.

torch.onnx.export -> resize without shape arithmetic -> strip -> lint -> bytes
"""

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from nyquist.export.errors import ExportError
from nyquist.export.graph import lint
from nyquist.export.graph.exporter_trace import Trace, trace_of
from nyquist.models.spec import INPUT, Output, Size

OPSET = 18
"""The newest at which Pad, MaxPool, ReduceMean, Conv, Gemm and Reshape match their CUDA kernels."""

MAX_BATCH = 1024
_TORCH = Path(torch.__file__).parent
NOT_THE_NETWORK = (
    *map(str, (_TORCH, _TORCH.with_name("onnxscript"), Path(__file__).parents[1])),
    "<",
)
"""Where files of a traceback begin that are torch's, its exporter's, the build's, or made by torch
as it traces."""
LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one protobuf message beside the graph."""


@dataclass(frozen=True)
class Exported:
    """A graph, and what is needed to find out where it goes wrong.

    Attributes:
        graph: the ONNX file.
        trace: of the network, with the names of modules; None for a file of another exporter.
        debug: the same graph before it was stripped: names of modules, source lines, paths.
        costs: what it does that takes time and is not wrong, a sentence each.
    """

    graph: bytes
    trace: Trace | None
    debug: bytes
    costs: tuple[str, ...] = ()


def export_graph(
    network: nn.Module,
    example: Tensor,
    outputs: Sequence[Output] = ("logits",),
    spans: Mapping[int, Size] | None = None,
) -> Exported:
    """Export a frozen network with a dynamic batch. Same network, same bytes.

    Args:
        network: in evaluation mode; takes a batch, gives each output as (B, n).
        example: two or more inputs; its batch size is not burnt in.
        outputs: names of what it returns.
        spans: other axes that are dynamic, with their least and greatest size.

    Returns:
        The ONNX file: input `image`, outputs as asked, opset 18, weights inside.

    Raises:
        ExportError: the exporter fails, the network pools to a fixed size though its input has
            none, its weights do not fit into one file, or the file breaks a rule of
            export/nyquist/export/graph/lint.py.
    """
    weights = sum(value.nbytes for value in network.state_dict().values())
    if weights > LARGEST:
        raise ExportError(
            f"the weights take {weights / 1e9:.2f} GB, one ONNX file holds {LARGEST / 1e9:.2f}; "
            "weights beside the file are not written, since they are not served"
        )
    pools = lint.fixed_pools(network, example) if spans else []
    if pools:
        raise ExportError("; ".join(pools))
    axes: dict[int, torch.export.Dim] = {0: torch.export.Dim("batch", min=1, max=MAX_BATCH)}
    for axis, (least, most) in (spans or {}).items():
        axes[axis] = torch.export.Dim(f"axis{axis}", min=least, max=most)
    program = _run_exporter(network, example, outputs, axes)
    trace = trace_of(program)
    model = program.model_proto
    debug = model.SerializeToString(deterministic=True)
    resize_by_axes(model)
    strip_metadata(model)
    promise = _promise(network, example, outputs, axes)
    problems = lint.lint(model, promise)
    if problems:
        raise ExportError("; ".join(problems))
    graph = model.SerializeToString(deterministic=True)
    return Exported(graph, trace, debug, tuple(lint.costs(model, promise)))


def add_facts(graph: bytes, facts: Mapping[str, str]) -> bytes:
    """Write facts about the model into the metadata_props of a file."""
    model = onnx.load_from_string(graph)
    onnx.helper.set_model_props(model, dict(sorted(facts.items())))
    return model.SerializeToString(deterministic=True)


def _promise(
    network: nn.Module, example: Tensor, outputs: Sequence[Output], axes: Collection[int]
) -> lint.Promise:
    """Say what the file is to be: what the network takes and gives, batch and axes open."""
    with torch.inference_mode():
        found = network(example)
    tensors = found if isinstance(found, tuple) else (found,)
    picture = tuple(
        None if axis in axes else size for axis, size in enumerate(example.shape) if axis
    )
    shapes = {
        str(name): tuple(tensor.shape[1:]) for name, tensor in zip(outputs, tensors, strict=True)
    }
    return lint.Promise(OPSET, {INPUT: picture}, shapes)


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
    """Return what torch.export objects to in its own words, and the line of the network's code."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    places = [
        f"; at {frame.filename}:{frame.lineno}: {frame.line}"
        for frame in traceback.extract_tb(cause.__traceback__)
        if not frame.filename.startswith(NOT_THE_NETWORK)
    ]
    return (lines or [type(cause).__name__])[0] + (places or [""])[-1]


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


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence what the exporter says of packages that are not used, and graphs that it prints."""
    below = logging.root.manager.disable
    logging.disable(logging.WARNING)
    unread = io.StringIO()
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(unread),
            contextlib.redirect_stderr(unread),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(below)
