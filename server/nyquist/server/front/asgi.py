"""The application that h2corn serves: gRPC over ASGI.

headers -> admission (path, token, limits) -> body, bounded -> handler -> answer, trailers

Nothing of a body is read before the caller is admitted. The handlers are those of `Calls`, wrapped
once for every transport; here are only the ways in and out.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, NoReturn

import grpc

from nyquist.server.front.access import ACCESS
from nyquist.server.front.bodies import Bodies, BodyLimits
from nyquist.server.front.calls import OWN_DEADLINE, Calls, MethodHandler
from nyquist.server.front.grpc_wire import (
    Header,
    Metadata,
    framed,
    parse_timeout,
    status_headers,
)
from nyquist.server.front.message_reader import Event, MessageReader, Receive, Send
from nyquist.server.front.plain_http import PlainHttp
from nyquist.server.front.rest import Rest
from nyquist.server.front.rest_paths import Paths, no_model
from nyquist.server.wire.errors import NyquistError, TooLarge
from nyquist.server.wire.signature import Signature

GRPC, GRPC_WEB = b"application/grpc", b"application/grpc-web"
HEADERS: list[Header] = [
    (b"content-type", GRPC),
    (b"grpc-accept-encoding", b"identity, deflate, gzip"),
]
START: Event = {"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True}
OK: Event = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
LARGE = frozenset({OWN_DEADLINE, "/inference.GRPCInferenceService/ModelStreamInfer"})
"""Methods whose messages may be larger than the small ones."""

STREAMS = frozenset(
    path for path in ACCESS if path.endswith(("/ModelStreamInfer", "/ServerReflectionInfo"))
)
"""Methods whose requests are streams."""


class Application:
    """Answers gRPC calls as an ASGI application.

    Args:
        calls: what is served.
        limits: of bodies.
        max_metadata_bytes: names and values of the headers of one call.
        signature: of a model by its name and version; raises where there is none.
        cors_origins: of pages whose scripts may call.
    """

    def __init__(
        self,
        calls: Calls,
        limits: BodyLimits,
        max_metadata_bytes: int,
        signature: Callable[[str, str], Signature] = no_model,
        cors_origins: Sequence[str] = (),
    ) -> None:
        self._calls, self._limits, self._max_metadata_bytes = calls, limits, max_metadata_bytes
        self._bodies = Bodies(limits)
        rest = Rest(calls, Paths(signature), self._bodies, limits, max_metadata_bytes)
        self._plain_http = PlainHttp(self, rest, cors_origins)
        self._watches: set[_Call] = set()

    def end_watches(self) -> None:
        """End with UNAVAILABLE the calls that nothing else ends: no stop waits for them."""
        for call in self._watches:
            call.end_watch()

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers: Sequence[Header] = scope["headers"]
        found = dict(headers)
        kind = found.get(b"content-type", b"")
        if not kind.startswith(GRPC) or kind.startswith(GRPC_WEB):
            await self._plain_http(scope, receive, send)
            return
        call = _Call(scope.get("client"), found, receive, send)
        try:
            # Not the path that is decoded: there is one spelling of a method.
            path = (scope["raw_path"] + scope["query_string"]).decode("latin-1")
            await self._answer(path, Metadata(headers, found), call)
        except ConnectionError:
            return  # the caller has gone, and nobody is left to hear of it
        finally:
            if call.timer is not None:
                call.timer.cancel()

    async def _answer(self, path: str, metadata: Metadata, call: "_Call") -> None:
        """Admit a call, and end it with its status whatever becomes of it."""
        limits = self._limits
        most = limits.message_bytes if path in LARGE else limits.small_bytes
        reader = MessageReader(call, self._bodies, most)
        try:
            handler = self._calls.handler(path, metadata, call.peer_address)
            try:
                self._check(metadata.headers)
                if call.timeout is not None:
                    call.read_timeout(call.timeout, starts_timer=path != OWN_DEADLINE)
            except NyquistError as refusal:
                handler = self._calls.refusing(path, refusal)
            await self._handle(path, handler, call, reader)
        except grpc.aio.AbortError:
            if path in STREAMS:
                await reader.settle()
            await call.end(call.code(), call.details)
        except asyncio.CancelledError:
            if call.stopped:
                await call.end(grpc.StatusCode.UNAVAILABLE, "Server is stopping")
                return
            if not call.expired:
                raise
            await call.end(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")

    def _check(self, headers: Sequence[Header]) -> None:
        if sum(map(len, chain.from_iterable(headers))) > self._max_metadata_bytes:
            raise TooLarge(f"the metadata is larger than {self._max_metadata_bytes} bytes")

    async def _handle(
        self, path: str, handler: MethodHandler, call: "_Call", reader: MessageReader
    ) -> None:
        parse: Any = handler.request_deserializer
        call.serialize = handler.response_serializer
        request: Any = None  # a refusal reads none
        if handler.request_streaming:
            request = reader.messages(parse)
        else:
            try:
                body = await reader.message()
            except NyquistError as refusal:
                handler = self._calls.refusing(path, refusal)
            else:
                if body is None:
                    return
                request = parse(body) if parse else body
        behaviour: Any = (
            handler.unary_unary
            or handler.stream_unary
            or handler.unary_stream
            or handler.stream_stream
        )
        if not handler.response_streaming:
            await call.answer(await behaviour(request, call))
            return
        if not handler.request_streaming:
            call.watch()
            self._watches.add(call)
        try:
            await _send_each(behaviour(request, call), call)
        finally:
            self._watches.discard(call)


async def _send_each(answers: Any, call: "_Call") -> None:  # noqa: ANN401 - either kind
    """Send what a streaming handler yields, or let it write by itself."""
    if hasattr(answers, "__aiter__"):
        async for answer in answers:
            await call.write(answer)
    else:
        await answers
    await call.end_ok()


class _Call:
    """What handlers see of a call, and the way back to the caller.

    Attributes:
        peer_address: the connection, by its address at the other end.
        expired: whether its deadline ended it.
        stopped: whether the server's stop did.
        details: of the status that it was aborted with.
        timeout: the caller's, as it came; None where there is none.
        timer: that ends it by that; None where the method does so itself.
        serialize: makes bytes of an answer; None where it is bytes.
    """

    def __init__(
        self, peer: object, found: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        self.peer_address, self.receive, self._send = peer, receive, send
        self.encoding = found.get(b"grpc-encoding", b"identity")
        self.timeout = found.get(b"grpc-timeout")
        self.expired, self.stopped, self.details = False, False, ""
        self.serialize: Callable[[Any], bytes] | None = None
        self._code = grpc.StatusCode.UNKNOWN
        self._started = False
        self._deadline: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[Any] | None = None

    def read_timeout(self, timeout: bytes, *, starts_timer: bool) -> None:
        """Take up the caller's deadline, and end the call by it unless the method does so itself.

        Raises:
            InvalidRequest: what it sent is no time.
        """
        loop = asyncio.get_running_loop()
        self._deadline = loop.time() + parse_timeout(timeout)
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
