"""The application that h2corn serves: gRPC over ASGI.

headers -> admission (path, token, limits) -> body, bounded -> handler -> answer, trailers

Nothing of a body is read before the caller is admitted. The handlers are those of `Calls`, wrapped
once for every transport; here are only the ways in and out.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from nyquist.server.front.access import ACCESS
from nyquist.server.front.asgi_call import GRPC, AsgiCall
from nyquist.server.front.bodies import Bodies, BodyLimits
from nyquist.server.front.call_headers import KnownHeaders
from nyquist.server.front.calls import OWN_DEADLINE, Calls, MethodHandler
from nyquist.server.front.message_reader import Event, MessageReader, Receive, Send
from nyquist.server.front.plain_http import PlainHttp
from nyquist.server.front.rest import Rest
from nyquist.server.front.rest_paths import Paths, no_model
from nyquist.server.wire.errors import NyquistError
from nyquist.server.wire.signature import Signature

GRPC_WEB = b"application/grpc-web"
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
        self._calls, self._limits = calls, limits
        self._headers = KnownHeaders(max_metadata_bytes)
        self._bodies = Bodies(limits)
        rest = Rest(calls, Paths(signature), self._bodies, limits, max_metadata_bytes)
        self._plain_http = PlainHttp(self, rest, cors_origins)
        self._watches: set[AsgiCall] = set()

    def end_watches(self) -> None:
        """End with UNAVAILABLE the calls that nothing else ends: no stop waits for them."""
        for call in self._watches:
            call.end_watch()

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        headers = tuple(scope["headers"])
        told = self._headers.get(headers)
        if told is None:
            found = dict(headers)
            kind = found.get(b"content-type", b"")
            if not kind.startswith(GRPC) or kind.startswith(GRPC_WEB):
                await self._plain_http(scope, receive, send)
                return
            told = self._headers.read(headers, found)
        call = AsgiCall(scope.get("client"), told, receive, send)
        try:
            # Not the path that is decoded: there is one spelling of a method.
            path = (scope["raw_path"] + scope["query_string"]).decode("latin-1")
            await self._answer(path, call)
        except ConnectionError:
            return  # the caller has gone, and nobody is left to hear of it
        finally:
            if call.timer is not None:
                call.timer.cancel()

    async def _answer(self, path: str, call: AsgiCall) -> None:
        """Admit a call, and end it with its status whatever becomes of it."""
        limits, told = self._limits, call.told
        most = limits.message_bytes if path in LARGE else limits.small_bytes
        reader = MessageReader(call, told.encoding, self._bodies, most)
        try:
            handler = self._calls.handler(path, told.call.again(), call.peer_address)
            if told.refusal is not None:
                handler = self._calls.refusing(path, told.refusal)
            elif told.timeout_s is not None:
                call.heed_timeout(told.timeout_s, starts_timer=path != OWN_DEADLINE)
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

    async def _handle(
        self, path: str, handler: MethodHandler, call: AsgiCall, reader: MessageReader
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


async def _send_each(answers: Any, call: AsgiCall) -> None:  # noqa: ANN401 - either kind
    """Send what a streaming handler yields, or let it write by itself."""
    if hasattr(answers, "__aiter__"):
        async for answer in answers:
            await call.write(answer)
    else:
        await answers
    await call.end_ok()
