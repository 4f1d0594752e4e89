"""One gRPC call over ASGI: what its handler sees of it, and the way back to the caller.

handler -> answer, write, abort -> events of ASGI
"""

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import grpc

from nyquist.server.front.call_headers import CallHeaders
from nyquist.server.front.grpc_wire import Header, framed, status_headers
from nyquist.server.front.message_reader import Event, Receive, Send

GRPC = b"application/grpc"
HEADERS: list[Header] = [
    (b"content-type", GRPC),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
]
START: Event = {"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True}
OK: Event = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}


class AsgiCall:
    """One call.

    Args:
        peer: the connection, by its address at the other end.
        told: by its headers.
        receive: of ASGI.
        send: likewise.

    Attributes:
        peer_address: the connection.
        told: by its headers.
        expired: whether its deadline ended it.
        stopped: whether the server's stop did.
        details: of the status that it was aborted with.
        timer: that ends it by its deadline; None where the method does so itself.
        serialize: makes bytes of an answer; None where it is bytes.
    """

    expired = stopped = _started = False
    details = ""
    serialize: Callable[[Any], bytes] | None = None
    timer: asyncio.TimerHandle | None = None
    _code = grpc.StatusCode.UNKNOWN
    _deadline: float | None = None
    _task: asyncio.Task[Any] | None = None

    def __init__(self, peer: object, told: CallHeaders, receive: Receive, send: Send) -> None:
        self.peer_address, self.told, self.receive, self._send = peer, told, receive, send

    def heed_timeout(self, timeout_s: float, *, starts_timer: bool) -> None:
        """Take up the caller's deadline, which ends the call unless its method does so itself."""
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + timeout_s
        if starts_timer:
            self._task = asyncio.current_task()
            self.timer = loop.call_at(self._deadline, self._expire)

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None where it has none."""
        if self._deadline is None:
            return None
        return max(self._deadline - asyncio.get_running_loop().time(), 0.0)

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """End the call with a status."""
        self._code, self.details = code, details
        raise grpc.aio.AbortError(details)

    def code(self) -> grpc.StatusCode:
        """Return the status that the call was aborted with."""
        return self._code

    async def answer(self, message: Any) -> None:  # noqa: ANN401 - any message
        """Send the one answer of a call that went well."""
        body = self.serialize(message) if self.serialize else message
        self._started = True
        await self._send(START)
        await self._send({"type": "http.response.body", "body": framed(body)})
        await self._send(OK)

    async def write(self, message: Any) -> None:  # noqa: ANN401 - any message
        """Send an answer."""
        body = self.serialize(message) if self.serialize else message
        if not self._started:
            self._started = True
            await self._send(START)
        await self._send({"type": "http.response.body", "body": framed(body), "more_body": True})

    async def end_ok(self) -> None:
        """Say that the call went well."""
        if not self._started:
            await self._send(START)
        await self._send({"type": "http.response.body", "body": b""})
        await self._send(OK)

    async def end(self, code: grpc.StatusCode, details: str) -> None:
        """Say that it did not; without an answer before, in the headers alone."""
        status = status_headers(code, details)
        if self._started:
            await self._send({"type": "http.response.body", "body": b""})
            await self._send({"type": "http.response.trailers", "headers": status})
        else:
            await self._send(
                {"type": "http.response.start", "status": 200, "headers": HEADERS + status}
            )
            await self._send({"type": "http.response.body", "body": b""})

    def leave(self) -> None:
        """End what is done for a caller that has gone."""
        if self._task is not None:
            self._task.cancel()

    def watch(self) -> None:
        """Remember the task of the call, for what reads beside it."""
        self._task = asyncio.current_task()

    def end_watch(self) -> None:
        """End what is watched because the server stops."""
        self.stopped = True
        self.leave()

    def _expire(self) -> None:
        self.expired = True
        self.leave()
