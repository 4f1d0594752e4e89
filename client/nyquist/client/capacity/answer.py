"""What a number of replicas does under a load, over several seeds; and the smallest that will do.

scenario -> trials -> answer -> more or fewer replicas -> scenario ...
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, sqrt
from statistics import fmean, stdev

from nyquist.client.capacity.arrivals import Bursty, Trace
from nyquist.client.capacity.fleet import Incident, Scenario, Trial, ZoneFailure, simulate
from nyquist.client.capacity.replica import Outcome

STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's t for 1, 2, ... degrees of freedom."""
MOST_SEEDS = len(STUDENT) + 1
WARM_UP = 0.25
"""Of the time that counts, before it."""
CYCLES = 20
"""Bursts that a trial has at least."""
RUNS = 50
"""Of the largest batch, one after the other, that it has room for at least."""
LONELY = 0.01
"""Of what one replica can answer: a load under which nobody waits for anybody."""
MOST_TIMES = 64
"""Of the fewest replicas that could answer at all, where the search ends."""
BEYOND = (1.1, 1.25, 1.5)
"""Times the smallest number, that are tried as well: what a lower latency would cost."""

Tell = Callable[[str], None]


class Unreachable(Exception):
    """No number of replicas holds the limits; the message says what comes nearest."""


@dataclass(frozen=True)
class Figure:
    """An average over seeds, and half of its 95 % confidence interval.

    Attributes:
        mean: over the seeds.
        half: of the interval; 0 for one seed.
    """

    mean: float
    half: float = 0.0

    @classmethod
    def over(cls, values: Sequence[float]) -> "Figure":
        """Return that of some values."""
        if len(values) < 2 or inf in values:
            return cls(fmean(values))
        return cls(fmean(values), STUDENT[len(values) - 2] * stdev(values) / sqrt(len(values)))


@dataclass(frozen=True)
class Answer:
    """What so many replicas do under a load.

    Attributes:
        replicas: how many there are.
        answering: how many of them answer.
        simulated: how many were, as a share of those.
        rate: requests a second, of all.
        requests: that were simulated and counted, over all seeds.
        p50_s: half of the answers took no longer.
        p99_s: 99 of 100 likewise.
        p999_s: 999 of 1,000 likewise.
        refused: share of the requests, because a queue was full or its time over.
        late: share whose deadline passed.
        lost: share that went to replicas that were gone, twice.
        utilisation: share of the time in which an instance ran.
        batch: pictures in a run.
    """

    replicas: int
    answering: int
    simulated: int
    rate: float
    requests: int
    p50_s: Figure
    p99_s: Figure
    p999_s: Figure
    refused: Figure
    late: Figure
    lost: Figure
    utilisation: Figure
    batch: Figure

    @property
    def unanswered(self) -> float:
        """Share of the requests that get no answer in time, on average."""
        return self.refused.mean + self.late.mean + self.lost.mean

    def holds(self, limits: "Limits") -> bool:
        """Say whether it is as good as it has to be, at the worse end of the intervals."""
        within = self.p99_s.mean + self.p99_s.half <= limits.p99_s
        return within and self.unanswered <= limits.unanswered


@dataclass(frozen=True)
class Limits:
    """What a fleet must hold.

    Attributes:
        p99_s: that 99 of 100 answers take at most.
        unanswered: share of the requests that get no answer in time, at most.
    """

    p99_s: float
    unanswered: float = 0.0001


@dataclass(frozen=True)
class Effort:
    """How much is simulated.

    Attributes:
        requests: that count, in each trial.
        seeds: trials, 1 to MOST_SEEDS.
        replicas: of a larger fleet, a share of so many is simulated.
    """

    requests: int = 50_000
    seeds: int = 5
    replicas: int = 50


def steady(
    scenario: Scenario,
    effort: Effort,
    limits: Limits | None = None,
    tell: Tell = lambda _: None,
) -> Answer:
    """Simulate a load that goes on, and nothing that fails.

    Args:
        scenario: whose length is chosen here.
        effort: how much of it.
        limits: one trial is enough where it misses them by far.
        tell: called with a line about what is done, now and then.
    """
    part = _lasting(scenario.share(effort.replicas), effort)
    trials: list[Trial] = []
    for seed in range(effort.seeds):
        trials.append(simulate(part, seed, _progress(scenario, seed, effort, tell)))
        if limits is not None and trials[0].latency_s(99) > 2 * limits.p99_s:
            break
    return summed_up(scenario, part, trials)


def _progress(scenario: Scenario, seed: int, effort: Effort, tell: Tell) -> Callable[[float], None]:
    trial = f"{scenario.replicas:,} replicas, trial {seed + 1} of {effort.seeds}"
    return lambda share: tell(f"{trial}, {100 * share:.0f} %")


def _lasting(part: Scenario, effort: Effort) -> Scenario:
    """Return a scenario that is long enough for what it shows."""
    if isinstance(part.arrivals, Trace):
        return replace(part, seconds=float(part.arrivals.recorded[-1]) * 1.0001)
    most = max(part.pictures, part.profile.batching.limits.run_size)
    seconds = max(effort.requests / part.rate, RUNS * float(part.profile.run_times(most)[-1]))
    if isinstance(part.arrivals, Bursty):
        seconds = max(seconds, CYCLES * part.arrivals.cycle_s)
    return replace(part, seconds=seconds, warm_up_s=WARM_UP * seconds)


