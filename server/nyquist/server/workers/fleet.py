"""What a worker says to its supervisor, and hears from it: calls for all workers, readiness.

a caller's call -> the supervisor -> every worker does it -> answers, merged -> the caller
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from google.protobuf.message import Message

from nyquist.server.wire.errors import LoadFailed, NyquistError, Stopping
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.workers.channel import Channel
from nyquist.server.workers.merging import merged_index, merged_statistics

logger = logging.getLogger(__name__)

CHANGES = ("RepositoryModelLoad", "RepositoryModelUnload", "TraceSetting", "LogSettings")
"""Calls that a worker that comes later has to catch up on."""

EVERYWHERE = (*CHANGES, "ModelStatistics", "RepositoryIndex")
METRICS, ALIVE = "metrics", "alive"
TOLD_S = 0.25

Do = Callable[[Any, Any], Awaitable[Any]]
Calls = Mapping[str, tuple[Do, type[Message]]]


class Readable(Protocol):
    """Registry of metrics."""

    def collect(self) -> Any: ...  # noqa: ANN401 - Prometheus's


class Fleet:
    """The other workers, as one of them sees them.

    Args:
        channel: to the supervisor.
        number: of this worker, from 1.
    """

    def __init__(self, channel: Channel, number: int) -> None:
        self._channel, self.number = channel, number
        self._waiting: dict[int, asyncio.Future[list[Any]]] = {}
        self._asked = 0
        self._member = asyncio.Event()
        self._lacking: set[str] = {""}
        self._told: dict[str, bool] = {}
        self._calls: Calls = {}
        self._metrics: Readable | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def join(self, calls: Calls, metrics: Readable) -> None:
        """Say that all models are loaded, catch up on what changed, and be one of them."""
        self._calls, self._metrics = calls, metrics
        self._channel.send("loaded")
        self._spawn(self._listen())
        await self._member.wait()

    def tell(self, readiness: Mapping[str, bool]) -> None:
        """Tell the supervisor how every model is here, "" being the whole."""
        if readiness != self._told:
            self._told = dict(readiness)
            self._channel.send("readiness", self._told)

    def ready(self, name: str = "") -> bool:
        """Say whether a model, or everything, is ready in all workers, as far as was told."""
        return name not in self._lacking

    def close(self) -> None:
        """Hear nothing any more."""
        for task in self._tasks:
            task.cancel()
        self._channel.close()

    def everywhere(self, name: str, alone: Do) -> Do:
        """Return what answers a call by letting all workers do it, or `alone` where one will do."""

        async def ask(request: Message, context: object) -> Message:
            del context
            return _one_answer(name, await self._ask(name, request.SerializeToString()))

        return ask if name in EVERYWHERE else alone

    async def _ask(self, name: str, body: bytes) -> list[Any]:
        self._asked += 1
        answers = self._waiting[self._asked] = asyncio.get_running_loop().create_future()
        self._channel.send("ask", self._asked, name, body)
        return await answers

    async def _listen(self) -> None:
        while (message := await self._channel.receive()) is not None:
            kind, *rest = message
            if kind == "do":
                self._spawn(self._do(*rest))
            elif kind == "answers":
                number, answers = rest
                waiting = self._waiting.pop(number)
                if not waiting.done():
                    waiting.set_result(answers)
            elif kind == "lacking":
                (self._lacking,) = rest
            else:
                self._member.set()

    async def _do(self, number: int, name: str, body: bytes) -> None:
        answer: Any
        if name == METRICS and self._metrics is not None:
            answer = list(self._metrics.collect())
        elif name == ALIVE:
            answer = True
        else:
            behaviour, kind = self._calls[name]
            try:
                answer = (await behaviour(kind.FromString(body), None)).SerializeToString()
            except NyquistError as error:
                answer = error
            except Exception:  # or who asked would wait for ever
                logger.exception("unexpected error in %s", name)
                answer = NyquistError("internal error; see the log")
        self._channel.send("done", number, answer)

    def _spawn(self, work: Any) -> None:  # noqa: ANN401 - a coroutine
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _one_answer(name: str, answers: Sequence[tuple[int, Any]]) -> Message:
    """Return the answer of all workers.

    Raises:
        NyquistError: that all of them gave, or LoadFailed, which says who failed.
    """
    failed = {number: one for number, one in answers if isinstance(one, NyquistError)}
    if not answers:
        raise Stopping("Server is stopping")
    if len(failed) == len(answers):
        raise next(iter(failed.values()))
    if failed:
        which = "; ".join(f"worker {number}: {error}" for number, error in failed.items())
        raise LoadFailed(f"{len(failed)} of {len(answers)} workers failed: {which}")
    bodies = [one for _, one in answers]
    if name == "ModelStatistics":
        return merged_statistics([pb.ModelStatisticsResponse.FromString(one) for one in bodies])
    if name == "RepositoryIndex":
        return merged_index([pb.RepositoryIndexResponse.FromString(one) for one in bodies])
    answer: Message = getattr(pb, f"{name}Response").FromString(bodies[0])
    return answer
