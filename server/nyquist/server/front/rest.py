"""The Open Inference Protocol over plain HTTP, on the port of gRPC.

path -> the call of gRPC that it stands for -> admission -> body -> its message -> handler -> answer

The handlers, and what stands before them, are those of gRPC: tokens, limits, deadlines, metrics.
"""

import asyncio
from itertools import chain
from typing import Any, NoReturn

import grpc
from pydantic_core import to_json

from nyquist.server.front.bodies import Bodies, BodyLimits
from nyquist.server.front.calls import OWN_DEADLINE, Calls
from nyquist.server.front.grpc_wire import Metadata
from nyquist.server.front.http_body import read_body
from nyquist.server.front.message_reader import Event, Receive, Send
from nyquist.server.front.rest_paths import JSON, Answer, Endpoint, Paths, Request
from nyquist.server.front.rest_tensors import json_size
from nyquist.server.telemetry.current_call import Call
from nyquist.server.wire.errors import ModelNotFound, NyquistError, TooLarge
from nyquist.server.wire.request_head import LONG_BYTES

CODES: dict[grpc.StatusCode, int] = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""Triton's, and those of HTTP for what Triton has none for; 500 for the rest."""

READ_HERE = 64 * 1024
"""Bytes of JSON that are no work for a thread; what lists hold is gone through one by one."""


class Rest:
    """Answers requests of plain HTTP as an ASGI application.

    Args:
        calls: what is served.
        paths: where.
        bodies: all that are being read, those of gRPC too.
        limits: of them.
        max_metadata_bytes: names and values of the headers of one request.
    """

    def __init__(
        self,
        calls: Calls,
        paths: Paths,
        bodies: Bodies,
        limits: BodyLimits,
        max_metadata_bytes: int,
    ) -> None:
        self._calls, self._paths = calls, paths
        self._bodies, self._limits, self._max_metadata_bytes = bodies, limits, max_metadata_bytes

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request."""
        context = _Context(scope.get("client"))
        try:
            status, headers, parts = await self._answer(scope, receive, context)
        except grpc.aio.AbortError:
            status, headers, parts = context.refusal()
        except ConnectionError:
            return  # the caller has gone, and nobody is left to hear of it
        body = b"".join(parts)
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Event, receive: Receive, context: "_Context") -> Answer:
        path, method = scope["raw_path"].decode("latin-1"), scope["method"]
        found = self._paths.find(path)
        if found is None:
            missing = ModelNotFound(f"nothing is served at {path[:80]}; /openapi.json says what is")
            return await self._refuse("", missing, context)
        endpoints, match = found
        endpoint = endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is None:
            return _not_allowed(method, endpoints)
        headers = scope["headers"]
        fields = dict(headers)
        call = Call(Metadata(headers, fields))
        handler: Any = self._calls.handler(endpoint.call, call, context.peer_address)
        if sum(map(len, chain.from_iterable(headers))) > self._max_metadata_bytes:
            long = TooLarge(f"the headers are larger than {self._max_metadata_bytes} bytes")
            return await self._refuse(endpoint.call, long, context)
        if handler.unary_unary is None and handler.stream_unary is not None:
            await handler.stream_unary(None, context)  # refuses, before anything is read
        limits = self._limits
        large = endpoint.call == OWN_DEADLINE
        most = limits.message_bytes if large else limits.small_bytes
        try:
            body = await read_body(receive, fields, self._bodies, context.peer_address, most)
            asked = Request.of(match, scope["query_string"], fields, body)
            json_bytes = json_size(body, asked.json_length) if endpoint.json else 0
            if json_bytes > READ_HERE or len(body) > LONG_BYTES:
                message, answer = await asyncio.to_thread(endpoint.prepare, asked)
            else:
                message, answer = endpoint.prepare(asked)
        except NyquistError as refusal:
            return await self._refuse(endpoint.call, refusal, context)
        return answer(await handler.unary_unary(message, context) if message is not None else None)

    async def _refuse(self, call: str, refusal: NyquistError, context: "_Context") -> NoReturn:
        """Refuse as a handler would, so that it is counted, and tell what is too large."""
        context.large = isinstance(refusal, TooLarge)
        handler: Any = self._calls.refusing(call, refusal)
        await handler.stream_unary(None, context)
        raise AssertionError("a handler that refuses aborts")


def _not_allowed(method: str, endpoints: dict[str, Endpoint]) -> Answer:
    allowed = ", ".join(sorted(endpoints))
    told = to_json({"error": f"{method[:20]} is not served here, {allowed} is"})
    return 405, [JSON, (b"allow", allowed.encode())], (told,)


class _Context:
    """What handlers see of a request.

    Attributes:
        peer_address: the connection, by its address at the other end.
        large: whether it was refused for its size.
    """

    def __init__(self, peer: object) -> None:
        self.peer_address, self.large = peer, False
        self._code, self._details = grpc.StatusCode.UNKNOWN, ""

    def time_remaining(self) -> float | None:
        """Return None: HTTP has no deadlines, and the server's own holds."""
        return None

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """End the call with a status."""
        self._code, self._details = code, details
        raise grpc.aio.AbortError(details)

    def code(self) -> grpc.StatusCode:
        """Return the status that the call was aborted with."""
        return self._code

    async def write(self, message: object) -> NoReturn:
        """Refuse: no call of several answers has a path."""
        raise TypeError(f"an answer of several, {message!r}")

    def refusal(self) -> Answer:
        """Return the answer that tells of the status."""
        status = 413 if self.large else CODES.get(self._code, 500)
        headers = [JSON] + [(b"www-authenticate", b"Bearer")] * (status == 401)
        return status, headers, (to_json({"error": self._details}),)