def summed_up(scenario: Scenario, part: Scenario, trials: Sequence[Trial]) -> Answer:
    """Return what trials of a share of a fleet say of the whole."""

    def over(value: Callable[[Trial], float]) -> Figure:
        return Figure.over([value(trial) for trial in trials])

    fewest = min(count for trial in trials for _, count in trial.replicas)
    return Answer(
        replicas=scenario.replicas,
        answering=round(scenario.replicas * fewest / part.replicas),
        simulated=part.replicas,
        rate=scenario.rate,
        requests=sum(len(trial.sent) for trial in trials),
        p50_s=over(lambda trial: trial.latency_s(50)),
        p99_s=over(lambda trial: trial.latency_s(99)),
        p999_s=over(lambda trial: trial.latency_s(99.9)),
        refused=over(lambda trial: trial.share(Outcome.REFUSED)),
        late=over(lambda trial: trial.share(Outcome.LATE)),
        lost=over(lambda trial: trial.share(Outcome.LOST)),
        utilisation=over(lambda trial: trial.utilisation),
        batch=over(lambda trial: trial.batch),
    )


def without(
    scenario: Scenario, incident: Incident, effort: Effort, limits: Limits, tell: Tell
) -> Answer:
    """Simulate a load on what an incident leaves, once that has gone on for long."""
    left = replace(scenario, replicas=incident.left(scenario.replicas), incident=None)
    found = steady(left, effort, limits, tell)
    return replace(found, replicas=scenario.replicas, answering=left.replicas)


def meanwhile(
    scenario: Scenario, incident: Incident, effort: Effort, tell: Tell = lambda _: None
) -> tuple[Answer, Trial]:
    """Simulate an incident from a moment before it until it is over.

    Returns:
        What it does over all that time, and its first trial, for a plot.
    """
    profile = scenario.profile
    if isinstance(incident, ZoneFailure):
        before_s, lasts_s = incident.noticed_s, 3 * incident.noticed_s
    else:
        waves = ceil(1 / max(incident.unavailable + incident.surge, 1 / scenario.replicas))
        before_s, lasts_s = profile.start_s / 2, (waves + 1) * profile.start_s
    seconds = before_s + lasts_s
    # each trial has as many requests as others, of fewer replicas if need be
    most = int(4 * effort.requests / seconds / (scenario.rate / scenario.replicas))
    least = 4 * (incident.zones if isinstance(incident, ZoneFailure) else 1)
    part = scenario.share(max(least, min(most, effort.replicas)))
    part = replace(
        part,
        seconds=seconds,
        warm_up_s=min(WARM_UP * seconds, 1.0),
        incident=replace(incident, at_s=before_s),
    )
    trials = [
        simulate(part, seed, _progress(scenario, seed, effort, tell))
        for seed in range(effort.seeds)
    ]
    return summed_up(scenario, part, trials), trials[0]


def smallest(
    scenario: Scenario,
    limits: Limits,
    effort: Effort,
    tell: Tell = lambda _: None,
) -> list[Answer]:
    """Search the smallest number of replicas that holds the limits.

    Args:
        scenario: whose number is searched.
        limits: to hold.
        effort: of each try.
        tell: called with a line about each try.

    Returns:
        The tries, by their number of replicas, ascending; what holds the limits is among them.

    Raises:
        Unreachable: no number holds them.
    """
    profile = scenario.profile
    most_a_second = profile.most_a_second / scenario.pictures
    lone = replace(scenario, replicas=1, rate=LONELY * most_a_second)
    at_best = steady(lone, replace(effort, requests=2000, seeds=1))
    if at_best.p99_s.mean > limits.p99_s:
        raise Unreachable(
            f"no number of replicas answers 99 of 100 in {limits.p99_s * 1e3:g} ms: one that has "
            f"nothing else to do needs {at_best.p99_s.mean * 1e3:.3g} ms"
        )
    tries: dict[int, Answer] = {}

    def good(replicas: int) -> bool:
        if replicas not in tries:
            tries[replicas] = steady(replace(scenario, replicas=replicas), effort, limits, tell)
        return tries[replicas].holds(limits)

    least = max(1, ceil(scenario.rate / most_a_second))
    low, high, step = least - 1, least, max(1, least // 16)
    while not good(high):
        low, high, step = high, high + step, 2 * step
        if high > MOST_TIMES * least:
            raise Unreachable(
                f"even {low:,} replicas miss the limits: p99 {tries[low].p99_s.mean * 1e3:.3g} ms, "
                f"{100 * tries[low].unanswered:.3g} % unanswered"
            )
    # not nearer than a thousandth: the intervals are wider
    while high - low > max(1, high // 1000):
        middle = (low + high) // 2
        low, high = (low, middle) if good(middle) else (middle, high)
    for times in BEYOND:
        good(ceil(times * high))
    return [tries[number] for number in sorted(tries)]


def needed(answering: int, incidents: Sequence[Incident]) -> int:
    """Return how many replicas there must be so that so many answer whatever happens."""
    replicas = answering
    while any(incident.left(replicas) < answering for incident in incidents):
        replicas += 1
    return replicas
