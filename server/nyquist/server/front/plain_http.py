"""What comes to the port of gRPC and is no gRPC: gRPC-Web, REST, and pages of other origins.

origin -> may its scripts read the answer? -> gRPC-Web to the calls as gRPC, the rest to REST
"""

from collections.abc import Sequence
from typing import TypeAlias

from nyquist.server.front.grpc_web import MEDIA_TYPE, GrpcWeb
from nyquist.server.front.grpc_wire import Header
from nyquist.server.front.message_reader import App, Event, Receive, Send

ANY_ORIGIN = "*"
EXPOSED: Header = (
    b"access-control-expose-headers",
    b"grpc-status, grpc-message, inference-header-content-length",
)
REMEMBERED_S = b"600"

Origins: TypeAlias = Sequence[str]


class PlainHttp:
    """Hands a request on as an ASGI application.

    Args:
        grpc: answers gRPC.
        rest: answers the rest.
        origins: of pages whose scripts may call; none of them leaves that to pages of this server.
    """

    def __init__(self, grpc: App, rest: App, origins: Origins) -> None:
        self._web, self._rest = GrpcWeb(grpc), rest
        self._origins = frozenset(origin.encode() for origin in origins)

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = dict(scope["headers"])
        allowed = self._allowed(found.get(b"origin"))
        if allowed and scope["method"] == "OPTIONS":
            await _answer_preflight(found, allowed, send)
            return
        web = found.get(b"content-type", b"").startswith(MEDIA_TYPE)
        answer = self._web if web else self._rest
        await answer(scope, receive, _adding([*allowed, EXPOSED], send) if allowed else send)

    def _allowed(self, origin: bytes | None) -> list[Header]:
        """Return the headers that let a page read the answer; none if it may not."""
        if origin is None:
            return []
        if ANY_ORIGIN.encode() in self._origins:
            return [(b"access-control-allow-origin", b"*")]
        if origin not in self._origins:
            return []
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]


async def _answer_preflight(found: dict[bytes, bytes], allowed: list[Header], send: Send) -> None:
    headers = [
        *allowed,
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", found.get(b"access-control-request-headers", b"")),
        (b"access-control-max-age", REMEMBERED_S),
    ]
    await send({"type": "http.response.start", "status": 204, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _adding(more: list[Header], send: Send) -> Send:
    async def added(event: Event) -> None:
        if event["type"] == "http.response.start":
            event = {**event, "headers": [*event["headers"], *more]}
        await send(event)

    return added
