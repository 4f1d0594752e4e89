"""The life of a process that answers gRPC: the server's and the companion's.

start, each on a stack -> listen -> healthy, ready ... a signal -> not healthy, drain -> the stack
"""

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress
from typing import Any, Protocol, TypeAlias

from grpc_health.v1 import health, health_pb2

from nyquist.server.front.access import Authorizer, exposure
from nyquist.server.front.calls import Context
from nyquist.server.front.settings import ListenerSecurity
from nyquist.server.front.tls import tls_in_words

logger = logging.getLogger(__name__)

Status: TypeAlias = int
"""A `health_pb2.HealthCheckResponse.ServingStatus`, whose module has no types."""

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health(health.aio.HealthServicer):  # type: ignore[misc] # grpc_health has no types
    """grpc.health.v1, kept true.

    Args:
        read: says how every service is now, by name; "" is the whole.
        gone: what is said of a service that was there and is not any more.
    """

    def __init__(self, read: Callable[[], Mapping[str, Status]], gone: Status) -> None:
        super().__init__()
        self._read, self._gone = read, gone
        self._told: dict[str, Status] = {}
        self._draining = False

    async def tell(self) -> None:
        """Tell those who ask, and those who watch, how each service is."""
        if self._draining:
            return
        now = dict(self._read())
        for service, status in (dict.fromkeys(self._told, self._gone) | now).items():
            await self.set(service, status)
        self._told = now

    async def keep_true(self, changed: Callable[[], Awaitable[object]]) -> None:
        """Tell again whenever `changed` returns."""
        while True:
            await changed()
            await self.tell()

    async def drain(self) -> None:
        """Say of everything that it does not serve, and of nothing that it does any more."""
        self._draining = True
        self._told = dict.fromkeys(self._told, NOT_SERVING)
        await self.enter_graceful_shutdown()

    async def List(  # noqa: N802 - the name in the .proto
        self,
        request: health_pb2.HealthListRequest,  # noqa: ARG002 - gRPC passes it, and it is empty
        context: Context,  # noqa: ARG002 - gRPC passes it
    ) -> health_pb2.HealthListResponse:
        """Answer with every service that is there, as `Check` would."""
        answers = {
            name: health_pb2.HealthCheckResponse(status=status)
            for name, status in self._told.items()
        }
        return health_pb2.HealthListResponse(statuses=answers)


class Draining(Protocol):
    """What says that it is about to stop, and serves on for those who have not heard yet."""

    async def drain(self, seconds: float) -> None:
        """Do so for some seconds."""


async def run_until_signal(
    process: AbstractAsyncContextManager[Draining], drain_s: float, grace_s: float
) -> None:
    """Run until SIGTERM (drain first) or SIGINT; a second one ends the process where it stands.

    One that comes while the process starts ends the start.

    Args:
        process: starts when it is entered, and stops when it is left.
        drain_s: seconds of service after SIGTERM.
        grace_s: seconds that running calls have to end, which is said in the log.
    """
    stop = stop_signal()
    starting = asyncio.ensure_future(process.__aenter__())
    either: set[asyncio.Future[Any]] = {starting, stop}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        logger.info("stopping: it had not started yet")
        starting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
        return
    running = starting.result()
    async with AsyncExitStack() as stack:
        stack.push_async_exit(process)
        if await stop is signal.SIGTERM:
            await running.drain(drain_s)
        logger.info("stopping: waiting for running calls, %g s at most", grace_s)


def stop_signal(
    at_once: Callable[[], None] = lambda: None,
) -> asyncio.Future[signal.Signals]:
    """Return what SIGTERM or SIGINT sets, from now on; call it in the running loop.

    Args:
        at_once: called when a second one ends the process.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()

    def heed(received: signal.Signals) -> None:
        if stop.done():
            logger.warning("second signal: exiting at once")
            at_once()
            os._exit(128 + received)
        stop.set_result(received)

    for handled in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(handled, heed, handled)
    return stop


def say_ready(
    what: str, host: str, security: ListenerSecurity, authorizer: Authorizer, **facts: object
) -> None:
    """Log in one event what runs, where, and who may come in.

    Args:
        what: in a line.
        host: that it listens on.
        security: of the listener.
        authorizer: who may come in.
        **facts: what else belongs to the event.
    """
    if line := exposure(host, security):
        logger.warning("%s", line)
    told = {"tls": tls_in_words(security), "access": authorizer.in_words(), **facts}
    logger.info("ready: %s", what, extra=told)


def run_beside(stack: AsyncExitStack, work: Coroutine[None, None, None]) -> None:
    """Run `work` until the stack is closed."""
    task = asyncio.create_task(work)

    async def end() -> None:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    stack.push_async_callback(end)
