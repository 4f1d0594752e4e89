"""What a model is that has no manifest, as its graph and its config.pbtxt say.

graph -> facts; config.pbtxt, completed from them as Triton completes it -> GraphDescription
"""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol, cast, get_args

from nyquist.server.artifact.graph_facts import GraphFacts, GraphTensor, read_graph_facts
from nyquist.server.artifact.model_config import BACKEND, PLATFORM
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb
from nyquist.server.wire.signature import ANY_SIZE, DYNAMIC, Datatype, Signature, TensorSpec

DEFAULT_MAX_BATCH_SIZE = 4
"""Of a graph with an open batch whose configuration names none; that of Triton."""
UNKNOWN = "unknown"


class Described(Protocol):
    """What a server tells of a version, whether a manifest says it or the graph alone.

    Attributes:
        name: of the model.
        version: of the model.
        input: of the graph.
        outputs: that a request may ask for.
        opset: of the graph.
        precision: of its arithmetic.
        graph_sha256: checksum of the graph, hexadecimal.
        signature: what requests and answers may name.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> int: ...
    @property
    def input(self) -> TensorSpec: ...
    @property
    def outputs(self) -> tuple[TensorSpec, ...]: ...
    @property
    def opset(self) -> int: ...
    @property
    def precision(self) -> str: ...
    @property
    def graph_sha256(self) -> str: ...
    @property
    def signature(self) -> Signature: ...


@dataclass(frozen=True)
class GraphDescription:
    """What a graph says of itself; see `Described`. Nobody has said how its pictures are made."""

    name: str
    version: int
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    opset: int
    graph_sha256: str
    weight_files: tuple[str, ...] = ()
    precision: str = UNKNOWN

    @property
    def signature(self) -> Signature:
        """What requests and answers may name; picture files they may not."""
        return Signature(self.name, str(self.version), self.input, self.outputs, None)


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
    tensors = _needed(facts, config)
    completed = pb.ModelConfig()
    completed.CopyFrom(config)
    completed.name, completed.platform, completed.backend = name, PLATFORM, BACKEND
    if not batch_is_set:
        completed.max_batch_size = _batch_size(tensors, config)
        if completed.max_batch_size and not config.WhichOneof("scheduling_choice"):
            completed.dynamic_batching.SetInParent()
    batched = completed.max_batch_size > 0
    said: dict[str, pb.ModelInput | pb.ModelOutput] = {one.name: one for one in config.input}
    said |= {one.name: one for one in config.output}
    specs = [_spec(tensor, said.get(tensor.name), batched=batched) for tensor in tensors]
    if not config.input:
        _add(completed.input.add(), specs[0], batched=batched)
    if not config.output:
        for spec in specs[1:]:
            _add(completed.output.add(), spec, batched=batched)
    configured: list[pb.ModelInput | pb.ModelOutput] = [*completed.input, *completed.output]
    for one in configured:
        spec = next(spec for spec in specs if spec.name == one.name)
        one.data_type = getattr(pb, f"TYPE_{spec.datatype}")
    outputs, checksum = tuple(specs[1:]), sha256(graph).hexdigest()
    described = GraphDescription(
        name, version, specs[0], outputs, facts.opset, checksum, facts.weight_files
    )
    return described, completed


def _needed(facts: GraphFacts, config: pb.ModelConfig) -> list[GraphTensor]:
    """Return the input and the outputs that are served, those of the configuration in its order."""
    if len(facts.inputs) != 1:
        inputs = ", ".join(repr(tensor.name) for tensor in facts.inputs) or "none"
        raise ArtifactError(f"the graph has the inputs {inputs}; models with one input are served")
    found = {output.name: output for output in facts.outputs}
    said: list[tuple[str, pb.ModelInput | pb.ModelOutput, list[str]]] = [
        *(("input", one, [facts.inputs[0].name]) for one in config.input),
        *(("output", one, list(found)) for one in config.output),
    ]
    for noun, tensor, known in said:
        if tensor.name not in known:
            raise ArtifactError(f"{noun} {tensor.name!r} is configured; the graph has {known}")
        if tensor.HasField("reshape"):
            raise ArtifactError(f"{noun} {tensor.name!r} has a reshape, which is not served")
    names = [one.name for one in config.output] or list(found)
    return [facts.inputs[0], *(found[name] for name in names)]


def _batch_size(tensors: Sequence[GraphTensor], config: pb.ModelConfig) -> int:
    """Return the batch size of a configuration that names none: 0 where no batch can grow."""
    if any(not tensor.shape or tensor.shape[0] != DYNAMIC for tensor in tensors):
        return 0
    ranks = {tensor.name: len(tensor.shape or ()) for tensor in tensors}
    dims = {one.name: one.dims for one in config.input}
    dims |= {one.name: one.dims for one in config.output}
    whole = any(len(sizes) == ranks[name] for name, sizes in dims.items())
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
    dims = list(said.dims) if said else []
    if said and said.data_type not in (pb.TYPE_INVALID, pb.DataType.Value(f"TYPE_{datatype}")):
        raise ArtifactError(
            f"{tensor.name!r} is configured as {pb.DataType.Name(said.data_type)}, "
            f"in the graph it is {datatype}"
        )
    if shape is None and dims:
        shape = (DYNAMIC, *dims) if batched else tuple(dims)
    if not shape:
        raise ArtifactError(
            f"{tensor.name!r} is a scalar, or the graph does not say its shape; "
            "a first axis is needed, and may be named by dims in config.pbtxt"
        )
    if batched and shape[0] != DYNAMIC:
        raise ArtifactError(
            f"{tensor.name!r} has the shape {list(shape)} in the graph, whose first axis is no "
            "open batch; the model serves with max_batch_size: 0"
        )
    shape = _narrowed(tensor.name, shape, [DYNAMIC, *dims] if batched else dims)
    inner = shape[1:]
    return TensorSpec(
        name=tensor.name,
        datatype=cast(Datatype, datatype),
        shape=inner,
        least=tuple(1 if size == DYNAMIC else size for size in inner),
        most=tuple(ANY_SIZE if size == DYNAMIC else size for size in inner),
        batch=shape[0],
    )


def _narrowed(name: str, shape: Sequence[int], dims: Sequence[int]) -> tuple[int, ...]:
    """Return a shape with the sizes that the configuration names for open axes."""
    if dims in ([], [DYNAMIC]):
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
    tensor.dims.extend(spec.shape if batched else (spec.batch, *spec.shape))
