"""The process that starts the workers, and starts another for one that dies.

listening socket -> workers, one after the other -> ready ... a signal -> all of them drain -> end

It answers no request itself: it passes on what all workers must hear, and adds up their metrics.
"""

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.context import SpawnProcess
from typing import Any

from google.protobuf.message import Message
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from nyquist.server.front.http_listener import open_socket
from nyquist.server.front.lifecycle import stop_signal
from nyquist.server.sources.fetching import Sources
from nyquist.server.telemetry import names
from nyquist.server.telemetry.listener import metrics_address, metrics_listener
from nyquist.server.wire.errors import LoadFailed, NyquistError, StartError
from nyquist.server.wire.listening import address, bound_port, remove_file
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.workers.channel import Channel
from nyquist.server.workers.fleet import ALIVE, CHANGES, METRICS
from nyquist.server.workers.journal import Journal
from nyquist.server.workers.merging import (
    lacking,
    merged_metrics,
    models_of,
    of_models,
    what_stays,
)

logger = logging.getLogger(__name__)

SCRAPE_S = 5.0
PAUSE_S = 1.0
MOST_PAUSE_S = 30.0
SILENCE_S = 30.0
LOOKS = 10
"""In which that time is counted, so that a stop of the supervisor itself is none of a worker's."""

Work = Callable[[socket.socket, socket.socket, int], None]
"""What a worker does: with the listening socket, its end of the channel, and its number."""


@dataclass(eq=False)
class _Worker:
    """One process, from its start to its end."""

    number: int
    process: SpawnProcess
    channel: Channel
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    member: asyncio.Event = field(default_factory=asyncio.Event)
    readiness: dict[str, bool] = field(default_factory=lambda: {"": False})
    waiting: dict[int, asyncio.Future[Any]] = field(default_factory=dict)
    failure: str = ""
    scrape: list[Metric] = field(default_factory=list)


