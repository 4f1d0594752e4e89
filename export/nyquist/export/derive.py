"""A graph in the precision that a spec asks for, with what was found of it.

exported fp32 -> fp16, or int8 by the first recipe that passes -> judgement
"""

from dataclasses import dataclass, replace

from nyquist.export.graph.export import Exported
from nyquist.export.judge import Candidate, Judgement, judge
from nyquist.export.precision.float16 import overflows, to_fp16
from nyquist.export.precision.ladder import choose
from nyquist.models.samples import read_calibration


@dataclass(frozen=True)
class Derived:
    """A graph that is to be published, unless it misses a limit.

    Attributes:
        graph: the ONNX file.
        judgement: what was found of it.
        recipe: what runs in int8; empty for other precisions.
    """

    graph: bytes
    judgement: Judgement
    recipe: str = ""


def derive(subject: Candidate, exported: Exported) -> Derived:
    """Bring an exported graph to the precision of its spec, and judge it.

    Raises:
        PrecisionError: it cannot be had in that precision, or no int8 recipe passes.
    """
    exact, trace = exported.graph, exported.trace
    if subject.spec.precision == "int8":
        return _int8(subject, exported)
    graph = to_fp16(exact) if subject.spec.precision == "fp16" else exact
    judgement = judge(subject, graph, exact, trace)
    if subject.spec.precision == "fp16":
        beyond = tuple(overflows(exact, subject.pictures))
        judgement = replace(judgement, misses=(*judgement.misses, *beyond))
    return Derived(graph, judgement)


def _int8(subject: Candidate, exported: Exported) -> Derived:
    found: dict[bytes, Judgement] = {}

    def misses_of(graph: bytes) -> list[str]:
        found[graph] = judge(subject, graph, exported.graph, exported.trace)
        return list(found[graph].misses)

    calibration = read_calibration(subject.spec).numpy()
    chosen = choose(exported.graph, calibration, misses_of)
    judgement = found[chosen.graph]
    figures = judgement.figures.model_copy(update={"int8_share": chosen.rungs[-1].share})
    return Derived(chosen.graph, replace(judgement, figures=figures), chosen.recipe.name)
