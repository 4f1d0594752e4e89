"""Clients, a balancer and replicas in simulated time; a zone that fails, a change of all replicas.

arrivals -> balancer -> replica -> trial: when each request was sent, how long it took, its outcome
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from simpy import Environment
from simpy.events import Event

from nyquist.client.capacity.arrivals import Arrivals, Closed, Poisson
from nyquist.client.capacity.balancer import BALANCERS, Balancer
from nyquist.client.capacity.replica import Outcome, Replica, Request
from nyquist.client.capacity.replica_profile import Profile

RETRIES = 1
"""How often a request is sent to another replica when its own has gone, as nginx does and gRPC."""
OUTCOMES = tuple(Outcome)

Waits: TypeAlias = Generator[Event, Any, None]


@dataclass(frozen=True)
class ZoneFailure:
    """The first of the zones is gone, all at once.

    Attributes:
        zones: among which the replicas are shared out.
        noticed_s: until the balancer knows. What it sends there till then, and what is there, is
            sent again to another zone.
        at_s: after the warm-up.
        kind: what happens, in a word.
    """

    kind: ClassVar[Literal["zone"]] = "zone"
    zones: int = 3
    noticed_s: float = 2.0
    at_s: float = 0.0

    def left(self, replicas: int) -> int:
        """Return the replicas that are still there afterwards."""
        return replicas - ceil(replicas / self.zones)


@dataclass(frozen=True)
class Rollout:
    """Every replica is replaced by a new one, as a Deployment of Kubernetes does it.

    Attributes:
        unavailable: replicas that may be missing meanwhile, as a share; rounded down.
        surge: replicas beyond their number that there may be, likewise; rounded up.
        at_s: after the warm-up.
        kind: what happens, in a word.
    """

    kind: ClassVar[Literal["rollout"]] = "rollout"
    unavailable: float = 0.25
    surge: float = 0.25
    at_s: float = 0.0

    def left(self, replicas: int) -> int:
        """Return the fewest replicas that answer meanwhile."""
        return replicas - int(self.unavailable * replicas)


Incident: TypeAlias = ZoneFailure | Rollout


@dataclass(frozen=True)
class Scenario:
    """What is simulated.

    Attributes:
        profile: of each replica.
        replicas: how many.
        rate: requests a second.
        seconds: that count.
        warm_up_s: before them, which do not.
        arrivals: kind of traffic.
        balancing: one of BALANCERS.
        balancers: that know nothing of each other; each request meets any of them.
        pictures: in a request.
        deadline_s: after which an answer is of no use; inf: never.
        incident: what happens meanwhile.
    """

    profile: Profile
    replicas: int
    rate: float
    seconds: float
    warm_up_s: float = 0.0
    arrivals: Arrivals = field(default_factory=Poisson)
    balancing: str = "round-robin"
    balancers: int = 1
    pictures: int = 1
    deadline_s: float = float("inf")
    incident: Incident | None = None

    def share(self, most: int) -> "Scenario":
        """Return a share of the fleet that behaves like the whole, of at most so many replicas.

        Exact for each replica where requests go to any replica by chance: what comes to one is then
        a Poisson process of the same rate, however many others there are. Approximate for the
        other ways of balancing, and the nearer the more replicas are left.
        """
        if self.replicas <= most:
            return self
        return replace(self, replicas=most, rate=self.rate * most / self.replicas)


@dataclass(frozen=True)
class Trial:
    """What one simulation gave.

    Attributes:
        sent: seconds after the warm-up of every request that counts. (N,)
        seconds: until its answer, or until it was clear that there is none. (N,)
        outcomes: places among OUTCOMES. (N,)
        utilisation: share of the time in which an instance ran, on average over instances.
        batch: pictures in a run, on average.
        replicas: that answered, over time: seconds after the warm-up, and how many from then on.
    """

    sent: NDArray[np.float64]
    seconds: NDArray[np.float64]
    outcomes: NDArray[np.uint8]
    utilisation: float
    batch: float
    replicas: tuple[tuple[float, int], ...]

    def of(self, outcome: Outcome) -> NDArray[np.bool_]:
        """Say of each request whether that became of it. -> (N,)."""
        return self.outcomes == OUTCOMES.index(outcome)

    def share(self, outcome: Outcome) -> float:
        """Return the share of the requests of which that became."""
        return float(self.of(outcome).mean()) if len(self.outcomes) else 0.0

    def latency_s(self, percent: float) -> float:
        """Return a percentile of what the answered took; inf if none was."""
        answered = self.seconds[self.of(Outcome.ANSWERED)]
        return float(np.percentile(answered, percent)) if len(answered) else float("inf")


def simulate(
    scenario: Scenario, seed: int, tell_progress: Callable[[float], None] | None = None
) -> Trial:
    """Simulate a scenario; the same seed gives the same trial.

    Args:
        scenario: what is simulated.
        seed: of all chance.
        tell_progress: called with the share that is done, now and then.
    """
    return _Fleet(scenario, seed).run(tell_progress)


@dataclass(eq=False)
class _Slot:
    """A replica, what it has to answer, and whether anything of it can be heard."""

    replica: Replica
    zone: int
    waits: dict[Request, None] = field(default_factory=dict)
    silent: bool = False


class _Fleet:
    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._scenario, self._env = scenario, Environment()
        self._rng = np.random.default_rng(seed)
        count, make = scenario.replicas, BALANCERS[scenario.balancing]
        self._balancers: list[Balancer] = [
            make(count, self._rng) for _ in range(scenario.balancers)
        ]
        zones = scenario.incident.zones if isinstance(scenario.incident, ZoneFailure) else 1
        self._slots: list[_Slot] = []
        for number in range(count):
            self._open(number % zones)
        self._ready = list(range(count))
        self._asked_until = 0.0
        self._known: list[tuple[float, int]] = [(0.0, count)]
        self._sent: list[float] = []
        self._seconds: list[float] = []
        self._outcomes: list[int] = []

    def _open(self, zone: int) -> int:
        """Start a replica, and return its number."""
        number = len(self._slots)

        def tell(request: Request, left: float, outcome: Outcome) -> None:
            self._over(number, request, left, outcome)

        replica = Replica(self._env, self._scenario.profile, self._rng, tell)
        self._slots.append(_Slot(replica, zone))
        return number

    def run(self, tell_progress: Callable[[float], None] | None) -> Trial:
        scenario, env = self._scenario, self._env
        begin, end = scenario.warm_up_s, scenario.warm_up_s + scenario.seconds
        env.process(self._clients(end))
        if isinstance(scenario.arrivals, Closed):
            self._asked_until = end
        match scenario.incident:
            case ZoneFailure():
                env.process(self._lose_zone(scenario.incident))
            case Rollout():
                env.process(self._replace_all(scenario.incident))
        if begin:
            env.run(until=begin)
        before = self._used()
        for step in range(1, 21):
            env.run(until=begin + scenario.seconds * step / 20)
            if tell_progress is not None:
                tell_progress(step / 20)
        after = self._used()
        busy_s, runs, pictures = (now - then for now, then in zip(after, before, strict=True))
        while any(slot.waits for slot in self._slots):
            env.step()
        sent = np.array(self._sent)
        counts = sent >= begin
        return Trial(
            sent[counts] - begin,
            np.array(self._seconds)[counts]
            + scenario.profile.wires(self._rng.random(counts.sum())),
            np.array(self._outcomes, np.uint8)[counts],
            busy_s / (scenario.profile.instances * self._answered_s(scenario.seconds)),
            pictures / runs if runs else 0.0,
            tuple(self._known),
        )

    def _answered_s(self, until: float) -> float:
        """Return how long replicas have answered after the warm-up, all together."""
        ends = [min(max(0.0, when), until) for when, _ in self._known[1:]]
        begins = [0.0, *ends]
        return sum(
            (end - begin) * count
            for begin, end, (_, count) in zip(begins, [*ends, until], self._known, strict=True)
        )

    def _used(self) -> tuple[float, int, int]:
        replicas = [slot.replica for slot in self._slots]
        return (
            sum(one.busy_s for one in replicas),
            sum(one.runs for one in replicas),
            sum(one.pictures for one in replicas),
        )

    def _clients(self, end: float) -> Waits:
        scenario, env = self._scenario, self._env
        for time in scenario.arrivals.times(scenario.rate, self._rng):
            if time >= end:
                return
            yield env.timeout(max(0.0, time - env.now))
            self._ask()

    def _ask(self) -> None:
        scenario, now = self._scenario, self._env.now
        request = Request(now, scenario.pictures, now + scenario.deadline_s)
        request.retries = RETRIES
        self._send(request)

    def _send(self, request: Request) -> None:
        count = len(self._balancers)
        request.balancer = int(self._rng.integers(count)) if count > 1 else 0
        number = self._balancers[request.balancer].pick()
        slot = self._slots[number]
        slot.waits[request] = None
        if not slot.silent:
            slot.replica.take(request)

    def _over(self, number: int, request: Request, left: float, outcome: Outcome) -> None:
        slot = self._slots[number]
        if slot.silent or request not in slot.waits:
            return  # nobody hears of it
        del slot.waits[request]
        self._balancers[request.balancer].release(number)
        self._note(request, left, outcome)

    def _note(self, request: Request, left: float, outcome: Outcome) -> None:
        self._sent.append(request.sent)
        self._seconds.append(left - request.sent)
        self._outcomes.append(OUTCOMES.index(outcome))
        heard = left + self._scenario.profile.wire_s
        if heard < self._asked_until:
            again = self._env.timeout(max(0.0, heard - self._env.now))
            again.callbacks.append(lambda _: self._ask())

    # What happens to replicas.

    def _count(self) -> None:
        now = self._env.now - self._scenario.warm_up_s
        if self._known[-1][0] == now:
            self._known.pop()  # several at once are one change
        self._known.append((now, len(self._ready)))

    def _remove(self, number: int) -> None:
        self._ready.remove(number)
        for balancer in self._balancers:
            balancer.remove(number)
        self._count()

    def _lose_zone(self, failure: ZoneFailure) -> Waits:
        yield self._env.timeout(self._scenario.warm_up_s + failure.at_s)
        gone = [number for number, slot in enumerate(self._slots) if slot.zone == 0]
        for number in gone:
            self._slots[number].silent = True
        yield self._env.timeout(failure.noticed_s)
        for number in gone:
            self._remove(number)
        for number in gone:
            slot = self._slots[number]
            waited, slot.waits = list(slot.waits), {}
            for request in waited:
                self._again(request)

    def _again(self, request: Request) -> None:
        now = self._env.now
        if request.deadline <= now:
            self._note(request, now, Outcome.LATE)
        elif not request.retries:
            self._note(request, now, Outcome.LOST)
        else:
            again = Request(request.sent, request.count, request.deadline)
            again.retries = request.retries - 1
            self._send(again)

    def _replace_all(self, rollout: Rollout) -> Waits:
        yield self._env.timeout(self._scenario.warm_up_s + rollout.at_s)
        count = self._scenario.replicas
        least = rollout.left(count)
        most = count + ceil(rollout.surge * count)
        old, begun, starting = list(self._ready), 0, 0
        while old or starting:
            while old and len(self._ready) > least:
                self._remove(old.pop(0))
            room = min(count - begun, most - len(self._ready) - starting)
            begun, starting = begun + room, starting + room
            yield self._env.timeout(self._scenario.profile.start_s)
            for _ in range(starting):
                self._add(self._open(0))
            starting = 0

    def _add(self, number: int) -> None:
        self._ready.append(number)
        for balancer in self._balancers:
            balancer.add(number)
        self._count()
