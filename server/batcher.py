"""Turn single requests into batches, and share them out to the instances of a model.

submit -> waiting room -> a free instance -> run in its thread -> deliver

Everything but the runs happens on the event loop, and there a short run happens too. While batches
run the next one gathers: no timer is needed to fill it. Now and then each instance is looked at,
and given up if it is stuck.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from math import inf
from time import monotonic, perf_counter
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from server.deadlines import Deadlines
from server.errors import DeadlinePassed, InferenceFailed, NyquistError, QueueTimeout, Stopping
from server.metrics import ModelMetrics
from server.queue_budget import QueueBudget
from server.waiting_room import BatchLimits, Outputs, Ticket, WaitingRoom

Array = NDArray[Any]
Answer = Outputs | InferenceFailed
Result = TypeVar("Result")

LAST_PROBE_S = 60.0
HOP_S = 0.0001
"""What handing work to another thread and back takes: a run as short is no longer where it is."""
TURN_S = 0.001
"""What a run on the event loop may take: for so long nobody's health is answered."""
OUT_OF_SERVICE = "the model is out of service: it does not answer an input that is known to be good"
THREAD_NAME = "infer"

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What computes: a session, say. Called in one thread, never twice at a time."""

    def run(self, batch: Array) -> Outputs:
        """Compute the outputs of a batch. (B, ...) -> {name: (B, ...)}."""
        ...

    def probe(self) -> None:
        """Run an input that is known to be good, also after `terminate`; raise if that fails."""
        ...

    def terminate(self) -> None:
        """Ask the run in progress to end, from another thread, and let none begin until `probe`."""
        ...


@dataclass(frozen=True)
class Wishes:
    """What a caller may say about its place in the queue.

    Attributes:
        deadline: when the answer is of no use any more, on the clock of the event loop.
        priority: its level, 1 the highest; 0 is the model's default.
        timeout_s: how long it will wait, where the model's queue policy heeds that; 0: no wish.
    """

    deadline: float | None = None
    priority: int = 0
    timeout_s: float = 0.0


NO_WISHES = Wishes()


@dataclass(eq=False)
class _Batch:
    """Tickets that run together, and their answers once they have."""

    tickets: list[Ticket]
    answers: list[Answer] | None = None


@dataclass(eq=False)
class _Instance:
    """A session and the one thread that calls it."""

    runner: Runner
    thread: ThreadPoolExecutor
    probe_s: float
    sound: bool = True
    job: "Future[Any] | None" = None
    batch: _Batch | None = None
    busy_since: float | None = None
    next_look: asyncio.TimerHandle | None = None
    next_probe: asyncio.TimerHandle | None = None
    buffer: Array | None = field(default=None, repr=False)

    def merge(self, parts: list[Array], rows: int) -> Array:
        """Copy the parts into the instance's buffer of `rows`.

        A lone request is not copied, unless its pictures lie at an odd place in its bytes.
        """
        if len(parts) == 1 and parts[0].flags.aligned:
            return parts[0]
        if self.buffer is None or self.buffer.shape[1:] != parts[0].shape[1:]:
            self.buffer = np.empty((rows, *parts[0].shape[1:]), parts[0].dtype)
        return np.concatenate(parts, out=self.buffer[: sum(map(len, parts))])


class Batcher:
    """The one owner of a model's queue and of the threads that run it.

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
        first_probe_s: until an instance out of service is probed again; twice that, and so on,
            after each probe that fails, up to a minute.
        picture_s: that the model takes for one picture.
        last_word_s: for what is still in a thread at the end, once it has been asked to end.
    """

    def __init__(
        self,
        runners: Sequence[Runner],
        limits: BatchLimits,
        metrics: ModelMetrics,
        budget: QueueBudget,
        first_probe_s: float = 1.0,
        last_word_s: float = 5.0,
        picture_s: float = inf,
    ) -> None:
        self._limits, self._metrics, self._budget = limits, metrics, budget
        self._first_probe_s, self._last_word_s = first_probe_s, last_word_s
        self._picture_s = picture_s
        self._loop = asyncio.get_running_loop()
        self._room = WaitingRoom(limits)
        self._deadlines = Deadlines(self._give_up)
        self._running: deque[_Batch] = deque()
        self._instances = [
            _Instance(runner, ThreadPoolExecutor(1, f"{THREAD_NAME}-{number}"), first_probe_s)
            for number, runner in enumerate(runners)
        ]
        self._idle = list(self._instances)
        self._dispatch_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._empty = asyncio.Event()
        self._show_readiness()

    @property
    def alive(self) -> bool:
        """Whether requests are taken and every instance answers."""
        return not self._closing and all(instance.sound for instance in self._instances)

    async def submit(self, pictures: Array, wishes: Wishes = NO_WISHES) -> Outputs:
        """Wait for the outputs of these pictures. (B, ...) -> {name: (B, ...)}.

        A caller that is cancelled leaves the queue at once, and its neighbours alone.

        Args:
            pictures: checked already; at most max_batch_size of them.
            wishes: of the caller.

        Raises:
            QueueFull: as many requests wait, or bytes are held, as may.
            QueueTimeout: it waited longer than its queue policy allows.
            Stopping: the batcher is being closed.
            DeadlinePassed: it was not answered in time.
            InferenceFailed: the run failed or took too long, or no instance is in service.
        """
        self._check_open()
        level = self._limits.level_of(wishes.priority)
        ticket = Ticket(pictures, self._loop.create_future(), level)
        self._budget.take(pictures.nbytes)
        try:
            self._room.admit(ticket)
        except NyquistError:
            self._budget.give_back(pictures.nbytes)
            raise
        self._note_change()
        timer = self._timer_of(ticket, wishes)
        if wishes.deadline is not None:
            self._deadlines.watch(ticket, wishes.deadline)
        try:
            return await ticket.answer
        finally:
            if timer is not None:
                timer.cancel()
            self._deadlines.forget(ticket, None)
            self._forget(ticket)

    async def close(self) -> None:
        """Refuse new requests, answer those that wait, stop the threads."""
        self._closing = True
        self._metrics.ready.set(0)
        self._note_change()
        if self._room or self._running:
            await self._empty.wait()
        self._deadlines.close()
        for instance in self._instances:
            if instance.next_probe is not None:
                instance.next_probe.cancel()  # or it would keep the session for up to a minute
            await self._end(instance)

    async def _end(self, instance: _Instance) -> None:
        """Stop the thread of an instance; what it still does is a probe, or was given up."""
        job = instance.job
        if job is not None and not job.done():
            instance.runner.terminate()
            await asyncio.wait((asyncio.wrap_future(job),), timeout=self._last_word_s)
        returned = job is None or job.done()
        if not returned:
            logger.error("an instance is left behind in a run that does not end, with its memory")
        if instance.next_look is not None:
            instance.next_look.cancel()
        await asyncio.to_thread(instance.thread.shutdown, wait=returned)

    def _check_open(self) -> None:
        if self._closing:
            raise Stopping("Server is stopping and has stopped accepting new inference requests")
        if not any(instance.sound for instance in self._instances):
            raise InferenceFailed(OUT_OF_SERVICE)

    def _timer_of(self, ticket: Ticket, wishes: Wishes) -> asyncio.TimerHandle | None:
        """Set the timer that the queue policy of a ticket asks for, if any."""
        policy = self._limits.levels[ticket.level - 1]
        timeout_s = policy.timeout_of(wishes.timeout_s)
        if not timeout_s:
            return None
        heed = self._room.postpone if policy.delay else self._reject
        return self._loop.call_later(timeout_s, heed, ticket)

    def _reject(self, ticket: Ticket) -> None:
        if self._forget(ticket):
            _fail(ticket, QueueTimeout("Request timeout expired"))

    def _give_up(self, ticket: Ticket) -> None:
        self._forget(ticket)
        _fail(ticket, DeadlinePassed("Request timeout expired"))

    def _forget(self, ticket: Ticket) -> bool:
        """Take a ticket out of the waiting room; say whether it still was there."""
        if not self._room.remove(ticket):
            return False
        self._budget.give_back(ticket.pictures.nbytes)
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
        while self._idle and self._room:
            now = monotonic()
            tickets, due = self._room.next_batch(float("inf") if self._closing else now)
            if not tickets:
                self._timer = self._loop.call_at(due, self._dispatch)
                break
            if self._runs_here(tickets):
                self._run_here(self._idle.pop(), tickets)
                break  # others have their turn before the next
            self._start(self._idle.pop(), tickets)
        self._metrics.queue_depth.set(len(self._room))
        if self._closing and not self._room and not self._running:
            self._empty.set()

    def _runs_here(self, tickets: list[Ticket]) -> bool:
        """Say whether a batch runs on the event loop: a thread would take longer, or nobody waits.

        Where others wait, the thread is better: they are read and answered while it computes.
        """
        run_s = self._picture_s * sum(len(ticket.pictures) for ticket in tickets)
        alone = len(tickets) == len(self._room) == 1 and not self._running
        return run_s <= HOP_S or (alone and run_s <= TURN_S)

    def _run_here(self, instance: _Instance, tickets: list[Ticket]) -> None:
        batch = self._take(tickets)
        outcome: list[Answer] | BaseException
        try:
            outcome = self._run(instance, tickets)
        except BaseException as error:  # noqa: BLE001 - as the thread that it stands for
            outcome = error
        self._finish(instance, batch, outcome)

    def _start(self, instance: _Instance, tickets: list[Ticket]) -> None:
        batch = self._take(tickets)
        run = instance.job = _submit(instance.thread, partial(self._run, instance, tickets))
        self._note_start(instance, batch)
        run.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(
                self._finish, instance, batch, done.exception() or done.result()
            )
        )

    def _take(self, tickets: list[Ticket]) -> _Batch:
        """Take tickets out of the waiting room, to run together."""
        now = monotonic()
        for ticket in tickets:
            self._room.remove(ticket)
            self._metrics.waited(now - ticket.arrived)
        batch = _Batch(tickets)
        self._running.append(batch)
        return batch

    def _run(self, instance: _Instance, tickets: list[Ticket]) -> list[Answer]:
        """Run in the instance's thread; one by one where it fails together."""
        try:
            return self._run_together(instance, tickets)
        except Exception as error:
            logger.exception("a batch of %d requests failed", len(tickets))
            if len(tickets) == 1:
                return [_failure(error)]
        return [self._run_alone(instance, ticket) for ticket in tickets]

    def _run_alone(self, instance: _Instance, ticket: Ticket) -> Answer:
        try:
            (answer,) = self._run_together(instance, [ticket])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's
            return _failure(error)
        return answer

    def _run_together(self, instance: _Instance, tickets: list[Ticket]) -> list[Answer]:
        began = perf_counter()
        parts = [ticket.pictures for ticket in tickets]
        pictures = instance.merge(parts, self._limits.max_batch_size)
        merged = perf_counter()
        outputs = instance.runner.run(pictures)
        ended = perf_counter()
        self._metrics.ran(len(tickets), len(pictures), merged - began, ended - merged)
        traces = ((ticket.spans, ticket.arrived) for ticket in tickets)
        self._metrics.traced(traces, len(pictures), (began, merged, ended))
        return _share_out(outputs, parts)

    def _finish(
        self, instance: _Instance, batch: _Batch, outcome: list[Answer] | BaseException
    ) -> None:
        """Deliver what a run gave, and find the instance its next work."""
        instance.busy_since = instance.batch = None
        if batch.answers is not None:
            logger.warning("the run that was given up has ended")
            self._probe(instance)
            return
        if isinstance(outcome, BaseException):
            batch.answers = [_failure(outcome) for _ in batch.tickets]
            self._take_out(instance, outcome)
        else:
            batch.answers = outcome
            failed = all(isinstance(answer, InferenceFailed) for answer in outcome)
            if failed and not self._closing:
                self._probe(instance)
            else:
                self._idle.append(instance)
        self._deliver(batch)
        self._note_change()

    def _note_start(self, instance: _Instance, batch: _Batch | None = None) -> None:
        """Note what an instance does from now on: a batch, or a probe.

        A look at it outlives many runs: a timer for each of them would cost more than the rest.
        """
        instance.busy_since, instance.batch = self._loop.time(), batch
        if instance.next_look is None and self._limits.max_run_s:
            self._look_later(instance, self._limits.max_run_s)

    def _look_later(self, instance: _Instance, delay_s: float) -> None:
        instance.next_look = self._loop.call_later(delay_s, self._look, instance)

    def _look(self, instance: _Instance) -> None:
        """Give up on an instance whose run takes too long; else look again when it would."""
        instance.next_look = None
        if instance.busy_since is None:
            return
        left_s = instance.busy_since + self._limits.max_run_s - self._loop.time()
        if left_s > 0:
            self._look_later(instance, left_s)
        else:
            self._give_up_on(instance, instance.batch)

    def _give_up_on(self, instance: _Instance, batch: _Batch | None) -> None:
        """Ask a run to end, take its instance out until it has, and tell its callers.

        Their pictures are not counted any more, though the run may still hold them.
        """
        limit_s = self._limits.max_run_s
        logger.error("a run takes longer than %g s: given up, the model is not ready", limit_s)
        instance.sound = False
        instance.runner.terminate()
        self._note_loss()
        if batch is not None:
            reason = f"the model took longer than {limit_s:g} s on this batch"
            batch.answers = [InferenceFailed(reason) for _ in batch.tickets]
            self._deliver(batch)
            self._note_change()

    def _deliver(self, batch: _Batch) -> None:
        if not self._limits.preserve_ordering:
            self._running.remove(batch)
            self._hand_out(batch)
            return
        while self._running and self._running[0].answers is not None:
            self._hand_out(self._running.popleft())

    def _hand_out(self, batch: _Batch) -> None:
        for ticket, answer in zip(batch.tickets, batch.answers or (), strict=True):
            self._budget.give_back(ticket.pictures.nbytes)
            if isinstance(answer, InferenceFailed):
                _fail(ticket, answer)
            elif not ticket.answer.done():
                ticket.answer.set_result(answer)

    def _probe(self, instance: _Instance) -> None:
        if self._closing:
            return
        probe = instance.job = _submit(instance.thread, instance.runner.probe)
        self._note_start(instance)
        probe.add_done_callback(
            lambda done: self._loop.call_soon_threadsafe(self._heed_probe, instance, done)
        )

    def _heed_probe(self, instance: _Instance, probe: "Future[None]") -> None:
        instance.busy_since = instance.batch = None
        error = probe.exception()
        if error is not None:
            self._take_out(instance, error)
            return
        if not instance.sound:
            logger.warning("an instance is back in service: its probe succeeded")
        instance.sound, instance.probe_s = True, self._first_probe_s
        self._show_readiness()
        self._idle.append(instance)
        self._note_change()

    def _show_readiness(self) -> None:
        if not self._closing:  # a newer load of the model may have the gauge by now
            self._metrics.ready.set(int(self.alive))

    def _take_out(self, instance: _Instance, error: BaseException) -> None:
        """Take an instance out of service and probe it again later, ever less often."""
        logger.error("an instance is out of service, the model not ready: %r", error)
        instance.sound = False
        instance.next_probe = self._loop.call_later(instance.probe_s, self._probe, instance)
        instance.probe_s = min(2 * instance.probe_s, LAST_PROBE_S)
        self._note_loss()

    def _note_loss(self) -> None:
        """Show that an instance is out of service; without any, nobody need wait."""
        self._show_readiness()
        if not any(other.sound for other in self._instances):
            for ticket in list(self._room):
                self._forget(ticket)
                _fail(ticket, InferenceFailed(OUT_OF_SERVICE))


