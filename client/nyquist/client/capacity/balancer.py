"""Which replica gets the next request: pick -> (it is answered) -> release."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol

import numpy as np

DRAWN_AT_ONCE = 8192


class Balancer(Protocol):
    """Chooses among the replicas that it knows of, by their numbers."""

    def pick(self) -> int:
        """Return the replica for a request."""
        ...

    def release(self, replica: int) -> None:
        """Note that a request of a replica is over."""
        ...

    def add(self, replica: int) -> None:
        """Send to a replica from now on."""
        ...

    def remove(self, replica: int) -> None:
        """Send nothing to a replica any more."""
        ...


class _Listed:
    """Replicas in a list."""

    def __init__(self, replicas: int, rng: np.random.Generator) -> None:
        self._known = list(range(replicas))
        self._rng = rng
        self._drawn: list[float] = []

    def release(self, replica: int) -> None:
        """Nothing is counted."""

    def add(self, replica: int) -> None:
        self._known.append(replica)

    def remove(self, replica: int) -> None:
        self._known.remove(replica)

    def _any(self) -> int:
        if not self._drawn:
            self._drawn = self._rng.random(DRAWN_AT_ONCE).tolist()
        return self._known[int(self._drawn.pop() * len(self._known))]


class RoundRobin(_Listed):
    """One after the other, from any on: several balancers are not in step."""

    def __init__(self, replicas: int, rng: np.random.Generator) -> None:
        super().__init__(replicas, rng)
        self._next = int(rng.integers(replicas))

    def pick(self) -> int:
        self._next = (self._next + 1) % len(self._known)
        return self._known[self._next]


class Random(_Listed):
    """Any of them."""

    def pick(self) -> int:
        return self._any()


class TwoChoices(_Listed):
    """Of two, drawn at random, the one with fewer requests in flight (Mitzenmacher, 2001)."""

    def __init__(self, replicas: int, rng: np.random.Generator) -> None:
        super().__init__(replicas, rng)
        self._in_flight = [0] * replicas

    def pick(self) -> int:
        one, other = self._any(), self._any()
        chosen = one if self._in_flight[one] <= self._in_flight[other] else other
        self._in_flight[chosen] += 1
        return chosen

    def release(self, replica: int) -> None:
        self._in_flight[replica] -= 1

    def add(self, replica: int) -> None:
        super().add(replica)
        self._in_flight += [0] * (replica + 1 - len(self._in_flight))


class LeastRequests:
    """The one with the fewest requests in flight; of equals, the one that changed first."""

    def __init__(self, replicas: int, rng: np.random.Generator) -> None:
        del rng
        self._in_flight = dict.fromkeys(range(replicas), 0)
        self._changes = replicas
        self._latest = {replica: replica for replica in range(replicas)}
        self._heap = [(0, replica, replica) for replica in range(replicas)]

    def pick(self) -> int:
        while True:
            _, change, replica = heappop(self._heap)
            if self._latest.get(replica) == change:  # or it has changed since
                self._count(replica, 1)
                return replica

    def release(self, replica: int) -> None:
        if replica in self._in_flight:
            self._count(replica, -1)

    def add(self, replica: int) -> None:
        self._in_flight[replica] = 0
        self._count(replica, 0)

    def remove(self, replica: int) -> None:
        del self._in_flight[replica], self._latest[replica]

    def _count(self, replica: int, change: int) -> None:
        self._changes += 1
        self._in_flight[replica] += change
        self._latest[replica] = self._changes
        heappush(self._heap, (self._in_flight[replica], self._changes, replica))


BALANCERS: dict[str, Callable[[int, np.random.Generator], Balancer]] = {
    "round-robin": RoundRobin,
    "random": Random,
    "least-requests": LeastRequests,
    "two-choices": TwoChoices,
}
