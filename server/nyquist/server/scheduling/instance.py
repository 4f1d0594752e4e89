"""One session of a model: the thread that calls it, and whether it can be relied on.

run -> in the thread -> an answer for each request
    -> takes too long -> told to end, out of service
probe -> in the thread -> in service, or out of it

Everything but the runs and the probes happens on the event loop.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from time import perf_counter
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nyquist.server.scheduling.limits import BatchLimits
from nyquist.server.scheduling.request_queue import Outputs, PendingRequest, Pictures
from nyquist.server.telemetry.metrics import ModelMetrics
from nyquist.server.wire.errors import InferenceFailed
from nyquist.server.wire.feeds import Feeds, merged

Array = NDArray[Any]
Answer = Outputs | InferenceFailed

THREAD_NAME = "infer"

logger = logging.getLogger(__name__)


class Runner(Protocol):
    """What computes: a session, say. Called in one thread, never twice at a time."""

    def run(self, batch: Any) -> Outputs:  # noqa: ANN401 - Pictures of the kind that it takes
        """Compute the outputs of a batch. (B, ...) -> {name: (B, ...)}."""
        ...

    def probe(self) -> None:
        """Run an input that is known to be good, also after `terminate`; raise if that fails."""
        ...

    def terminate(self) -> None:
        """Ask the run in progress to end, from another thread, and let none begin until `probe`."""
        ...


class Instance:
    """A session and the one thread that calls it.

    Args:
        runner: the session.
        limits: of its batches, and of how long it may run.
        metrics: of the model.

    Attributes:
        healthy: whether it is in service. Only `probe` brings it back.
    """

    def __init__(self, runner: Runner, limits: BatchLimits, metrics: ModelMetrics) -> None:
        self._runner, self._limits, self._metrics = runner, limits, metrics
        self._loop = asyncio.get_running_loop()
        self._worker = _Worker()
        self._buffer: Array | None = None
        self._result: Any = None
        self._busy_since: float | None = None
        self._next_look: asyncio.TimerHandle | None = None
        self._ended: asyncio.Future[None] | None = None
        self._requests: Sequence[PendingRequest] = ()
        self._given_up = False
        self.healthy = True

    def run(self, requests: list[PendingRequest]) -> "asyncio.Future[list[Answer]]":
        """Run requests together in the thread, which has nothing else to do.

        Returns:
            The answer of each, or the error of each that gets none; it never raises. Where the run
            takes longer than it may, they are there before the thread has ended it.
        """
        return self._begin(partial(self._run, requests), requests)

    async def probe(self) -> bool:
        """Once the thread is free, see whether an input that is known to be good is answered.

        Returns:
            `healthy`, as it is now.
        """
        await self._end()
        self._given_up = False
        error = await asyncio.shield(self._begin(self._runner.probe))
        if error is not None:
            logger.error("an instance is out of service, the model not ready: %r", error)
        elif not self.healthy:
            logger.warning("an instance is back in service: its probe succeeded")
        self.healthy = error is None
        return self.healthy

    async def close(self, last_word_s: float) -> None:
        """Stop the thread; what it still does is a probe, or was given up.

        Args:
            last_word_s: that it gets to end, once it has been asked to.
        """
        if self._busy_since is not None:
            self._runner.terminate()
            try:
                await asyncio.wait_for(self._end(), last_word_s)
            except TimeoutError:
                logger.error("an instance is left behind in a run that does not end")  # noqa: TRY400 - no error of ours
        if self._next_look is not None:
            self._next_look.cancel()
        self._worker.stop()
        if self._busy_since is None:
            await asyncio.to_thread(self._worker.join)

    async def _end(self) -> None:
        """Wait until the thread has nothing to do."""
        if self._busy_since is not None:
            self._ended = self._loop.create_future()
            await self._ended

    def _begin(
        self, work: Callable[[], Any], requests: Sequence[PendingRequest] = ()
    ) -> "asyncio.Future[Any]":
        """Let the thread do something.

        A look at it outlives many runs: a timer for each of them would cost more than the rest.

        Returns:
            What the work returned or raised, either as a value.
        """
        result: asyncio.Future[Any] = self._loop.create_future()
        self._requests, self._result, self._busy_since = requests, result, self._loop.time()
        if self._next_look is None and self._limits.max_run_s:
            self._look_later(self._limits.max_run_s)
        self._worker.do(work, self._tell)
        return result

    def _tell(self, outcome: Any) -> None:  # noqa: ANN401 - what the work returned, or raised
        """Pass on what became of the work, from the thread to the event loop."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._over, outcome)

    def _over(self, outcome: Any) -> None:  # noqa: ANN401 - as above
        self._busy_since = None
        if self._given_up:
            logger.warning("the run that was given up has ended")
        else:
            self._settle(outcome)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    def _settle(self, outcome: Any) -> None:  # noqa: ANN401 - as above
        """Hand out the result; who raised, or is given up, is out of service."""
        requests, self._requests = self._requests, ()
        if isinstance(outcome, BaseException):
            self.healthy = False
            outcome = failures(requests, outcome) if requests else outcome
        result, self._result = self._result, None
        result.set_result(outcome)

    def _look_later(self, delay_s: float) -> None:
        self._next_look = self._loop.call_later(delay_s, self._look)

    def _look(self) -> None:
        """Give up what takes too long; else look again when it would."""
        self._next_look = None
        if self._busy_since is None:
            return
        left_s = self._busy_since + self._limits.max_run_s - self._loop.time()
        if left_s > 0:
            self._look_later(left_s)
        elif not self._given_up:
            self._give_up()

    def _give_up(self) -> None:
        """Ask the thread to end what it does, and tell who waits for it."""
        limit_s = self._limits.max_run_s
        logger.error("a run takes longer than %g s: given up, the model is not ready", limit_s)
        self._given_up = True
        self._runner.terminate()
        self._settle(_GivenUp(f"the model took longer than {limit_s:g} s on this batch"))

    # Runs, in the thread.

    def _run(self, requests: list[PendingRequest]) -> list[Answer]:
        """Run requests together; one by one where they fail together, if they still may run."""
        try:
            return self._run_together(requests)
        except Exception as error:
            logger.exception("a batch of %d requests failed", len(requests))
            if len(requests) == 1 or self._given_up:
                return failures(requests, error)
        return [self._run_alone(request) for request in requests]

    def _run_alone(self, request: PendingRequest) -> Answer:
        if self._given_up:
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
        if not self._limits.merge:  # a model without a batch has outputs of any length
            return [outputs]
        return _share_out(outputs, parts, len(pictures))

    def _merge(self, parts: list[Pictures]) -> Pictures:
        """Copy the parts into a buffer that is kept for it.

        A lone request is not copied, unless its pictures lie at an odd place in its bytes. Not by
        numpy: it would hand the GIL to the event loop, and wait for it again, at every part.
        """
        first: Any = parts[0]
        if isinstance(first, Feeds):
            return merged([part for part in parts if isinstance(part, Feeds)])
        if len(parts) == 1 and first.flags.aligned:
            return first
        if self._buffer is None or self._buffer.shape[1:] != first.shape[1:]:
            rows = self._limits.max_batch_size
            self._buffer = np.empty((rows, *first.shape[1:]), first.dtype)
        target, end = self._buffer.data.cast("B"), 0
        arrays: list[Any] = parts  # like the first, they are no Feeds
        for part in arrays:
            start, end = end, end + part.nbytes
            target[start:end] = part.data.cast("B")
        return self._buffer[: sum(map(len, parts))]


class _GivenUp(Exception):
    """A run took longer than it may; its text is for the callers."""


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


def failures(requests: Sequence[PendingRequest], error: BaseException) -> list[Answer]:
    """Return an error for each caller, without detail that is not meant for it."""
    return [_failure(error) for _ in requests]


def _failure(error: BaseException) -> InferenceFailed:
    if isinstance(error, _GivenUp):
        return InferenceFailed(str(error))
    failure = InferenceFailed("the model failed on this batch")
    failure.__cause__ = error
    return failure


def _share_out(outputs: Outputs, parts: list[Pictures], rows: int) -> list[Answer]:
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
