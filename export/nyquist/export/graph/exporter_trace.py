"""The network as the exporter saw it, so that a value of the graph can be named by its layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Node
from torch.onnx import ONNXProgram

Layers = Mapping[str, tuple[str, ...]]
"""Name of a value -> paths of the modules that make it, such as ("stages.1.0", "stages.1.1")."""


@dataclass(frozen=True)
class Trace:
    """The network as the exporter saw it: the reference of every graph made from it.

    Attributes:
        program: its operations.
        operations: name of the operation that makes each value; another only for outputs.
        layers: of each value.
    """

    program: ExportedProgram
    operations: Mapping[str, str]
    layers: Layers


def trace_of(exported: ONNXProgram) -> Trace:
    """Return what `torch.onnx.export(dynamo=True)` knows of the network.

    Raises:
        ValueError: the graph was not made from an exported program.
    """
    program = exported.exported_program
    if program is None:
        raise ValueError("the graph was not made from an exported program")
    graph_names = {value.name or "" for node in exported.model.graph for value in node.outputs}
    nodes = {
        node.name: node
        for node in program.graph.nodes
        if node.name in graph_names and _is_tensor(node)
    }
    outputs = program.graph.output_node().args[0]
    names = [value.name or "" for value in exported.model.graph.outputs]
    nodes |= dict(zip(names, outputs, strict=True))
    return Trace(
        program=program,
        operations={name: node.name for name, node in nodes.items()},
        layers={name: tuple(dict.fromkeys(_paths(n, graph_names))) for name, n in nodes.items()},
    )


def _is_tensor(node: Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def _paths(node: Node, graph_names: set[str]) -> Iterator[str]:
    """Yield the modules of a node, and of those before it that the graph has no value for."""
    for source in node.all_input_nodes:
        merged = source.op == "call_function" and source.name not in graph_names
        if merged:
            yield from _paths(source, graph_names)
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if stack and (_is_tensor(node) or isinstance(node.meta.get("val"), tuple | list)):
        yield stack[-1] or "the network itself"
