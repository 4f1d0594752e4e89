"""Which requests run next, or until when to wait: a function of what waits, runs and idles.

waiting, running, idle, now -> Start | WaitUntil

A free instance takes what is there: while it runs, the next batch gathers. Nobody waits for company
but where the model says so.

Few who wait are answered sooner by all threads together, one batch after the other; more of them
by an instance for each.
"""

from collections.abc import Iterator
from math import inf
from typing import NamedTuple, Protocol

from nyquist.server.scheduling.limits import BatchLimits
from nyquist.server.scheduling.request_queue import PendingRequest

ALONE = 4
"""Runs in a row with few waiting and nothing beside them after which it is taken to stay so."""


class Waiting(Protocol):
    """Requests in the order in which they will run.

    Attributes:
        count: how many they are.
        pictures: of all of them.
    """

    count: int
    pictures: int

    def __iter__(self) -> Iterator[PendingRequest]: ...


class Idle(NamedTuple):
    """Who could run something.

    Attributes:
        instances: that are free, but for the next one.
        low_latency: whether the instance is free that only few get.
        alone: the latest runs in a row, of few requests, that had none beside them.
        together: requests that run in the instance of low latency now.
    """

    instances: int
    low_latency: bool = False
    alone: int = 0
    together: int = 0


class Start(NamedTuple):
    """Run these requests together, now.

    Attributes:
        requests: that leave the queue.
        alone: the latest runs in a row, with this one, of few requests and with none beside them.
        low_latency: by the instance that only few get.
    """

    requests: list[PendingRequest]
    alone: int
    low_latency: bool


class WaitUntil(NamedTuple):
    """Look again at `when`, on monotonic, or once something changes; inf: only then."""

    when: float


FOR_A_CHANGE = WaitUntil(inf)


class Policy:
    """Decides for one model. It keeps nothing: equal values, equal decision.

    Args:
        limits: of the model's batches.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits

    def next(self, waiting: Waiting, running: int, idle: Idle, now: float) -> Start | WaitUntil:
        """Decide what to do next.

        Args:
            waiting: in the queue.
            running: batches.
            idle: instances.
            now: on monotonic; inf waits for nobody.
        """
        count = waiting.count
        if not count or not idle.instances:
            return FOR_A_CHANGE
        busy = self._limits.keeps_busy
        if busy and running >= max(1, int(busy * waiting.pictures / count)):
            return FOR_A_CHANGE  # another instance would only take the event loop's core
        if idle.together and running == 1 and count + idle.together <= self._limits.few:
            return FOR_A_CHANGE  # all threads work on what is before them, and are soon through
        requests, due = self._batch(waiting, now)
        if not requests:
            return WaitUntil(due)
        alone = idle.alone + 1 if count <= self._limits.few and not running else 0
        return Start(requests, alone, idle.low_latency and alone >= ALONE)

    def _batch(self, waiting: Waiting, now: float) -> tuple[list[PendingRequest], float]:
        """Choose the requests that run together.

        The first request is always among them, so that none starves behind other shapes.

        Returns:
            The requests, or none and the time until which to wait for company.
        """
        batch, preferred, complete = self._fitting(waiting)
        delay = self._limits.max_queue_delay_s
        due = min(request.arrived for request in batch) + delay if delay else inf
        if preferred and now < due:
            return batch[:preferred], now
        if complete or now >= due or not delay:
            return batch, now
        return [], due

    def _fitting(self, waiting: Waiting) -> tuple[list[PendingRequest], int, bool]:
        """Find the requests that fit into one run: the first, and those after it of its shape.

        Within a shape the order holds: a request that does not fit any more ends the batch.

        Returns:
            The requests, how many of them make the largest preferred size, and whether company
            would be of no use.
        """
        limits, most = self._limits, self._limits.run_size
        batch: list[PendingRequest] = []
        size = preferred = 0
        for request in waiting:
            if batch and request.pictures.shape[1:] != batch[0].pictures.shape[1:]:
                continue
            if batch and size + request.count > most:
                return batch, preferred, True
            batch.append(request)
            size += request.count
            if size in limits.preferred_sizes:
                preferred = len(batch)
            if size >= most or not limits.merge:
                return batch, preferred, True
        return batch, preferred, size >= limits.full_size
