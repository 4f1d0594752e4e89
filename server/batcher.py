"""Turn single requests into batches.

submit -> collect -> run -> deliver

While one batch runs in its thread, the next one gathers: no timer is needed to fill it. Requests
run in the order of their arrival; one that does not fit any more opens the next batch.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import DeadlinePassed, InferenceFailed, QueueFull, Stopping
from server.metrics import ModelMetrics

Array = NDArray[Any]
Outputs = dict[str, Array]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """How requests may be put together.

    Attributes:
        max_batch_size: pictures in one run.
        merge: whether requests share a run at all.
        max_queue_delay_s: how long the first request of a batch waits for company while an
            instance is free; 0 takes what is there.
        max_queue_size: requests that may wait; one more is refused.
    """

    max_batch_size: int
    merge: bool = True
    max_queue_delay_s: float = 0.0
    max_queue_size: int = 1024


@dataclass(eq=False)
class _Ticket:
    pictures: Array
    answer: asyncio.Future[Outputs]
    arrived: float = field(default_factory=perf_counter)


class Batcher:
    """The one owner of a model's queue.

    Args:
        run: computes the outputs of a batch; called in a thread, never twice at a time.
        limits: of the batches and of the queue.
        metrics: of the model.
    """

    def __init__(
        self, run: Callable[[Array], Outputs], limits: BatchLimits, metrics: ModelMetrics
    ) -> None:
        self._run, self._limits, self._metrics = run, limits, metrics
        self._queue: deque[_Ticket] = deque()
        self._changed = asyncio.Event()
        self._closing = False
        self._buffer: Array | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="infer")
        self._worker = asyncio.create_task(self._work())

    @property
    def alive(self) -> bool:
        """Whether requests are taken and will be answered."""
        return not self._closing and not self._worker.done()

    async def submit(self, pictures: Array, deadline: float | None) -> Outputs:
        """Wait for the outputs of these pictures. (B, ...) -> {name: (B, ...)}.

        A caller that is cancelled leaves the queue at once, and its neighbours alone.

        Args:
            pictures: checked already; at most max_batch_size of them.
            deadline: on the clock of the event loop; None waits for ever.

        Raises:
            QueueFull: max_queue_size requests wait.
            Stopping: the batcher is being closed.
            DeadlinePassed: it was not answered in time.
            InferenceFailed: the run failed.
        """
        if self._closing:
            raise Stopping("Server is stopping and has stopped accepting new inference requests")
        if self._worker.done():
            raise InferenceFailed("the model's worker has died; the model must be loaded again")
        if len(self._queue) >= self._limits.max_queue_size:
            raise QueueFull(f"Exceeds maximum queue size of {self._limits.max_queue_size}")
        ticket = _Ticket(pictures, asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._note_change()
        try:
            async with asyncio.timeout_at(deadline):
                return await ticket.answer
        except TimeoutError as error:
            raise DeadlinePassed("Request timeout expired") from error
        finally:
            if not ticket.answer.done() or ticket.answer.cancelled():
                self._forget(ticket)

    async def close(self) -> None:
        """Refuse new requests, answer those that wait, stop the thread."""
        self._closing = True
        self._note_change()
        await self._worker
        self._thread.shutdown()

    def _note_change(self) -> None:
        self._metrics.queue_depth.set(len(self._queue))
        self._changed.set()

    def _forget(self, ticket: _Ticket) -> None:
        if ticket in self._queue:
            self._queue.remove(ticket)
            self._note_change()

    async def _work(self) -> None:
        try:
            while batch := await self._collect():
                await self._answer(batch)
        finally:
            for ticket in self._queue:
                if not ticket.answer.done():
                    ticket.answer.set_exception(InferenceFailed("the model's worker has died"))

    async def _collect(self) -> list[_Ticket]:
        """Return the next batch; an empty one once the batcher is closed and drained."""
        while True:
            while not self._queue:
                if self._closing:
                    return []
                self._changed.clear()
                await self._changed.wait()
            if self._limits.max_queue_delay_s:
                await self._wait_for_company()
            if batch := self._take():
                return batch

    async def _wait_for_company(self) -> None:
        loop = asyncio.get_running_loop()
        age = perf_counter() - self._queue[0].arrived
        try:
            async with asyncio.timeout_at(loop.time() + self._limits.max_queue_delay_s - age):
                while not self._closing and self._waiting_pictures() < self._limits.max_batch_size:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass  # the delay is over: what has come by now is the batch

    def _waiting_pictures(self) -> int:
        return sum(len(ticket.pictures) for ticket in self._queue)

    def _take(self) -> list[_Ticket]:
        batch: list[_Ticket] = []
        room = self._limits.max_batch_size
        while self._queue and len(self._queue[0].pictures) <= room:
            ticket = self._queue.popleft()
            self._metrics.waited(perf_counter() - ticket.arrived)
            batch.append(ticket)
            room -= len(ticket.pictures)
            if not self._limits.merge:
                break
        self._note_change()
        return batch

    async def _answer(self, batch: list[_Ticket]) -> None:
        loop = asyncio.get_running_loop()
        try:
            outputs = await loop.run_in_executor(self._thread, self._run_batch, batch)
        except Exception as error:
            if not isinstance(error, InferenceFailed):
                logger.exception("a batch failed")
                error = InferenceFailed("the model failed on this batch")
            for ticket in batch:
                if not ticket.answer.done():
                    ticket.answer.set_exception(error)
            return
        start = 0
        for ticket in batch:
            stop = start + len(ticket.pictures)
            if not ticket.answer.done():
                part = {name: output[start:stop] for name, output in outputs.items()}
                ticket.answer.set_result(part)
            start = stop

    def _run_batch(self, batch: list[_Ticket]) -> Outputs:
        """Merge and run, in the thread."""
        began = perf_counter()
        pictures = self._merge([ticket.pictures for ticket in batch])
        merged = perf_counter()
        outputs = self._run(pictures)
        self._metrics.ran(len(batch), len(pictures), merged - began, perf_counter() - merged)
        return outputs

    def _merge(self, parts: list[Array]) -> Array:
        """Copy the parts into the one buffer of the model; a lone request is not copied."""
        if len(parts) == 1:
            return parts[0]
        if self._buffer is None:
            shape = (self._limits.max_batch_size, *parts[0].shape[1:])
            self._buffer = np.empty(shape, parts[0].dtype)
        rows = sum(map(len, parts))
        return np.concatenate(parts, out=self._buffer[:rows])
