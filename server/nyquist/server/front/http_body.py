"""The body of one plain HTTP request, bounded in size, in time, and once more when it is inflated.

declared length -> a place among the bodies -> chunks as they come -> whole -> unpacked
"""

import asyncio

from nyquist.server.front.bodies import Bodies
from nyquist.server.front.message_reader import Receive, inflated, raise_if_ended
from nyquist.server.wire.errors import InvalidRequest, TooLarge

LONGEST_LENGTH = 18
"""Digits of a content-length; more are of no body that comes to an end."""


async def read_body(
    receive: Receive, headers: dict[bytes, bytes], bodies: Bodies, peer: object, max_bytes: int
) -> bytes:
    """Return the whole body of a request, unpacked as its Content-Encoding says.

    Args:
        receive: of the request.
        headers: of it.
        bodies: all that are being read.
        peer: whose it is.
        max_bytes: of the body, as it comes and unpacked.

    Raises:
        NyquistError: it is too large, is no such encoding, or does not come.
        ConnectionError: the caller has gone.
    """
    declared = _declared(headers)
    if declared > max_bytes:
        raise TooLarge(f"a body of {declared} bytes; this call's have {max_bytes} at most")
    body = bodies.begin(peer)
    try:
        bodies.expect(body, declared)
        parts, have, more = [], 0, True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise ConnectionError("the caller has gone")
            chunk: bytes = event.get("body") or b""
            more = event.get("more_body", False)
            have += len(chunk)
            if have > max_bytes:
                raise TooLarge(f"the body has more than {max_bytes} bytes, as many as it may")
            parts.append(chunk)
            if not declared:
                bodies.expect(body, len(chunk))
            if more:
                bodies.reserve(body, len(chunk))
    except asyncio.CancelledError:
        raise_if_ended(body)
        raise
    finally:
        bodies.finish(body)
    whole = parts[0] if len(parts) == 1 else b"".join(parts)
    encoding = headers.get(b"content-encoding", b"identity")
    return whole if encoding == b"identity" else await inflated(whole, encoding, max_bytes)


def _declared(headers: dict[bytes, bytes]) -> int:
    """Return the content-length; 0 where the request does not say."""
    text = headers.get(b"content-length", b"0")
    if not text.isdigit() or len(text) > LONGEST_LENGTH:
        shown = text[:20].decode("latin-1")
        raise InvalidRequest(f"content-length is a whole number of bytes, got {shown!r}")
    return int(text)
