"""The requests that wait for one model, in the order in which they will run.

priority level 1 -> those of it that are over their time (DELAY) -> level 2 -> ...
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from math import inf
from time import monotonic
from typing import Any

from numpy.typing import NDArray

from nyquist.server.scheduling.limits import BatchLimits, QueuePolicy
from nyquist.server.telemetry.current_call import current_spans
from nyquist.server.wire.errors import QueueFull

Array = NDArray[Any]
Outputs = dict[str, Array]


class PendingRequest:
    """One request.

    Attributes:
        pictures: (B, ...).
        answer: where its caller waits.
        level: of its priority.
        arrived: when it came, on monotonic.
        spans: of its call.
        waits: whether it is in the queue.
    """

    __slots__ = ("answer", "arrived", "level", "pictures", "spans", "waits")

    def __init__(self, pictures: Array, answer: "asyncio.Future[Outputs]", level: int = 1) -> None:
        self.pictures, self.answer, self.level = pictures, answer, level
        self.arrived, self.spans, self.waits = monotonic(), current_spans(), False


class _Level:
    """One priority level. OrderedDicts, because a request may leave from anywhere."""

    def __init__(self, policy: QueuePolicy) -> None:
        self.policy = policy
        self.in_time: OrderedDict[PendingRequest, None] = OrderedDict()
        self.late: OrderedDict[PendingRequest, None] = OrderedDict()


class RequestQueue:
    """Requests in the order in which they will run.

    Args:
        limits: of the model.

    Attributes:
        pictures: of all requests.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._levels = [_Level(policy) for policy in limits.levels]
        self._waiting = self.pictures = 0

    def __len__(self) -> int:
        return self._waiting

    def __iter__(self) -> Iterator[PendingRequest]:
        return chain.from_iterable(chain(level.in_time, level.late) for level in self._levels)

    def admit(self, request: PendingRequest) -> None:
        """Let a request wait.

        Raises:
            QueueFull: its level is full.
        """
        level = self._levels[request.level - 1]
        if len(level.in_time) + len(level.late) >= level.policy.max_size:
            raise QueueFull(f"Exceeds maximum queue size of {level.policy.max_size}")
        level.in_time[request] = None
        request.waits = True
        self._waiting += 1
        self.pictures += len(request.pictures)

    def postpone(self, request: PendingRequest) -> None:
        """Put a request behind all others of its level that are in time."""
        level = self._levels[request.level - 1]
        if request in level.in_time:
            del level.in_time[request]
            level.late[request] = None

    def remove(self, request: PendingRequest) -> bool:
        """Take a request out, wherever it stands; say whether it was there."""
        if not request.waits:
            return False
        level = self._levels[request.level - 1]
        del (level.in_time if request in level.in_time else level.late)[request]
        request.waits = False
        self._waiting -= 1
        self.pictures -= len(request.pictures)
        return True

    def next_batch(self, now: float) -> tuple[list[PendingRequest], float]:
        """Choose, without taking them out, the requests to run next; `now` is monotonic.

        The first request is always among them, so that none starves behind other shapes.

        Returns:
            The requests, or none and the time until which to wait for company.
        """
        batch, preferred, complete = self._fitting()
        delay = self._limits.max_queue_delay_s
        due = min(request.arrived for request in batch) + delay if delay else inf
        if preferred and now < due:
            return batch[:preferred], now
        if complete or now >= due or not delay:
            return batch, now
        return [], due

    def _fitting(self) -> tuple[list[PendingRequest], int, bool]:
        """Find the requests that fit into one run: the first, and those after it of its shape.

        Within a shape the order holds: a request that does not fit any more ends the batch.

        Returns:
            The requests, how many of them make the largest preferred size, and whether company
            would be of no use.
        """
        limits, most = self._limits, self._limits.run_size
        batch: list[PendingRequest] = []
        size, preferred = 0, 0
        for request in self:
            if batch and request.pictures.shape[1:] != batch[0].pictures.shape[1:]:
                continue
            if batch and size + len(request.pictures) > most:
                return batch, preferred, True
            batch.append(request)
            size += len(request.pictures)
            if size in limits.preferred_sizes:
                preferred = len(batch)
            if size >= most or not limits.merge:
                return batch, preferred, True
        return batch, preferred, size >= limits.full_size
