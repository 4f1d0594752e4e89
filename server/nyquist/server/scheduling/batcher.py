"""Turn single requests into batches, and share them out to the instances of a model.

submit -> queue -> policy -> a free instance runs a batch -> deliver

All of it happens on the event loop. While batches run the next one gathers: no timer is needed to
fill it.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from time import monotonic
from typing import NamedTuple

from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.scheduling.deadlines import TIMER_STEP_S, Deadlines
from nyquist.server.scheduling.instance import Answer, Instance, Runner
from nyquist.server.scheduling.limits import BatchLimits
from nyquist.server.scheduling.policy import ALONE, Idle, Policy, Start
from nyquist.server.scheduling.request_queue import Outputs, PendingRequest, Pictures, RequestQueue
from nyquist.server.telemetry.current_call import Spans
from nyquist.server.telemetry.metrics import ModelMetrics
from nyquist.server.wire.errors import (
    DeadlinePassed,
    InferenceFailed,
    NyquistError,
    QueueTimeout,
    Stopping,
)

LAST_PROBE_S = 60.0
OUT_OF_SERVICE = "the model is out of service: it does not answer an input that is known to be good"


class RequestOptions(NamedTuple):
    """What a caller may say about its place in the queue.

    Attributes:
        deadline: when the answer is of no use any more, on the clock of the event loop.
        priority: its level, 1 the highest; 0 is the model's default.
        timeout_s: how long it will wait, where the model's queue policy heeds that; 0: no wish.
        spans: of its call; None where it is not traced.
    """

    deadline: float | None = None
    priority: int = 0
    timeout_s: float = 0.0
    spans: Spans | None = None


DEFAULT_OPTIONS = RequestOptions()


@dataclass(eq=False, slots=True)
class Batch:
    """Requests that run together, and their answers once they have."""

    requests: list[PendingRequest]
    answers: list[Answer] | None = None


class Batcher:
    """The one owner of a model's queue and of the instances that run it.

    A run that fails is repeated request by request, so that a bad one does not disturb its
    neighbours. If nothing succeeds, not even a probe with an input that is known to be good, the
    instance is out of service and the model not ready, until a later probe succeeds. So it is with
    a run that takes longer than it may: its callers are told, it is asked to end, and its instance
    is probed once it has.

    Args:
        runners: of the instances, each used by one thread.
        limits: of the batches and of the queue.
        metrics: of the model.
        budget: of bytes, shared with the other models.
        first_probe_s: until an instance is probed again once a probe has failed; twice that, and so
            on, after each more that fails, up to a minute.
        last_word_s: for what is still in a thread at the end, once it has been asked to end.
        low_latency: another instance, that is quicker and costs more: for few requests.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        limits: BatchLimits,
        metrics: ModelMetrics,
        budget: QueueBudget,
        first_probe_s: float = 1.0,
        last_word_s: float = 5.0,
        low_latency: Runner | None = None,
    ) -> None:
        self._limits, self._metrics, self._budget = limits, metrics, budget
        self._first_probe_s, self._last_word_s = first_probe_s, last_word_s
        self._loop = asyncio.get_running_loop()
        self._policy = Policy(limits)
        self._queue = RequestQueue(limits)
        self._deadlines = Deadlines(self._give_up)
        self._running: deque[Batch] = deque()
        make = partial(Instance, limits=limits, metrics=metrics)
        self._instances = [make(runner) for runner in runners]
        self._low_latency = None if low_latency is None else make(low_latency)
        self._idle, self._idle_low_latency = list(self._instances), self._low_latency
        self._alone, self._together = ALONE, 0
        self._recoveries: set[asyncio.Task[None]] = set()
        self._dispatch_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._closing, self._healthy, self._useless = False, True, False
        metrics.ready.set(1)

    @property
    def alive(self) -> bool:
        """Whether requests are taken and every instance answers."""
        return self._healthy and not self._closing

    @property
    def _all(self) -> list[Instance]:
        if self._low_latency is None:
            return self._instances
        return [*self._instances, self._low_latency]

    async def submit(
        self, pictures: Pictures, options: RequestOptions = DEFAULT_OPTIONS
    ) -> Outputs:
        """Wait for the outputs of these pictures. (B, ...) -> {name: (B, ...)}.

        A caller that is cancelled leaves the queue at once, and its neighbours alone.

        Args:
            pictures: checked already, C-contiguous; at most max_batch_size of them.
            options: of the caller.

        Raises:
            QueueFull: as many requests wait, or bytes are held, as may.
            QueueTimeout: it waited longer than its queue policy allows.
            Stopping: the batcher is being closed.
            DeadlinePassed: it was not answered in time.
            InferenceFailed: the run failed or took too long, or no instance is in service.
        """
        if self._closing:
            raise Stopping("Server is stopping and has stopped accepting new inference requests")
        if self._useless:
            raise InferenceFailed(OUT_OF_SERVICE)
        limits = self._limits
        level = limits.level_of(options.priority) if options.priority else limits.default_level
        request = PendingRequest(pictures, self._loop.create_future(), level, options.spans)
        self._budget.take(pictures.nbytes)
        try:
            self._queue.admit(request)
        except NyquistError:
            self._budget.give_back(pictures.nbytes)
            raise
        self._note_change()
        timer = self._timer_of(request, options) if limits.timed else None
        if options.deadline is not None:
            self._deadlines.watch(request, options.deadline)
        try:
            return await request.answer
        finally:
            if timer is not None:
                timer.cancel()
            self._deadlines.forget(request, None)
            if request.waits:
                self._forget(request)

    async def close(self) -> None:
        """Refuse new requests, answer those that wait, stop the threads."""
        self._closing = True
        self._metrics.ready.set(0)
        self._note_change()
        if self._queue.count or self._running:
            await self._empty.wait()
        self._deadlines.close()
        for recovery in self._recoveries:
            recovery.cancel()  # or it would keep its session for up to a minute
        for instance in self._all:
            await instance.close(self._last_word_s)

    def _timer_of(
        self, request: PendingRequest, options: RequestOptions
    ) -> asyncio.TimerHandle | None:
        """Set the timer that the queue policy of a request asks for, if any."""
        policy = self._limits.levels[request.level - 1]
        timeout_s = policy.timeout_of(options.timeout_s)
        if not timeout_s:
            return None
        heed = self._queue.postpone if policy.delay else self._reject
        return self._loop.call_later(timeout_s, heed, request)

    def _reject(self, request: PendingRequest) -> None:
        if self._forget(request):
            _fail(request, QueueTimeout("Request timeout expired"))

    def _give_up(self, request: PendingRequest) -> None:
        self._forget(request)
        _fail(request, DeadlinePassed("Request timeout expired"))

    def _forget(self, request: PendingRequest) -> bool:
        """Take a request out of the queue; say whether it still was there."""
        if not self._queue.remove(request):
            return False
        self._budget.give_back(request.pictures.nbytes)
        self._note_change()
        return True

    def _note_change(self) -> None:
        """Look for work to share out, after what else this turn of the loop brings."""
        if not self._dispatch_due:
            self._dispatch_due = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        self._dispatch_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle and self._queue.count:
            free = self._idle_low_latency is not None
            idle = Idle(len(self._idle), free, self._alone, self._together)
            now = inf if self._closing else monotonic()
            decision = self._policy.next(self._queue, len(self._running), idle, now)
            if isinstance(decision, Start):
                self._start(decision)
                continue
            if decision.when != inf:
                self._look_again(decision.when)
            break
        self._metrics.queue_depth.value = self._queue.count
        if self._closing and not self._queue.count and not self._running:
            self._empty.set()

    def _look_again(self, when: float) -> None:
        """Dispatch at `when`; in the next turn of the loop where that is nearer than timers go."""
        if when - monotonic() < TIMER_STEP_S:
            self._note_change()
        else:
            self._timer = self._loop.call_at(when, self._dispatch)

    def _start(self, start: Start) -> None:
        """Take requests out of the queue, and let an instance run them together."""
        for request in start.requests:
            self._queue.remove(request)
        self._alone = start.alone
        if start.low_latency and self._idle_low_latency is not None:
            instance, self._idle_low_latency = self._idle_low_latency, None
            self._together = len(start.requests)
        else:
            instance = self._idle.pop()
        batch = Batch(start.requests)
        self._running.append(batch)
        instance.run(start.requests).add_done_callback(partial(self._ended, instance, batch))

    def _ended(self, instance: Instance, batch: Batch, ran: "asyncio.Future[list[Answer]]") -> None:
        """Hand out what a run gave, and see whether its instance can take the next."""
        batch.answers = answers = ran.result()
        if instance is self._low_latency:
            self._together = 0
        if instance.healthy and not all(isinstance(one, InferenceFailed) for one in answers):
            self._free(instance)
        else:
            self._note_health()
            recovery = self._loop.create_task(self._recover(instance))
            self._recoveries.add(recovery)
            recovery.add_done_callback(self._recoveries.discard)
        self._deliver(batch)

    async def _recover(self, instance: Instance) -> None:
        """Probe an instance, ever less often, until it can be relied on."""
        pause_s = self._first_probe_s
        while not await instance.probe():
            self._note_health()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LAST_PROBE_S)
        self._note_health()
        self._free(instance)
        self._note_change()

    def _free(self, instance: Instance) -> None:
        """Let an instance take its next batch, once there is one."""
        if instance is self._low_latency:
            self._idle_low_latency = instance
        else:
            self._idle.append(instance)

    def _note_health(self) -> None:
        """Show whether an instance is out of service; without any for all, nobody need wait."""
        self._healthy = all(instance.healthy for instance in self._all)
        self._useless = not any(instance.healthy for instance in self._instances)
        if not self._closing:  # a newer load of the model may have the gauge by now
            self._metrics.ready.set(int(self._healthy))
        if self._useless:
            for request in list(self._queue):
                self._forget(request)
                _fail(request, InferenceFailed(OUT_OF_SERVICE))

    def _deliver(self, batch: Batch) -> None:
        """Hand out the answers of a batch: at once, or in the order in which batches began."""
        if self._limits.preserve_ordering:
            while self._running and self._running[0].answers is not None:
                self._hand_out(self._running.popleft())
        else:
            self._running.remove(batch)
            self._hand_out(batch)
        self._note_change()

    def _hand_out(self, batch: Batch) -> None:
        self._budget.give_back(sum(request.pictures.nbytes for request in batch.requests))
        for request, answer in zip(batch.requests, batch.answers or (), strict=True):
            if isinstance(answer, InferenceFailed):
                _fail(request, answer)
            elif not request.answer.done():
                request.answer.set_result(answer)


def _fail(request: PendingRequest, error: NyquistError) -> None:
    if not request.answer.done():
        request.answer.set_exception(error)
        request.answer.exception()  # or asyncio would log it where the caller leaves just now
