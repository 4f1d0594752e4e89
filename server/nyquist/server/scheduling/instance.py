"""One session of a model: the thread that calls it, and whether it can be relied on.

start -> run in the thread -> ended -> free for the next
      -> fails, or takes too long -> out of service -> probed, ever less often -> back in service

Everything but the runs and the probes happens on the event loop.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nyquist.server.scheduling.limits import BatchLimits
from nyquist.server.scheduling.request_queue import Outputs, PendingRequest
from nyquist.server.telemetry.metrics import ModelMetrics
from nyquist.server.wire.errors import InferenceFailed

Array = NDArray[Any]
Answer = Outputs | InferenceFailed

LAST_PROBE_S = 60.0
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


@dataclass(eq=False, slots=True)
class Batch:
    """Requests that run together, and their answers once they have."""

    requests: list[PendingRequest]
    answers: list[Answer] | None = None


class Owner(Protocol):
    """Who gives an instance its work, and is told on the event loop what became of it."""

    closing: bool
    """Whether all work ends; then nothing is probed any more."""

    def free(self, instance: "Instance") -> None:
        """Take note that the instance can take a batch."""

    def deliver(self, batch: Batch) -> None:
        """Hand out the answers of a batch."""

    def note_health(self) -> None:
        """Take note that an instance is out of service, or back in it."""


class Instance:
    """A session and the one thread that calls it.

    Args:
        runner: the session.
        limits: of its batches, and of how long it may run.
        metrics: of the model.
        owner: told of what it does.
        first_probe_s: until it is probed once it is out of service; twice that, and so on, after
            each probe that fails, up to a minute.

    Attributes:
        healthy: whether it is in service.
    """

    def __init__(
        self,
        runner: Runner,
        limits: BatchLimits,
        metrics: ModelMetrics,
        owner: Owner,
        first_probe_s: float,
    ) -> None:
        self._runner, self._limits, self._metrics, self._owner = runner, limits, metrics, owner
        self._first_probe_s = self._probe_s = first_probe_s
        self._loop = asyncio.get_running_loop()
        self._worker = _Worker()
        self._buffer: Array | None = None
        self._batch: Batch | None = None
        self._busy_since: float | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._next_probe: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.healthy = True

    def start(self, batch: Batch) -> None:
        """Run a batch in the thread; its answers are delivered to the owner."""
        self._begin(batch, partial(self._run, batch), partial(self._ended, batch))

    async def close(self, last_word_s: float) -> None:
        """Stop the thread; what it still does is a probe, or was given up.

        Args:
            last_word_s: that it gets to end, once it has been asked to.
        """
        if self._next_probe is not None:
            self._next_probe.cancel()  # or it would keep the session for up to a minute
        if not self._idle.is_set():
            self._runner.terminate()
            try:
                await asyncio.wait_for(self._idle.wait(), last_word_s)
            except TimeoutError:
                logger.error("an instance is left behind in a run that does not end")  # noqa: TRY400 - no error of ours
        if self._next_look is not None:
            self._next_look.cancel()
        self._worker.stop()
        if self._idle.is_set():
            await asyncio.to_thread(self._worker.join)

    def _begin(
        self, batch: Batch | None, work: Callable[[], Any], ended: Callable[[Any], None]
    ) -> None:
        """Let the thread do something, and the event loop heed what came of it.

        A look at it outlives many runs: a timer for each of them would cost more than the rest.
        """
        self._idle.clear()
        self._busy_since, self._batch = self._loop.time(), batch
        if self._next_look is None and self._limits.max_run_s:
            self._look_later(self._limits.max_run_s)
        self._worker.do(work, partial(self._tell, ended))

    def _tell(self, ended: Callable[[Any], None], outcome: Any) -> None:  # noqa: ANN401 - its own
        """Pass on what became of a thing, from the thread to the event loop."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._over, ended, outcome)

    def _over(self, ended: Callable[[Any], None], outcome: Any) -> None:  # noqa: ANN401 - its own
        self._busy_since = self._batch = None
        self._idle.set()
        ended(outcome)

    # Runs, in the thread.

    def _run(self, batch: Batch) -> list[Answer]:
        """Run requests together; one by one where they fail together and somebody still waits."""
        requests = batch.requests
        try:
            return self._run_together(requests)
        except Exception as error:
            logger.exception("a batch of %d requests failed", len(requests))
            if len(requests) == 1:
                return [_failure(error)]
        return [self._run_alone(batch, request) for request in requests]

    def _run_alone(self, batch: Batch, request: PendingRequest) -> Answer:
        if batch.answers is not None:
            return InferenceFailed("given up: its caller has been told")
        try:
            (answer,) = self._run_together([request])
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this request's
            return _failure(error)
        return answer

    def _run_together(self, requests: list[PendingRequest]) -> list[Answer]:
        began = perf_counter()
        parts = [request.pictures for request in requests]
        pictures = self._merge(parts)
        gathered = perf_counter()
        outputs = self._runner.run(pictures)
        self._metrics.ran(requests, len(pictures), (began, gathered, perf_counter()))
        return _share_out(outputs, parts, len(pictures))

    def _merge(self, parts: list[Array]) -> Array:
        """Copy the parts into a buffer that is kept for it.

        A lone request is not copied, unless its pictures lie at an odd place in its bytes. Not by
        numpy: it would hand the GIL to the event loop, and wait for it again, at every part.
        """
        first = parts[0]
        if len(parts) == 1 and first.flags.aligned:
            return first
        if self._buffer is None or self._buffer.shape[1:] != first.shape[1:]:
            rows = self._limits.max_batch_size
            self._buffer = np.empty((rows, *first.shape[1:]), first.dtype)
        target, end = self._buffer.data.cast("B"), 0
        for part in parts:
            start, end = end, end + part.nbytes
            target[start:end] = part.data.cast("B")
        return self._buffer[: sum(map(len, parts))]

    # What comes of them, on the event loop.

    def _ended(self, batch: Batch, outcome: list[Answer] | BaseException) -> None:
        if batch.answers is not None:
            logger.warning("the run that was given up has ended")
            self._probe()
            return
        if isinstance(outcome, BaseException):
            batch.answers = [_failure(outcome) for _ in batch.requests]
            self._take_out(outcome)
        else:
            batch.answers = outcome
            failed = all(isinstance(answer, InferenceFailed) for answer in outcome)
            if failed and not self._owner.closing:
                self._probe()
            else:
                self._owner.free(self)
        self._owner.deliver(batch)

    def _look_later(self, delay_s: float) -> None:
        self._next_look = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        """Give up a run that takes too long; else look again when it would."""
        self._next_look = None
        if self._busy_since is None:
            return
        left_s = self._busy_since + self._limits.max_run_s - self._loop.time()
        if left_s > 0:
            self._look_later(left_s)
        else:
            self._give_up(self._batch)

    def _give_up(self, batch: Batch | None) -> None:
        """Ask the run to end, leave the service until it has, and tell the callers.

        Their pictures are not counted any more, though the run may still hold them.
        """
        limit_s = self._limits.max_run_s
        logger.error("a run takes longer than %g s: given up, the model is not ready", limit_s)
        self.healthy = False
        if batch is not None:  # before the run is told to end: it must not begin again, one by one
            reason = f"the model took longer than {limit_s:g} s on this batch"
            batch.answers = [InferenceFailed(reason) for _ in batch.requests]
        self._runner.terminate()
        self._owner.note_health()
        if batch is not None:
            self._owner.deliver(batch)

    def _probe(self) -> None:
        if not self._owner.closing:
            self._begin(None, self._runner.probe, self._probed)

    def _probed(self, outcome: BaseException | None) -> None:
        if outcome is not None:
            self._take_out(outcome)
            return
        if not self.healthy:
            logger.warning("an instance is back in service: its probe succeeded")
        self.healthy, self._probe_s = True, self._first_probe_s
        self._owner.note_health()
        self._owner.free(self)

    def _take_out(self, error: BaseException) -> None:
        """Leave the service until a probe succeeds."""
        logger.error("an instance is out of service, the model not ready: %r", error)
        self.healthy = False
        self._next_probe = self._loop.call_later(self._probe_s, self._probe)
        self._probe_s = min(2 * self._probe_s, LAST_PROBE_S)
        self._owner.note_health()


