"""What a model is that has no manifest, as its graph and its config.pbtxt say.

graph -> facts; config.pbtxt, completed from them as Triton completes it -> GraphDescription
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Protocol, cast, get_args

from nyquist.server.artifact.graph_facts import GraphFacts, GraphTensor, read_graph_facts
from nyquist.server.artifact.model_config import BACKEND, PLATFORM
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.head import CLASSES, Head
from nyquist.server.wire.pb import model_config_pb2 as pb
from nyquist.server.wire.signature import ANY_SIZE, DYNAMIC, Datatype, Signature, TensorSpec

DEFAULT_MAX_BATCH_SIZE = 4
"""Of a graph with an open batch whose configuration names none; that of Triton."""
UNKNOWN = "unknown"
INVALID = "TYPE_INVALID"
"""Of a tensor whose configuration names no datatype."""


class Described(Protocol):
    """What a server tells of a version, whether a manifest says it or the graph alone.

    Attributes:
        name: of the model.
        version: of the model.
        inputs: of the graph, all of which a request brings.
        outputs: that a request may ask for.
        opset: of the graph.
        precision: of its arithmetic.
        head: how the first output is read.
        graph_sha256: checksum of the graph, hexadecimal.
        signature: what requests and answers may name.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def inputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def opset(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def head(self) -> Head: ...
    @property
    def graph_sha256(self) -> str: ...
    @property
    def signature(self) -> Signature: ...


@dataclass(frozen=True)
class GraphDescription:
    """What a graph says of itself; see `Described`. Nobody has said how its pictures are made."""

    name: str
    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    graph_sha256: str
    batched: bool = True
    weight_files: tuple[str, ...] = ()
    precision: str = UNKNOWN
    head: Head = CLASSES

    @property
    def signature(self) -> Signature:
        """What requests and answers may name; picture files they may not."""
        version = str(self.version)
        return Signature(self.name, version, self.inputs, self.outputs, None, self.batched)


def describe_graph(
    name: str, version: int, graph: bytes, config: pb.ModelConfig, *, batch_is_set: bool
) -> tuple[GraphDescription, pb.ModelConfig]:
    """Describe a graph, and complete its configuration.

    Args:
        name: of the model's folder.
        version: that of the graph.
        graph: the bytes of its file.
        config: what config.pbtxt says; empty where there is none.
        batch_is_set: whether it says a max_batch_size, were it 0.

    Raises:
        ArtifactError: the file is no ONNX file, contradicts the configuration, or is not served.
    """
    facts = read_graph_facts(graph)
    inputs, outputs = _needed(facts, config)
    completed = pb.ModelConfig()
    completed.CopyFrom(config)
    completed.name, completed.platform, completed.backend = name, PLATFORM, BACKEND
    if not batch_is_set:
        completed.max_batch_size = _batch_size([*inputs, *outputs], config)
        if completed.max_batch_size and not config.WhichOneof("scheduling_choice"):
            completed.dynamic_batching.SetInParent()
    batched = completed.max_batch_size > 0
    said: dict[str, pb.ModelInput | pb.ModelOutput] = {one.name: one for one in config.input}
    said |= {one.name: one for one in config.output}
    taken, given = (
        tuple(_spec(tensor, said.get(tensor.name), batched=batched) for tensor in tensors)
        for tensors in (inputs, outputs)
    )
    named = {one.name for one in config.input}
    for spec in taken:
        if spec.name not in named:
            _add(completed.input.add(), spec, batched=batched)
    for spec in () if config.output else given:
        _add(completed.output.add(), spec, batched=batched)
    configured: list[pb.ModelInput | pb.ModelOutput] = [*completed.input, *completed.output]
    datatypes = {spec.name: spec.datatype for spec in (*taken, *given)}
    for one in configured:
        one.data_type = getattr(pb, _type_name(datatypes[one.name]))
    described = GraphDescription(
        name=name,
        version=version,
        inputs=taken,
        outputs=given,
        opset=facts.opset,
        graph_sha256=sha256(graph).hexdigest(),
        batched=batched,
        weight_files=facts.weight_files,
    )
    return described, completed


def _type_name(datatype: str) -> str:
    """Return the name that a configuration has for a datatype of the protocol."""
    return "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"


def _needed(
    facts: GraphFacts, config: pb.ModelConfig
) -> tuple[list[GraphTensor], list[GraphTensor]]:
    """Return inputs and outputs that are served, outputs of the configuration in its order."""
    if not facts.inputs:
        raise ArtifactError("the graph has no input; models with one or more are served")
    found = {output.name: output for output in facts.outputs}
    said: list[tuple[str, pb.ModelInput | pb.ModelOutput, list[str]]] = [
        *(("input", one, [tensor.name for tensor in facts.inputs]) for one in config.input),
        *(("output", one, list(found)) for one in config.output),
    ]
    for noun, tensor, known in said:
        if tensor.name not in known:
            raise ArtifactError(f"{noun} {tensor.name!r} is configured; the graph has {known}")
    names = [one.name for one in config.output] or list(found)
    return list(facts.inputs), [found[name] for name in names]


def _batch_size(tensors: Sequence[GraphTensor], config: pb.ModelConfig) -> int:
    """Return the batch size of a configuration that names none: 0 where no batch can grow."""
    if any(not tensor.shape or tensor.shape[0] != DYNAMIC for tensor in tensors):
        return 0
    ranks = {tensor.name: len(tensor.shape or ()) for tensor in tensors}
    told: list[pb.ModelInput | pb.ModelOutput] = [*config.input, *config.output]
    dims = {one.name: _sizes(one) for one in told}
    whole = any(len(sizes) == ranks.get(name) for name, sizes in dims.items())
    return 0 if whole else DEFAULT_MAX_BATCH_SIZE


def _spec(
    tensor: GraphTensor, said: pb.ModelInput | pb.ModelOutput | None, *, batched: bool
) -> TensorSpec:
    """Describe a tensor by the graph, and by the configuration where that is narrower.

    Raises:
        ArtifactError: it is not served, or the two contradict each other.
    """
    datatype, shape = tensor.datatype, tensor.shape
    if datatype not in get_args(Datatype):
        raise ArtifactError(
            f"{tensor.name!r} is {datatype or 'no dense tensor'}, which is not served; "
            f"choices are {', '.join(get_args(Datatype))}"
        )
    said_type = pb.DataType.Name(said.data_type) if said else INVALID
    if said_type not in (INVALID, _type_name(datatype)):
        raise ArtifactError(
            f"{tensor.name!r} is configured as {said_type}, in the graph it is {datatype}"
        )
    front = [DYNAMIC] if batched else []
    dims = _sizes(said) if said else []
    if shape is None and dims:
        shape = (*front, *dims)
    if shape is None:
        raise ArtifactError(
            f"the graph does not say the shape of {tensor.name!r}; dims in config.pbtxt may"
        )
    if batched and shape[:1] != (DYNAMIC,):
        raise ArtifactError(
            f"{tensor.name!r} has the shape {list(shape)} in the graph, whose first axis is no "
            "open batch; the model serves with max_batch_size: 0"
        )
    reshaped = said is not None and said.HasField("reshape")
    shape = _narrowed(tensor.name, shape, [*front, *dims], said=bool(dims) or reshaped)
    outside = (*front, *said.dims) if said and reshaped else shape
    if _elements(outside) != _elements(shape):
        raise ArtifactError(
            f"{tensor.name!r} is configured as {list(outside)} with a reshape to {list(shape)}, "
            "which has not as many elements, or not as many open axes"
        )
    inner = outside[1:]
    return TensorSpec(
        name=tensor.name,
        datatype=cast(Datatype, datatype),
        shape=inner,
        least=tuple(1 if size == DYNAMIC else size for size in inner),
        most=tuple(ANY_SIZE if size == DYNAMIC else size for size in inner),
        batch=outside[0] if outside else None,
        inside=shape if reshaped else None,
    )


def _sizes(said: pb.ModelInput | pb.ModelOutput) -> list[int]:
    """Return what a configuration says of a tensor's shape in the graph."""
    return list(said.reshape.shape if said.HasField("reshape") else said.dims)


def _elements(shape: Sequence[int]) -> tuple[int, int]:
    """Return the elements of a shape, of one that has open axes those between them."""
    return prod(size for size in shape if size != DYNAMIC), list(shape).count(DYNAMIC)


def _narrowed(
    name: str, shape: Sequence[int], dims: Sequence[int], *, said: bool
) -> tuple[int, ...]:
    """Return a shape with the sizes that the configuration names for open axes."""
    if not said:
        return tuple(shape)
    pairs = list(zip(shape, dims, strict=False))
    if len(shape) != len(dims) or any(
        DYNAMIC not in (found, said) and found != said for found, said in pairs
    ):
        raise ArtifactError(
            f"{name!r} is configured as {list(dims)}, in the graph it is {list(shape)}"
        )
    return tuple(said if found == DYNAMIC else found for found, said in pairs)


def _add(tensor: pb.ModelInput | pb.ModelOutput, spec: TensorSpec, *, batched: bool) -> None:
    tensor.name = spec.name
    tensor.dims.extend(spec.shape if batched else spec.whole)
