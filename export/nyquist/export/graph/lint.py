"""What can be said of an ONNX file, or of a network with open sizes, without running onnxruntime.

model, promise -> rules  -> a sentence for each reason not to serve it, with its remedy
               -> costs  -> a sentence for each thing that is right and slow
"""

import re
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

Shape = tuple[int | None, ...]
"""Without the batch in front, which is always open; None is open too."""

DEPENDS_ON_VALUES = ("If", "Loop", "Scan", "NonZero")
SHAPE_ARITHMETIC = ("Shape", "Size", "Range", "ConstantOfShape")
ADAPTIVE_POOLS = (
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_with_indices",
)
STANDARD_DOMAINS = ("", "ai.onnx")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Promise:
    """What a file is meant to be.

    Attributes:
        opset: of the standard operators, and no others; None for a file that is taken as it came.
        inputs: shape of each, by name, in order.
        outputs: shape of each, by name, in order.
    """

    opset: int | None
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]

    @property
    def open_sizes(self) -> bool:
        """Whether anything but the batch is open."""
        return any(None in shape for shape in self.inputs.values())


def lint(model: onnx.ModelProto, promise: Promise, path: Path | None = None) -> list[str]:
    """Return every problem of a file; empty if there is none.

    Args:
        model: what is in it; weights in another file need not be loaded.
        promise: what it is meant to be.
        path: where it lies. None: it may not have weights in another file.
    """
    found = list(external_data_problems(model, None if path is None else path.parent))
    if not found:  # or the checker would open what was refused
        found += _checker(model, path)
    for rule in RULES:
        found += rule(model, promise)
    return found


def costs(model: onnx.ModelProto, promise: Promise) -> list[str]:
    """Return what a file does that takes time and is not wrong: parity is measured, not read off.

    Args:
        model: what is in it.
        promise: what it is meant to be.
    """
    return [sentence for rule in COSTS for sentence in rule(model, promise)]


def fixed_pools(network: nn.Module, example: Tensor) -> list[str]:
    """Return the adaptive pools of a network whose height and width are to stay open.

    A pool to a fixed size other than 1 has a window that depends on the size of its input. The
    exporter burns in the window of the example, if it divides, or else writes indices that hold
    for the example alone; torch's own verification and onnx.checker find neither.

    Args:
        network: in evaluation mode; run once.
        example: a batch.
    """
    watch = _PoolWatch()
    with ExitStack() as hooks, torch.inference_mode(), watch:
        for path, module in network.named_modules():
            hooks.callback(module.register_forward_pre_hook(watch.enter(path)).remove)
            hooks.callback(module.register_forward_hook(watch.leave).remove)
        network(example)
    return [
        f"{path or 'the network itself'} pools to a fixed {size}, which no graph does for every "
        "height and width: pool to 1 (AdaptiveAvgPool2d(1), or x.mean((2, 3))), or export with "
        "fixed height and width"
        for path, size in watch.found
    ]


def external_data_problems(model: onnx.ModelProto, folder: Path | None) -> Iterator[str]:
    """Yield what is wrong with weights that lie in other files.

    Args:
        model: whose tensors are looked at.
        folder: of the model; None: nothing may lie outside of it.
    """
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        if folder is None:
            yield f"{tensor.name!r} lies in another file: save with external_data=False"
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        reason = _unsafe(entries, folder)
        if reason:
            location = entries.get("location", "")
            yield f"{tensor.name!r} lies in {location!r}, which {reason}: save the model again"


