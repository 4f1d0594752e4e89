"""One replica in simulated time: its event loop, its queue, its batcher, its instances.

take -> the loop reads it -> queue -> policy -> an instance runs a batch -> the loop writes answers

Queue and policy are the server's own. What `Batcher` does between them with callbacks and threads
is done here with events, in the same order.
"""

from collections.abc import Callable
from enum import Enum
from functools import cache
from math import inf, nextafter
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from simpy import Environment
from simpy.events import Timeout

from nyquist.client.capacity.replica_profile import Profile
from nyquist.server.scheduling.policy import ALONE, Idle, Policy, Start
from nyquist.server.scheduling.request_queue import PendingRequest, RequestQueue
from nyquist.server.wire.errors import QueueFull

DRAWN_AT_ONCE = 4096
T = TypeVar("T")


class Outcome(Enum):
    """What becomes of a request."""

    ANSWERED = "answered"
    REFUSED = "refused"
    LATE = "late"
    LOST = "lost"


@cache
def _pictures(count: int) -> NDArray[np.uint8]:
    """Stand in for pictures of one shape, without any bytes."""
    return np.empty((count, 0), np.uint8)


class Request(PendingRequest):
    """A request of the simulation: on its clock, and without anybody who awaits an answer.

    Args:
        sent: when its client sent it, in seconds.
        pictures: in it.
        deadline: when the answer is of no use any more, likewise.

    Attributes:
        retries: how often it may still be sent again.
        balancer: which sent it.
    """

    __slots__ = ("balancer", "deadline", "retries", "sent")

    def __init__(self, sent: float, pictures: int = 1, deadline: float = inf) -> None:
        # not the parent's, which looks at the clock of this machine
        self.pictures, self.count, self.level, self.spans = _pictures(pictures), pictures, 1, None
        self.arrived, self.waits = sent, False
        self.sent, self.deadline = sent, deadline
        self.retries = self.balancer = 0


Tell = Callable[[Request, float, Outcome], None]


class Replica:
    """Answers requests as a server would.

    Args:
        env: its clock.
        profile: of it.
        rng: of its runs' times.
        tell: called with each request once it is over, when its answer left, and what became of it.

    Attributes:
        busy_s: seconds that its instances have run, all together.
        runs: how many.
        pictures: in them.
    """

    def __init__(
        self, env: Environment, profile: Profile, rng: np.random.Generator, tell: Tell
    ) -> None:
        self._env, self._profile, self._rng, self._tell = env, profile, rng, tell
        self._limits = profile.batching.limits
        self._policy = Policy(self._limits)
        self._queue = RequestQueue(self._limits)
        self._times = profile.run_times(self._limits.max_batch_size).tolist()
        self._factors: list[float] = []
        self._half_s = profile.loop_s / 2
        self._loop_free = 0.0
        self._idle, self._running = profile.instances, 0
        self._alone = ALONE
        self._look, self._dispatch_due = inf, False
        self._timed, self._timeout_s = self._limits.timed, self._limits.levels[0].timeout_s or inf
        self.busy_s = 0.0
        self.runs = self.pictures = 0

    def take(self, request: Request) -> None:
        """Let the loop read a request, once it has done what came before."""
        self._timed = self._timed or request.deadline < inf
        self._loop_free = max(self._env.now, self._loop_free) + self._half_s
        if self._loop_free == self._env.now:
            self._admit(request)
        else:
            self._at(self._loop_free, self._admit, request)

    def _at(self, when: float, do: Callable[[T], None], value: T) -> None:
        timer = Timeout(self._env, max(0.0, when - self._env.now))
        timer.callbacks.append(lambda _: do(value))

    def _admit(self, request: Request) -> None:
        now = request.arrived = self._env.now
        self._give_up(now)
        if request.deadline <= now:
            return self._tell(request, now, Outcome.LATE)
        try:
            self._queue.admit(request)
        except QueueFull:
            self._loop_free = max(now, self._loop_free) + self._half_s
            return self._tell(request, now + self._half_s, Outcome.REFUSED)
        return self._note_change(now)

    def _note_change(self, now: float) -> None:
        """Look for work to share out, after what the loop has to do already."""
        if not self._dispatch_due:
            self._dispatch_due = True
            self._at(max(now, self._loop_free), self._dispatch, None)

    def _give_up(self, now: float) -> None:
        """Take out of the queue who has waited too long, as the server's timers would have."""
        while self._timed and self._queue.count:
            first: Any = next(iter(self._queue))
            if now < min(first.arrived + self._timeout_s, first.deadline):
                return
            self._queue.remove(first)
            self._tell(first, now, Outcome.LATE if first.deadline <= now else Outcome.REFUSED)

    def _dispatch(self, _: None = None) -> None:
        self._dispatch_due = False
        now = self._env.now
        self._give_up(now)
        while self._idle and self._queue.count:
            idle = Idle(self._idle, alone=self._alone)
            decision = self._policy.next(self._queue, self._running, idle, now)
            if not isinstance(decision, Start):
                self._look_again(decision.when)
                return
            self._start(decision)

    def _look_again(self, when: float) -> None:
        if when < self._look:
            self._look = when
            # a sum of floats may end just before it
            self._at(max(when, nextafter(self._env.now, inf)), self._looked, when)

    def _looked(self, when: float) -> None:
        if when == self._look:
            self._look = inf
        self._dispatch()

    def _start(self, start: Start) -> None:
        requests: Any = start.requests
        for request in requests:
            self._queue.remove(request)
        self._alone = start.alone
        self._idle -= 1
        self._running += 1
        pictures = sum(request.count for request in requests)
        seconds = self._times[pictures] * self._factor()
        self.busy_s += seconds
        self.runs += 1
        self.pictures += pictures
        self._at(self._env.now + seconds, self._ended, requests)

    def _factor(self) -> float:
        if not self._factors:
            self._factors = self._profile.factors(self._rng.random(DRAWN_AT_ONCE)).tolist()
        return self._factors.pop()

    def _ended(self, requests: list[Request]) -> None:
        """Hear from the thread, once the loop has done what came before."""
        begins = max(self._env.now, self._loop_free)
        self._loop_free = begins + len(requests) * self._half_s  # what comes now waits behind them
        if begins > self._env.now:
            self._at(begins, self._free, requests)
        else:
            self._free(requests)

    def _free(self, requests: list[Request]) -> None:
        now = self._env.now
        self._idle += 1
        self._running -= 1
        if self._half_s:
            self._at(now + len(requests) * self._half_s, self._written, requests)
        else:
            self._written(requests)

    def _written(self, requests: list[Request]) -> None:
        """Hand over the answers, each at the time at which it left, and see what runs next."""
        now = self._env.now
        for behind, request in enumerate(reversed(requests)):
            left = now - behind * self._half_s
            late = left > request.deadline
            self._tell(request, left, Outcome.LATE if late else Outcome.ANSWERED)
        self._dispatch()
