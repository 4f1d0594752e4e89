"""The most of a network that runs in int8 and still passes the gates.

ladder -> fastest expected first -> quantise -> judge -> the first without a miss
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
from numpy.typing import NDArray

from nyquist.export.errors import PrecisionError
from nyquist.export.precision.calibration import calibrate
from nyquist.export.precision.int8 import (
    CALIBRATED,
    Recipe,
    first_convolution,
    multiply_adds,
    products,
    quantise,
    quantised_nodes,
    share_of,
)

LADDER = (
    Recipe("conv, gemm"),
    Recipe("conv, gemm; blur float", float_blur=True),
    Recipe("conv, gemm; first conv float", float_first=True),
    Recipe("conv, gemm; first conv and blur float", float_first=True, float_blur=True),
    Recipe("conv; first conv and blur float", ("Conv",), float_first=True, float_blur=True),
)
"""From the most in int8 to the least."""

THIN = 32
"""A first convolution of fewer products a value is not faster in int8: docs/precision.md."""


@dataclass(frozen=True)
class Rung:
    """One recipe that was tried.

    Attributes:
        recipe: what ran in int8.
        share: of the multiply-adds, 0..1.
        graph: the ONNX file, to measure its speed.
        misses: what the judge found; empty if it passes.
    """

    recipe: Recipe
    share: float
    graph: bytes
    misses: tuple[str, ...]


@dataclass(frozen=True)
class Chosen:
    """What `choose` found.

    Attributes:
        rungs: in the order they were tried; the last one is chosen.
    """

    rungs: tuple[Rung, ...]

    @property
    def graph(self) -> bytes:
        """The ONNX file."""
        return self.rungs[-1].graph

    @property
    def recipe(self) -> Recipe:
        """What runs in int8."""
        return self.rungs[-1].recipe


def choose(
    graph: bytes,
    calibration: NDArray[Any],
    judge: Callable[[bytes], list[str]],
    ladder: Sequence[Recipe] = LADDER,
) -> Chosen:
    """Quantise a graph by the first recipe that passes, tried in the order of `fastest_first`.

    No clock is read, so that the same graph, pictures and judge give the same bytes.

    Args:
        graph: in float32.
        calibration: served inputs, (N, ...), none that the result is judged on.
        judge: says what an int8 graph misses; empty if it passes.
        ladder: the recipes.

    Raises:
        PrecisionError: none passes; the message has the misses of each.
        ValueError: there is no picture.
    """
    model = onnx.load_from_string(graph)
    costs = multiply_adds(model)
    calibrated = calibrate(graph, calibration, CALIBRATED)
    rungs: list[Rung] = []
    for recipe in fastest_first(model, ladder):
        quantised = quantise(graph, recipe, calibrated)
        share = share_of(costs, quantised_nodes(model.graph, recipe))
        rungs.append(Rung(recipe, share, quantised, tuple(judge(quantised))))
        if not rungs[-1].misses:
            return Chosen(tuple(rungs))
    tried = "; ".join(f"{rung.recipe.name}: {', '.join(rung.misses)}" for rung in rungs)
    raise PrecisionError(f"no recipe for int8 passes. {tried or 'None finds a node'}")


def fastest_first(model: onnx.ModelProto, ladder: Sequence[Recipe]) -> list[Recipe]:
    """Order recipes by the multiply-adds that gain by them, without those that change nothing.

    A first convolution of fewer than THIN products a value gains nothing; of two recipes that
    gain as much, the one that quantises less comes first. Of recipes that quantise the same nodes
    the first one stays.
    """
    costs = multiply_adds(model)
    thin = _thin_first(model)
    distinct: dict[frozenset[str], Recipe] = {}
    for recipe in ladder:
        if nodes := quantised_nodes(model.graph, recipe):
            distinct.setdefault(nodes, recipe)

    def rank(nodes: frozenset[str]) -> tuple[float, int]:
        return -share_of(costs, nodes - thin), len(nodes)

    return [distinct[nodes] for nodes in sorted(distinct, key=rank)]


def _thin_first(model: onnx.ModelProto) -> frozenset[str]:
    """Return the name of the first convolution if it is thin, else nothing."""
    first = first_convolution(model.graph)
    if first is None:
        return frozenset()
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    weight = weights.get(first.input[1])
    thin = weight is not None and products(first, weight) < THIN
    return frozenset({first.name} if thin else ())