class _PoolWatch(TorchFunctionMode):
    """Remembers the modules that call an adaptive pool with a fixed size."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[tuple[str, str], None] = {}
        self._within = [""]

    def enter(self, path: str) -> Callable[[nn.Module, Any], None]:
        return lambda *_: self._within.append(path)

    def leave(self, *_: object) -> None:
        self._within.pop()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 # whatever the function gives
        named = dict(kwargs or {})
        if getattr(func, "__name__", "") in ADAPTIVE_POOLS:
            size = args[1] if len(args) > 1 else named["output_size"]
            sizes = size if isinstance(size, tuple | list) else (size, size)
            if any(each not in (None, 1) for each in sizes):
                self.found[self._within[-1], "x".join(map(str, sizes))] = None
        return func(*args, **named)


def _checker(model: onnx.ModelProto, path: Path | None) -> Iterator[str]:
    try:
        onnx.checker.check_model(model if path is None else path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        yield f"onnx.checker: {str(error).strip()}"


def _opset(model: onnx.ModelProto, promise: Promise) -> Iterator[str]:
    versions = {entry.domain: entry.version for entry in model.opset_import}
    standard = [versions.pop(domain) for domain in STANDARD_DOMAINS if domain in versions]
    if promise.opset is not None and standard != [promise.opset]:
        yield f"opset {standard} instead of {promise.opset}: the exporter changed what it was asked"
    used = {node.domain for node in model.graph.node} - {*STANDARD_DOMAINS}
    for domain in sorted(used | set(versions)) if promise.opset is not None else ():
        operators = sorted({n.op_type for n in model.graph.node if n.domain == domain})
        yield (
            f"operators of the domain {domain!r} ({', '.join(operators) or 'none used'}), which "
            "not every runtime has: export without them, before any optimisation for one runtime"
        )
    for function in model.functions:
        yield f"the function {function.name!r} is not inlined: use onnx.inliner"


def _tensors_promised(model: onnx.ModelProto, promise: Promise) -> Iterator[str]:
    constants = {tensor.name for tensor in model.graph.initializer}
    given = [value for value in model.graph.input if value.name not in constants]
    sides = (("input", given, promise.inputs), ("output", model.graph.output, promise.outputs))
    for side, values, shapes in sides:
        names = [value.name for value in values]
        if names != list(shapes):
            yield f"{side}s {names} instead of {list(shapes)}: pass {side}_names to the exporter"
        for value in values:
            if value.name in shapes:
                yield from _shape(side, value, shapes[value.name])


def _shape(side: str, value: onnx.ValueInfoProto, promised: Shape) -> Iterator[str]:
    dims = value.type.tensor_type.shape.dim
    found = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in dims]
    where = f"{side} {value.name!r}"
    if len(found) != 1 + len(promised):
        yield f"{where} has shape {found}, and {['batch', *promised]} is promised"
        return
    if isinstance(found[0], int):
        yield f"{where} has a fixed batch of {found[0]}: name axis 0 in dynamic_shapes"
    for axis, (size, wanted) in enumerate(zip(found[1:], promised, strict=True), start=1):
        if wanted is None and isinstance(size, int):
            yield f"{where} has {size} burnt into axis {axis}: name that axis in dynamic_shapes"
        elif wanted is not None and isinstance(size, str):
            yield (
                f"{where} has {size or 'anything'!r} on axis {axis}, where {wanted} is promised: "
                "its size changes with the picture's; pool to 1, or export with fixed sizes"
            )
        elif wanted is not None and size != wanted:
            yield f"{where} has {size} on axis {axis}, where {wanted} is promised"


def _operators(model: onnx.ModelProto, promise: Promise) -> Iterator[str]:
    counts = Counter(node.op_type for node in model.graph.node)
    flow = [name for name in DEPENDS_ON_VALUES if counts[name]]
    if flow:
        yield (
            f"{_counted(counts, flow)}: what runs depends on values; on a GPU these run on the "
            "CPU, and CUDA graphs are ruled out"
        )
    constant = {tensor.name for tensor in model.graph.initializer}
    constant |= {name for n in model.graph.node if n.op_type == "Constant" for name in n.output}
    computed = Counter(
        node.op_type
        for node in model.graph.node
        if node.op_type in ("Gather", "GatherND") and node.input[1] not in constant
    )
    shapes = [name for name in SHAPE_ARITHMETIC if counts[name]]
    if (shapes or computed) and not promise.open_sizes:
        share = sum({**counts, **computed}[name] for name in (*shapes, *computed))
        yield (
            f"{_counted({**counts, **computed}, [*shapes, *computed])} of "
            f"{len(model.graph.node)} operators ({share / len(model.graph.node):.0%}) compute "
            "sizes or places anew for each batch, on a GPU on the CPU; .contiguous() behind a "
            "permute, and x.mean((2, 3)) for a global pool do without"
        )
    if counts["BatchNormalization"]:
        yield (
            f"{counts['BatchNormalization']} BatchNormalization stand by themselves, each a pass "
            "over its map: eval() before the export folds them into the convolutions"
        )


def _counted(counts: Mapping[str, int], names: Iterable[str]) -> str:
    return ", ".join(f"{counts[name]} {name}" for name in names)


def _unused(model: onnx.ModelProto, _: Promise) -> Iterator[str]:
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    needed: set[str] = set()
    pending = [output.name for output in graph.output]
    while pending:
        name = pending.pop()
        if name not in needed:
            needed.add(name)
            pending += makers[name].input if name in makers else ()
    for node in graph.node:
        if not needed.intersection(node.output):
            yield f"{node.op_type} {node.output[0]!r} reaches no output: optimise the export"
    for tensor in graph.initializer:
        if tensor.name not in needed:
            yield f"the weight {tensor.name!r} is not used: optimise the export"


def _metadata(model: onnx.ModelProto, _: Promise) -> Iterator[str]:
    graph = model.graph
    parts: list[Any] = [graph, *graph.node, *graph.input, *graph.output, *graph.value_info]
    parts += [*graph.initializer, *model.functions]
    named = [part.name for part in parts if part.doc_string or part.metadata_props]
    if model.doc_string:
        named.insert(0, "the model")
    if named:
        yield (
            f"{named[0]!r} and {len(named) - 1} more carry notes of the exporter, which hold paths "
            "of the build and change the file: nyquist.export.graph.export.strip_metadata "
            "removes them"
        )


RULES: tuple[Callable[[onnx.ModelProto, Promise], Iterator[str]], ...] = (
    _opset,
    _tensors_promised,
    _metadata,
)

COSTS: tuple[Callable[[onnx.ModelProto, Promise], Iterator[str]], ...] = (_operators, _unused)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    nodes = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    yield from _tensors_of_graph(model.graph)
    for node in nodes:
        yield from _tensors_of_node(node)


def _tensors_of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)


def _tensors_of_node(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors_of_graph(graph)
            for inner in graph.node:
                yield from _tensors_of_node(inner)


def _unsafe(entries: Mapping[str, str], folder: Path) -> str | None:
    """Return why an external file may not be read, or None.

    A name with a path leads out of the folder, and so do both kinds of link; a hard link is what
    onnxruntime opens without a word.
    """
    location = entries.get("location", "")
    if not _FILE_NAME.fullmatch(location):
        return "is no plain file name"
    try:
        found = (folder / location).lstat()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if stat.S_ISLNK(found.st_mode):
        return "is a symbolic link"
    if not stat.S_ISREG(found.st_mode):
        return "is no regular file"
    if found.st_nlink != 1:
        return f"has {found.st_nlink} names (a hard link)"
    return _out_of_range(entries, found.st_size)


def _out_of_range(entries: Mapping[str, str], size: int) -> str | None:
    try:
        offset, length = (int(entries.get(key, "0")) for key in ("offset", "length"))
    except ValueError:
        return "has an offset or a length that is no number"
    if offset < 0 or length < 0 or offset + length > size:
        return f"has {size} bytes, and {length} from {offset} on are asked for"
    return None
