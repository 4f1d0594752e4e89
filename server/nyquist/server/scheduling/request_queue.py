"""The requests that wait for one model, in the order in which they will run.

priority level 1 -> those of it that are over their time (DELAY) -> level 2 -> ...
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain
from time import monotonic
from typing import Any

from numpy.typing import NDArray

from nyquist.server.scheduling.limits import BatchLimits, QueuePolicy
from nyquist.server.telemetry.current_call import Spans
from nyquist.server.wire.errors import QueueFull
from nyquist.server.wire.feeds import Feeds

Array = NDArray[Any]
Pictures = Array | Feeds
Outputs = dict[str, Array]


class PendingRequest:
    """One request.

    Attributes:
        pictures: (B, ...), or what a model takes in place of an array.
        count: B.
        answer: where its caller waits.
        level: of its priority.
        arrived: when it came, on monotonic.
        spans: of its call.
        waits: whether it is in the queue.
    """

    __slots__ = ("answer", "arrived", "count", "level", "pictures", "spans", "waits")

    def __init__(
        self,
        pictures: Pictures,
        answer: "asyncio.Future[Outputs]",
        level: int = 1,
        spans: Spans | None = None,
    ) -> None:
        self.pictures, self.count, self.answer, self.level = pictures, len(pictures), answer, level
        self.arrived, self.spans, self.waits = monotonic(), spans, False


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
        count: of requests.
        pictures: of all of them.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self._limits = limits
        self._levels = [_Level(policy) for policy in limits.levels]
        self.count = self.pictures = 0

    def __len__(self) -> int:
        return self.count

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
        self.count += 1
        self.pictures += request.count

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
        self.count -= 1
        self.pictures -= request.count
        return True
