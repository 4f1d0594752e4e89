"""Where parity first breaks: the first value of a graph that is not the network's.

network or other graph -> values by name, some at a time <-> graph with every value as an output
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.export.graph_signature import InputKind
from torch.fx import GraphModule, Interpreter, Node

from nyquist.export.graph.exporter_trace import Layers, Trace
from nyquist.export.graph.ways import Way, open_session

AT_ONCE = 16
"""Values held at a time, on each side: of a ResNet-50 at 224, up to 50 MB a picture."""

SILENCE = 1e-6
"""Root mean square below which a value is not measured against itself: it is rounding."""


@dataclass(frozen=True)
class Drift:
    """The first value that is too far from the reference's.

    Attributes:
        value: its name in the graph.
        operator: what computes it.
        layers: paths of the modules that it stands for; a convolution and the normalisation that
            was folded into it are two. Empty where they are not known.
        error: l2 norm of the difference, as a share of the reference's; infinite for a NaN.
        limit: what is allowed.
    """

    value: str
    operator: str
    layers: tuple[str, ...]
    error: float
    limit: float

    def __str__(self) -> str:
        where = " + ".join(self.layers) or "an unknown layer"
        return (
            f"parity first breaks in {where} ({self.operator} {self.value!r}): relative error "
            f"{self.error:.2g}, at most {self.limit:.2g} is allowed"
        )


class Values(Protocol):
    """The values between input and output, for some pictures."""

    @property
    def names(self) -> Sequence[str]:
        """All that can be computed, each behind what it is made of."""
        ...

    def compute(self, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
        """Compute some of them."""
        ...


def locate(reference: Values, graph: "GraphValues", limit: float, layers: Layers) -> Drift | None:
    """Return the first value that both sides have and that differs by more than the limit.

    First in the order of the graph, so that all it is made of is still right. None: no value
    differs; what differs then, if anything, arises where onnxruntime optimises.

    Args:
        reference: the truth; a network, or a graph with the same names of values.
        graph: what is in doubt, with the same pictures.
        limit: of the relative l2 error. Seen of sound graphs: in float32 from 1e-6
            (fashion_polyphase) to 6e-5 (a ResNet-50 of random weights), in int8 0.15
            (fashion_max_pool). 1e-4 and 0.3 leave these alone, and 1e-2 float16.
        layers: of the network that the names come from; {} if nothing is known.

    Raises:
        ValueError: the two sides have no name in common.
    """
    known = set(reference.names)
    common = [name for name in graph.names if name in known]
    if not common:
        raise ValueError("reference and graph have no value in common: not the same network?")
    for at in range(0, len(common), AT_ONCE):
        names = common[at : at + AT_ONCE]
        ours, theirs = reference.compute(names), graph.compute(names)
        for name in names:
            error = relative_error(ours[name], theirs[name])
            if error > limit:
                return Drift(name, graph.operators[name], layers.get(name, ()), error, limit)
    return None


def relative_error(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return the l2 norm of the difference as a share of that of `ours`; inf for NaN or shapes."""
    if ours.shape != theirs.shape:
        return inf
    exact, doubted = ours.astype(np.float64), theirs.astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = float(np.linalg.norm(np.where(exact == doubted, 0.0, exact - doubted)))
    if not np.isfinite(difference):
        return inf
    return difference / max(float(np.linalg.norm(exact)), SILENCE * float(np.sqrt(exact.size)))


class GraphValues:
    """The values of an ONNX file, as onnxruntime computes them without optimising.

    Args:
        graph: the file; with weights outside it cannot be opened.
        pictures: one batch, for its only input.
    """

    def __init__(self, graph: bytes, pictures: NDArray[Any]) -> None:
        model = onnx.load_from_string(graph)
        kept = {output.name for output in model.graph.output}
        made = [(name, node.op_type) for node in model.graph.node for name in node.output if name]
        model.graph.output.extend(
            onnx.ValueInfoProto(name=name) for name, _ in made if name not in kept
        )
        self.operators = dict(made)
        self.names = tuple(self.operators)
        way = Way(optimised=False, threads=1)  # each operator by itself, as the file says
        self._session = open_session(model.SerializeToString(), way)
        self._feed = {self._session.get_inputs()[0].name: pictures}

    def compute(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Compute some values."""
        return dict(zip(names, self._session.run(list(names), self._feed), strict=True))


class NetworkValues:
    """The values of a network, as PyTorch computes them.

    Args:
        trace: of the network.
        pictures: one batch.
    """

    def __init__(self, trace: Trace, pictures: NDArray[Any]) -> None:
        self._program, self._operations = trace.program, trace.operations
        self._pictures = torch.from_numpy(pictures)
        self.names = tuple(trace.layers)

    def compute(self, names: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Compute some values."""
        made_by = {name: self._operations[name] for name in names}
        keeper = _Keeper(self._program.graph_module, made_by.values())
        with torch.inference_mode():
            keeper.run(*self._arguments())
        return {name: keeper.kept[operation].numpy() for name, operation in made_by.items()}

    def _arguments(self) -> Iterator[Tensor]:
        for spec in self._program.graph_signature.input_specs:
            if spec.kind is InputKind.USER_INPUT:
                yield self._pictures
            elif spec.target in self._program.state_dict:
                yield self._program.state_dict[spec.target]
            else:
                yield self._program.constants[spec.target]


class _Keeper(Interpreter):
    """Runs a graph and keeps the values of some nodes."""

    def __init__(self, module: GraphModule, names: Iterable[str]) -> None:
        super().__init__(module)
        self.kept: dict[str, Tensor] = {}
        self._wanted = set(names)

    def run_node(self, n: Node) -> Any:  # noqa: ANN401 # the type of the base class
        value = super().run_node(n)
        if n.name in self._wanted:
            self.kept[n.name] = value
        return value