def runs_left_behind() -> bool:
    """Say whether a thread of a closed batcher is still in a run; Python would wait for it."""
    return any(thread.name.startswith(THREAD_NAME) for thread in threading.enumerate())


def _submit(thread: ThreadPoolExecutor, work: Callable[[], Result]) -> "Future[Result]":
    """Hand work to a thread; where it cannot be started, the future says so."""
    try:
        return thread.submit(work)
    except RuntimeError as error:
        refused: Future[Result] = Future()
        refused.set_exception(error)
        return refused


def _failure(error: BaseException) -> InferenceFailed:
    """Return an error for one caller, without detail that is not meant for it."""
    failure = InferenceFailed("the model failed on this batch")
    failure.__cause__ = error
    return failure


def _fail(ticket: Ticket, error: NyquistError) -> None:
    if not ticket.answer.done():
        ticket.answer.set_exception(error)
        ticket.answer.exception()  # or asyncio would log it where the caller leaves just now


def _share_out(outputs: Outputs, parts: list[Array]) -> list[Answer]:
    """Cut each output, (B, ...), into the rows of each part."""
    rows = sum(map(len, parts))
    for name, output in outputs.items():
        if len(output) != rows:
            raise InferenceFailed(f"{name} has {len(output)} rows for {rows} pictures")
    answers: list[Answer] = []
    start = 0
    for part in parts:
        stop = start + len(part)
        answers.append({name: output[start:stop] for name, output in outputs.items()})
        start = stop
    return answers
