"""A graph in the precision that a spec asks for, with what was found of it.

exported fp32 -> fp16, or int8 by the first recipe that passes -> stabilised -> judgement
"""

from dataclasses import dataclass, replace

from nyquist.export.graph.export import Exported
from nyquist.export.graph.exporter_trace import Trace
from nyquist.export.graph.stabilise import stabilise
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
        plain: the same without stabilisation.
        recipe: what runs in int8; empty for other precisions.
    """

    graph: bytes
    judgement: Judgement
    plain: bytes
    recipe: str = ""


def derive(subject: Candidate, exported: Exported) -> Derived:
    """Bring an exported graph to the precision of its spec, and judge it.

    Raises:
        PrecisionError: it cannot be had in that precision, or no int8 recipe passes.
    """
    exact, spec = exported.graph, subject.spec
    if spec.precision == "int8":
        return _int8(subject, exported)
    plain = to_fp16(exact) if spec.precision == "fp16" else exact
    graph = stabilise(plain, spec)
    judgement = judge(subject, graph, stabilise(exact, spec), _trace(subject, exported))
    if spec.precision == "fp16":
        beyond = tuple(overflows(exact, subject.plain.pictures))
        judgement = replace(judgement, misses=(*judgement.misses, *beyond))
    return Derived(graph, judgement, plain)


def _int8(subject: Candidate, exported: Exported) -> Derived:
    found: dict[bytes, Judgement] = {}

    def misses_of(graph: bytes) -> list[str]:
        found[graph] = judge(
            subject,
            stabilise(graph, subject.spec),
            stabilise(exported.graph, subject.spec),
            _trace(subject, exported),
        )
        return list(found[graph].misses)

    calibration = read_calibration(subject.spec.plain).numpy()
    chosen = choose(exported.graph, calibration, misses_of)
    judgement = found[chosen.graph]
    figures = judgement.figures.model_copy(update={"int8_share": chosen.rungs[-1].share})
    graph = stabilise(chosen.graph, subject.spec)
    judgement = replace(judgement, figures=figures)
    return Derived(graph, judgement, chosen.graph, chosen.recipe.name)


def _trace(subject: Candidate, exported: Exported) -> Trace | None:
    """Return the trace of a network that takes served pictures: none of a stabilised one."""
    return exported.trace if subject.spec.stabilisation is None else None