class _Worker:
    """A thread that does one thing after another, and says what came of each.

    ThreadPoolExecutor does the same for twice the time, which a lone request waits for.
    """

    def __init__(self) -> None:
        self._todo: SimpleQueue[tuple[Callable[[], Any], Callable[[Any], None]] | None]
        self._todo = SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=THREAD_NAME, daemon=True)
        self._thread.start()
        self.join = self._thread.join

    def do(self, work: Callable[[], Any], tell: Callable[[Any], None]) -> None:
        """Call `work` in the thread, then `tell` with what it returned or raised."""
        self._todo.put((work, tell))

    def stop(self) -> None:
        """Let the thread end after what it does."""
        self._todo.put(None)

    def _work(self) -> None:
        while (task := self._todo.get()) is not None:
            _do(*task)
            del task  # or it would keep a batch until the next


def _do(work: Callable[[], Any], tell: Callable[[Any], None]) -> None:
    try:
        outcome = work()
    except BaseException as error:  # noqa: BLE001 - whoever waits for it has to know
        outcome = error
    tell(outcome)


def runs_left_behind() -> bool:
    """Say whether a thread of a closed instance is still in a run."""
    return any(thread.name == THREAD_NAME for thread in threading.enumerate())


def _failure(error: BaseException) -> InferenceFailed:
    """Return an error for one caller, without detail that is not meant for it."""
    failure = InferenceFailed("the model failed on this batch")
    failure.__cause__ = error
    return failure


def _share_out(outputs: Outputs, parts: list[Array], rows: int) -> list[Answer]:
    """Cut each output, (rows, ...), into the rows of each part."""
    answers: list[Outputs] = [{} for _ in parts]
    for name, output in outputs.items():
        if len(output) != rows:
            raise InferenceFailed(f"{name} has {len(output)} rows for {rows} pictures")
        start = 0
        for answer, part in zip(answers, parts, strict=True):
            stop = start + len(part)
            answer[name] = output[start:stop]
            start = stop
    return [*answers]
