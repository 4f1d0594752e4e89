"""gRPC-Web: gRPC for what cannot read trailers, as scripts of web pages.

request -> gRPC's, its text decoded -> gRPC's answer -> trailers as one more frame of the body

The wire: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-WEB.md
"""

import binascii

from nyquist.server.front.message_reader import App, Event, Receive, Send
from nyquist.server.wire.errors import InvalidRequest

MEDIA_TYPE = b"application/grpc-web"
TEXT = b"application/grpc-web-text"
TRAILERS = b"\x80"
"""Begins the frame of the trailers, as 0 begins that of a message."""


class GrpcWeb:
    """Answers as an ASGI application, by one that answers gRPC."""

    def __init__(self, grpc: App) -> None:
        self._grpc = grpc

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answer one call."""
        kind = dict(scope["headers"])[b"content-type"]
        headers = [(key, value) for key, value in scope["headers"] if key != b"content-type"]
        headers.append((b"content-type", b"application/grpc"))
        text = kind.startswith(TEXT)
        answer = _Answer(kind, send, text=text)
        decoded = _decoding(receive) if text else receive
        await self._grpc({**scope, "headers": headers}, decoded, answer.send)


class _Answer:
    """Makes a gRPC-Web answer of gRPC's events."""

    def __init__(self, kind: bytes, send: Send, *, text: bool) -> None:
        self._kind, self._send, self._text = kind, send, text
        self._trailers = False

    async def send(self, event: Event) -> None:
        """Send what an event becomes."""
        if event["type"] == "http.response.start":
            self._trailers = event.get("trailers", False)
            headers = [(key, value) for key, value in event["headers"] if key != b"content-type"]
            headers.append((b"content-type", self._kind))
            start = {"type": "http.response.start", "status": event["status"], "headers": headers}
            await self._send(start)
        elif event["type"] == "http.response.trailers":
            lines = b"".join(b"%b: %b\r\n" % header for header in event["headers"])
            await self._write(TRAILERS + len(lines).to_bytes(4, "big") + lines, more=False)
        elif event["body"] or not self._trailers:
            more = self._trailers or event.get("more_body", False)
            await self._write(event["body"], more=more)

    async def _write(self, body: bytes, *, more: bool) -> None:
        if self._text:
            body = binascii.b2a_base64(body, newline=False)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})


def _decoding(receive: Receive) -> Receive:
    """Return what receives the bytes of a body in base64, whatever pieces that comes in.

    Raises:
        InvalidRequest: from what it returns, if the body is no base64.
    """
    left = b""

    async def decoded() -> Event:
        nonlocal left
        event = await receive()
        if event["type"] != "http.request":
            return event
        left += event.get("body") or b""
        end = len(left) // 4 * 4
        quads, left = left[:end], left[end:]
        if left and not event.get("more_body"):
            raise InvalidRequest("the body of grpc-web-text is base64, and this is cut off")
        try:
            return {**event, "body": binascii.a2b_base64(quads, strict_mode=bool(quads))}
        except binascii.Error as error:
            raise InvalidRequest("the body of grpc-web-text is base64, and this is none") from error

    return decoded
