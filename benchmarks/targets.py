"""The targets, each computed from the results of one run.

results -> ratios of each round -> median, spread, met or missed

Both sides of a ratio come from the same round, so that what disturbs the machine disturbs both.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.plan import EFFICIENTNET, FASHION, FRACTIONS, RESNET
from benchmarks.results import Fact, Results, Spread, read

HEAVY = (EFFICIENTNET, *RESNET)
PEERS = ("mlserver", "kserve", "pytriton")
BY_ROUND = Mapping[int, float]
Cases = Iterator[tuple[str, BY_ROUND]]
"""What a target says something about, and its value in each round."""

ONE: dict[str, Fact] = {"load": "closed", "payload": "tensor", "batch": 1}


@dataclass(frozen=True)
class Target:
    """One line of the table of targets.

    Attributes:
        text: what is compared with what.
        sense: which side of the limit is right.
        limit: ratio, or microseconds where the text says so.
        cases: computes it from the results of a run.
    """

    text: str
    sense: Literal["at least", "at most"]
    limit: float
    cases: Callable[[Results], Cases]

    def met(self, value: float) -> bool:
        """Say whether a value keeps to the limit."""
        return value >= self.limit if self.sense == "at least" else value <= self.limit


@dataclass(frozen=True)
class Verdict:
    """A target's value for one case: a model, or a model at a concurrency.

    Attributes:
        target: what was asked for.
        case: of what; empty where nothing was measured.
        value: over the rounds; None where nothing was measured.
    """

    target: Target
    case: str
    value: Spread | None

    @property
    def word(self) -> str:
        """Return met, missed or not measured."""
        if self.value is None:
            return "not measured"
        return "met" if self.target.met(self.value.median) else "missed"


def verdicts(results: Results) -> list[Verdict]:
    """Return every target for everything it is about."""
    found = []
    for target in TARGETS:
        cases = [(case, values) for case, values in target.cases(results) if values]
        found += [Verdict(target, case, Spread.over([*values.values()])) for case, values in cases]
        if not cases:
            found.append(Verdict(target, "", None))
    return found


def best_bare(
    results: Results, model: str, figure: str, choose: Callable[..., float], batch: int = 0
) -> BY_ROUND:
    """Return bare onnxruntime at the setting whose median is best.

    Args:
        results: of a run.
        model: its name.
        figure: images_s, cpu_us or p50_us.
        choose: max or min: which median is best.
        batch: that counts; 0: whichever is best.
    """
    of: dict[str, Fact] = {"experiment": "bare", "model": model} | (
        {"batch": batch} if batch else {}
    )
    settings = {(row.of["setting"], row.of["batch"]) for row in results.select(**of)}
    each = [
        results.by_round(figure, **{**of, "setting": setting, "batch": size})
        for setting, size in sorted(settings)
    ]
    if not each:
        return {}
    medians = [Spread.over([*values.values()]).median for values in each]
    return each[medians.index(choose(medians))]


def served(results: Results, model: str, figure: str, **of: Fact) -> BY_ROUND:
    """Return a figure of a server, Nyquist if `of` names no other, by round."""
    known: dict[str, Fact] = {"experiment": "servers", "server": "nyquist", "model": model}
    return results.by_round(figure, **{**known, **of})


def combine(function: Callable[..., float], *sides: BY_ROUND) -> BY_ROUND:
    """Compute a value in each round that all sides have."""
    rounds = set(sides[0]).intersection(*sides[1:])
    return {number: function(*(side[number] for side in sides)) for number in sorted(rounds)}


def ratio(top: BY_ROUND, bottom: BY_ROUND) -> BY_ROUND:
    """Divide round by round."""
    return combine(lambda a, b: a / b, top, bottom)


def _throughput_of_limit(results: Results) -> Cases:
    for model in HEAVY:
        limit = best_bare(results, model, "images_s", max)
        yield model, ratio(served(results, model, "images_s", **ONE, concurrency=16), limit)


def _cpu_of_limit(results: Results) -> Cases:
    for model in HEAVY:
        limit = best_bare(results, model, "cpu_us", min)
        yield model, ratio(served(results, model, "cpu_us", **ONE, concurrency=16), limit)


def _cpu_of_limit_and_transport(results: Results) -> Cases:
    for model in FASHION:
        limit = best_bare(results, model, "cpu_us", min)
        for concurrency in (1, 16, 64):
            load = {**ONE, "concurrency": concurrency}
            echo = served(results, model, "cpu_us", **load, server="echo")
            both = combine(lambda a, b: a + b, limit, echo)
            own = served(results, model, "cpu_us", **load)
            yield f"{model}, {concurrency}", ratio(own, both)


def _latency_beyond(results: Results) -> Cases:
    for model in _models(results):
        limit = best_bare(results, model, "p50_us", min, batch=1)
        load = {**ONE, "concurrency": 1}
        echo = served(results, model, "p50_us", **load, server="echo")
        own = served(results, model, "p50_us", **load)
        yield model, combine(lambda p50, bare, wire: p50 - bare - wire, own, limit, echo)


def _against_peers(models: tuple[str, ...]) -> Callable[[Results], Cases]:
    def cases(results: Results) -> Cases:
        for model in models:
            for peer in PEERS:
                load = {**ONE, "concurrency": 16}
                own = served(results, model, "images_s", **load)
                theirs = served(results, model, "images_s", **load, server=peer)
                yield f"{model}, {peer}", ratio(own, theirs)

    return cases


def _tail(results: Results) -> Cases:
    for model in _models(results):
        of: dict[str, Fact] = {"load": "open", "fraction": FRACTIONS[2]}
        p99, p50 = (served(results, model, figure, **of) for figure in ("p99_us", "p50_us"))
        yield model, ratio(p99, p50)


def _jpeg(results: Results) -> Cases:
    for model in _models(results):
        alone = results.by_round("cpu_us", experiment="bare jpeg", model=model)
        own = served(results, model, "cpu_us", payload="jpeg", batch=1)
        yield model, ratio(own, alone)


def _loaded(results: Results) -> Cases:
    of: dict[str, Fact] = {"experiment": "models loaded", "concurrency": 1}
    many, one = (results.by_round("p50_us", **of, value=value) for value in (100, 1))
    yield "p50, one call at a time", ratio(many, one)


OBSERVABILITY = Path(__file__).parent.parent / "benchmark_results" / "observability_cpu.json"
"""What `python -m benchmarks.observability_cpu` writes: rows with server off and on."""


def _observability(_: Results) -> Cases:
    if not OBSERVABILITY.is_file():
        return
    found = read(OBSERVABILITY)
    for model in found.values("model"):
        off, on = (found.by_round("cpu_us", model=model, server=name) for name in ("off", "on"))
        yield str(model), ratio(on, off)


def _models(results: Results) -> list[str]:
    return results.values("model", experiment="servers")


TARGETS = (
    Target(
        "16 in flight: images/s / bare onnxruntime", "at least", 0.97,
        _throughput_of_limit,
    ),
    Target(
        "16 in flight: CPU an image / bare onnxruntime", "at most", 1.03,
        _cpu_of_limit,
    ),
    Target(
        "1, 16, 64 in flight: CPU an image / (bare + echo)", "at most", 1.15,
        _cpu_of_limit_and_transport,
    ),
    Target(
        "1 in flight: p50 - bare p50 - echo p50, us", "at most", 150.0,
        _latency_beyond,
    ),
    Target(
        "16 in flight: images/s / a peer's, fashion", "at least", 2.5,
        _against_peers(FASHION),
    ),
    Target(
        "16 in flight: images/s / a peer's, others", "at least", 1.0,
        _against_peers(HEAVY),
    ),
    Target("Poisson at 80 % of the limit: p99 / p50", "at most", 4.0, _tail),
    Target(
        "JPEG: CPU an image / the same in process", "at most", 1.1, _jpeg
    ),
    Target("CPU with metrics, logs, tracing / without", "at most", 1.03, _observability),
    Target("100 models loaded / 1: p50 of one", "at most", 1.05, _loaded),
)  # fmt: skip


def aliasing(results: Results) -> list[tuple[str, float, Spread, Spread]]:
    """Return the price of anti-aliasing: pair, multiply-add ratio, CPU ratio bare and served."""
    pairs = [(model, "fashion_strided") for model in FASHION[1:]] + [RESNET[::-1]]
    found = []
    for blurred, strided in pairs:
        work = [results.select(experiment="model", model=name) for name in (blurred, strided)]
        bare = ratio(*(best_bare(results, name, "cpu_us", min) for name in (blurred, strided)))
        load = {**ONE, "concurrency": 16}
        own = ratio(*(served(results, name, "cpu_us", **load) for name in (blurred, strided)))
        if all(work) and bare and own:
            macs = work[0][0].figures["mmacs"] / work[1][0].figures["mmacs"]
            sides = (Spread.over([*side.values()]) for side in (bare, own))
            found.append((f"{blurred} / {strided}", macs, *sides))
    return found