class Supervisor(Collector):
    """Runs workers until it is told to stop.

    Args:
        work: of one worker; what spawned processes can import.
        count: of workers.
        address: to listen on; of the metrics likewise. Port 0 lets the system choose.
        metrics_address: likewise.
        silence_s: for which a worker may say nothing before it is ended, and another starts.

    Attributes:
        registry: of what it counts itself.
    """

    def __init__(
        self,
        work: Work,
        count: int,
        address: tuple[str, int],
        metrics_address: tuple[str, int],
        silence_s: float = SILENCE_S,
    ) -> None:
        self._work, self._count, self._silence_s = work, count, silence_s
        self._address, self._metrics_address = address, metrics_address
        self._workers: dict[int, _Worker] = {}
        self._journal = Journal()
        self._changing = asyncio.Lock()
        self._asked = 0
        self._stopping = False
        self._past: list[Metric] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        own = self.registry = CollectorRegistry()
        Gauge(names.WORKERS, "Processes that serve.", registry=own).set_function(self._serving)
        self._deaths = Counter(
            names.WORKER_DEATHS, "Workers that ended without being asked to.", registry=own
        )
        self._sources: Sources | None = None

    async def run(
        self,
        sources: Sources | None = None,
        load: Sequence[str] | None = None,
        poll_s: float = 0.0,
    ) -> None:
        """Start the workers and keep them, until SIGTERM or SIGINT has ended them all.

        Args:
            sources: what the workers serve is fetched from there, once for all of them.
            load: names of models to fetch at the start; None is all.
            poll_s: seconds between looks at the sources; 0: they are looked at before loads.

        Raises:
            StartError: the port is taken, or a worker cannot start as it was asked to.
        """
        self._sources, self._polls = sources, poll_s > 0
        self._loop = asyncio.get_running_loop()
        stop = stop_signal(self._kill)
        async with AsyncExitStack() as stack:
            host, port = self._address
            stack.callback(remove_file, host)
            listening = stack.enter_context(open_socket(host, port))
            registry = CollectorRegistry()
            registry.register(self)
            metrics_port = await stack.enter_async_context(
                metrics_listener(registry, self._ready, *self._metrics_address)
            )
            if sources is not None:
                stack.callback(sources.close)
            try:
                starting = self._run(self._start(listening, load))
                both: set[asyncio.Future[Any]] = {starting, stop}
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                if starting.done():
                    starting.result()
                    logger.info(
                        "ready: %d workers, gRPC on %s, metrics on %s",
                        self._count,
                        address(host, bound_port(listening)),
                        metrics_address(self._metrics_address[0], metrics_port),
                    )
                    if sources is not None and poll_s:
                        self._run(sources.keep_fetching(poll_s))
                received = await stop
                starting.cancel()
            except BaseException:
                received = signal.SIGINT
                raise
            finally:
                await self._end(received)

    def describe(self) -> list[Metric]:
        """Name nothing beforehand: it depends on the workers."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all workers together; called in the listener's thread."""
        asking = asyncio.run_coroutine_threadsafe(self._scrape(), self._loop)
        yield from asking.result(2 * SCRAPE_S)
        yield from self.registry.collect()

    async def _scrape(self) -> list[Metric]:
        members = self._members()
        answers = await asyncio.gather(*(self._ask(one, METRICS, b"") for one in members))
        for worker, answer in zip(members, answers, strict=True):
            if answer is not None:
                worker.scrape = answer
        served = set().union(*(models_of(worker.scrape) for worker in members))
        self._past = of_models(self._past, served.__contains__)
        return merged_metrics([self._past, *(worker.scrape for worker in members)])

    def _ready(self) -> bool:
        return not (self._stopping or self._missing())

    def _serving(self) -> int:
        return len(self._members())

    def _members(self) -> list[_Worker]:
        return [one for one in self._workers.values() if one.member.is_set()]

    async def _start(self, listening: socket.socket, load: Sequence[str] | None) -> None:
        """Start the workers one by one: each tries out its models, which the next would disturb."""
        if self._sources is not None:
            await self._sources.start(load)
        for number in range(1, self._count + 1):
            worker = self._spawn(number, listening)
            if not await self._joined(worker):
                raise StartError(worker.failure or f"worker {number} ended before it was ready")
            self._run(self._keep(worker, listening))

    async def _joined(self, worker: _Worker) -> bool:
        either = {self._run(worker.member.wait()), self._run(worker.ended.wait())}
        _, pending = await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return worker.member.is_set() and not worker.ended.is_set()

    async def _keep(self, worker: _Worker, listening: socket.socket) -> None:
        """Start another each time that a worker ends, until the server stops."""
        pause_s = PAUSE_S
        while True:
            await worker.ended.wait()
            if self._stopping:
                return
            why = worker.failure or f"exit status {worker.process.exitcode}"
            logger.error("worker %d has ended: %s; another starts", worker.number, why)
            self._deaths.inc()
            if not worker.member.is_set():
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, MOST_PAUSE_S)
            self._past = merged_metrics([self._past, what_stays(worker.scrape)])
            worker = self._spawn(worker.number, listening)
            if await self._joined(worker):
                pause_s = PAUSE_S

    def _spawn(self, number: int, listening: socket.socket) -> _Worker:
        ours, theirs = socket.socketpair()
        process = multiprocessing.get_context("spawn").Process(
            target=self._work, args=(listening, theirs, number), name=f"worker {number}"
        )
        # Ctrl-C comes to it too until it has a group of its own, and it would say so at length.
        resource_tracker.ensure_running()  # whose start would let the signal through again
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        theirs.close()
        worker = self._workers[number] = _Worker(number, process, Channel(ours))
        self._tell_lacking()
        self._loop.add_reader(process.sentinel, self._ended, worker)
        self._run(self._listen(worker))
        return worker

    def _ended(self, worker: _Worker) -> None:
        self._loop.remove_reader(worker.process.sentinel)
        worker.process.join()
        worker.ended.set()
        worker.readiness = {"": False}
        worker.channel.close()
        for waiting in worker.waiting.values():
            if not waiting.done():
                waiting.set_result(None)
        self._tell_lacking()

    async def _listen(self, worker: _Worker) -> None:
        try:
            await worker.channel.open()
        except OSError:  # it has ended already
            return
        while (message := await worker.channel.receive()) is not None:
            kind, *rest = message
            if kind == "loaded":
                self._run(self._catch_up(worker))
            elif kind == "failed":
                (worker.failure,) = rest
            elif kind == "readiness":
                (worker.readiness,) = rest
                self._tell_lacking()
            elif kind == "ask":
                self._run(self._pass_on(worker, *rest))
            else:
                number, answer = rest
                waiting = worker.waiting.pop(number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)

    async def _catch_up(self, worker: _Worker) -> None:
        """Let a worker do what the others were told since they started; then it is one of them."""
        async with self._changing:
            for name, request in self._journal:
                body = request.SerializeToString()
                answer = await self._ask(worker, name, body, within_s=None)
                if isinstance(answer, NyquistError):
                    logger.warning(
                        "worker %d could not catch up on %s: %s", worker.number, name, answer
                    )
            worker.member.set()
            worker.channel.send("member")
            self._run(self._watch(worker))
            self._tell_lacking()

    async def _watch(self, worker: _Worker) -> None:
        """End a worker that has not answered for too long."""
        while not worker.ended.is_set():
            asking = self._run(self._ask(worker, ALIVE, b"", within_s=None))
            for _ in range(LOOKS):
                if asking.done():
                    break
                await asyncio.wait({asking}, timeout=self._silence_s / LOOKS)
            else:
                worker.failure = f"it did not answer for {self._silence_s:g} s"
                worker.process.kill()
                return
            await asyncio.sleep(self._silence_s / LOOKS)

    async def _pass_on(self, asker: _Worker, number: int, name: str, body: bytes) -> None:
        if name not in CHANGES:
            answers = await self._ask_all(name, body)
        elif why := await self._not_fetched(name, body):
            answers = [(asker.number, LoadFailed(why))]
        else:
            async with self._changing:
                answers = await self._ask_all(name, body)
                if all(isinstance(answer, bytes) for _, answer in answers):
                    self._note(name, body)
        asker.channel.send("answers", number, answers)

    async def _not_fetched(self, name: str, body: bytes) -> str:
        """Fetch what all are to load; say why it could not be, where an older one is served."""
        if name != "RepositoryModelLoad" or self._sources is None or self._polls:
            return ""
        request = pb.RepositoryModelLoadRequest.FromString(body)
        model = request.model_name or request.repository_name
        why = (await self._sources.fetch([model])).failures.get(model, "")
        if why and any(one.readiness.get(model) for one in self._members()):
            return f"failed to load '{model}': {why}; what is served is served on"
        return ""

    async def _ask_all(self, name: str, body: bytes) -> list[tuple[int, Any]]:
        members = self._members()
        answers = await asyncio.gather(
            *(self._ask(one, name, body, within_s=None) for one in members)
        )
        pairs = zip(members, answers, strict=True)
        return [(worker.number, answer) for worker, answer in pairs if answer is not None]

    def _note(self, name: str, body: bytes) -> None:
        request: Message = getattr(pb, f"{name}Request").FromString(body)
        self._journal.note(name, request)
        if isinstance(request, pb.RepositoryModelUnloadRequest):
            gone = request.model_name or request.repository_name
            self._keep_series(lambda model: model[0] != gone)

    def _keep_series(self, wanted: Callable[[tuple[str, str]], bool]) -> None:
        """Forget what ended workers counted, and others at their last scrape, of other models."""
        self._past = of_models(self._past, wanted)
        for worker in self._workers.values():
            worker.scrape = of_models(worker.scrape, wanted)

    async def _ask(
        self, worker: _Worker, name: str, body: bytes, within_s: float | None = SCRAPE_S
    ) -> Any:  # noqa: ANN401 - an answer, an error, metrics; None if it does not come
        if worker.ended.is_set():
            return None
        self._asked += 1
        waiting = worker.waiting[self._asked] = self._loop.create_future()
        worker.channel.send("do", self._asked, name, body)
        try:
            return await asyncio.wait_for(waiting, within_s)
        except TimeoutError:
            return None

    def _missing(self) -> set[str]:
        """Return the models that are not ready in every worker; "" where not everything is."""
        missing = lacking(one.readiness for one in self._workers.values())
        return missing | {""} if len(self._workers) < self._count else missing

    def _tell_lacking(self) -> None:
        missing = self._missing()
        for worker in self._members():
            worker.channel.send("lacking", missing)

    async def _end(self, received: signal.Signals) -> None:
        """Pass the signal on, and wait until every worker has ended; who starts has no calls."""
        self._stopping = True
        for worker in self._workers.values():
            if not worker.member.is_set():
                worker.process.kill()
            elif worker.process.is_alive():
                os.kill(worker.process.pid or 0, received)
        for worker in self._workers.values():
            await worker.ended.wait()
        for task in self._tasks:
            task.cancel()

    def _kill(self) -> None:
        for worker in self._workers.values():
            worker.process.kill()

    def _run(self, work: Any) -> asyncio.Task[Any]:  # noqa: ANN401 - a coroutine
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
