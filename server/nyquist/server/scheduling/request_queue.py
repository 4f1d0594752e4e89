"""The requests that wait for one model, in the order in which they will run.

priority level 1 -> those of it that are over their time (DELAY) -> level 2 -> ...

The settings are those of Triton's dynamic batcher, and mean what they mean there.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from math import inf
from time import monotonic
from typing import Any

from numpy.typing import NDArray

from nyquist.server.telemetry.current_call import current_spans
from nyquist.server.wire.errors import QueueFull

Array = NDArray[Any]
Outputs = dict[str, Array]

DEFAULT_MAX_QUEUE_SIZE = 1024
DEFAULT_MAX_RUN_S = 120.0


@dataclass(frozen=True)
class QueuePolicy:
    """How the requests of one priority level wait.

    Attributes:
        max_size: requests that may wait; one more is refused.
        timeout_s: how long one may wait; 0 is for ever.
        delay: a request over its time is put behind the others of its level, and not refused.
        override: a request may bring a shorter timeout of its own.
    """

    max_size: int = DEFAULT_MAX_QUEUE_SIZE
    timeout_s: float = 0.0
    delay: bool = False
    override: bool = False

    def timeout_of(self, asked_s: float) -> float:
        """Return how long a request may wait that options for `asked_s`; 0 is for ever."""
        shorter = self.override and 0 < asked_s < self.timeout_s
        return asked_s if shorter else self.timeout_s


@dataclass(frozen=True)
class BatchLimits:
    """How requests may be put together, and how they wait for it.

    Attributes:
        max_batch_size: pictures in one run.
        merge: whether requests share a run at all.
        max_queue_delay_s: how long the first request of a batch waits for company while an
            instance is free; 0 takes what is there.
        preferred_sizes: batches of these sizes are run at once, and made where they can be.
        preserve_ordering: answers leave in the order in which their requests were taken to run.
        levels: a policy for each priority level, the highest first.
        default_level: of a request without a priority, from 1.
        max_run_s: after which a run is given up, which none should reach; 0 is never.
        best_size: pictures in one run from which on more do not make it cheaper; 0 is the largest.
        spread_from: pictures in a request, on average, from which on all instances work at once;
            with fewer, what is done beside the model needs a core.
    """

    max_batch_size: int
    merge: bool = True
    max_queue_delay_s: float = 0.0
    preferred_sizes: tuple[int, ...] = ()
    preserve_ordering: bool = False
    levels: tuple[QueuePolicy, ...] = (QueuePolicy(),)
    default_level: int = 1
    max_run_s: float = DEFAULT_MAX_RUN_S
    best_size: int = 0
    spread_from: float = 0.0

    def level_of(self, priority: int) -> int:
        """Return the level of a request: the default one without a priority, or too high a one."""
        return priority if 1 <= priority <= len(self.levels) else self.default_level

    @cached_property
    def full_size(self) -> int:
        """Pictures that end the wait for company."""
        return max(self.preferred_sizes, default=self.run_size)

    @cached_property
    def run_size(self) -> int:
        """Pictures up to which a run is filled. A request of more runs alone."""
        if self.preferred_sizes or not self.best_size:
            return self.max_batch_size
        return self.best_size


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
