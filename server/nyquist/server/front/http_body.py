"""The body of one plain HTTP request, bounded in size, in time, and once more when it is inflated.

declared length -> a place among the bodies -> chunks as they come -> whole -> unpacked
"""

import asyncio

import numpy as np

from nyquist.server.front.bodies import Bodies
from nyquist.server.front.message_reader import (
    HELD_AS_BYTES,
    Message,
    Receive,
    inflated,
    raise_if_ended,
)
from nyquist.server.wire.errors import InvalidRequest, TooLarge

LONGEST_LENGTH = 18
"""Digits of a content-length; more are of no body that comes to an end."""


async def read_body(
    receive: Receive, headers: dict[bytes, bytes], bodies: Bodies, peer: object, max_bytes: int
) -> Message:
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
        gathered, more = _Gathered(declared, max_bytes), True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise ConnectionError("the caller has gone")
            chunk: bytes = event.get("body") or b""
            more = event.get("more_body", False)
            gathered.add(chunk)
            if not declared:
                bodies.expect(body, len(chunk))
            if more:
                bodies.reserve(body, len(chunk))
    except asyncio.CancelledError:
        raise_if_ended(body)
        raise
    finally:
        bodies.finish(body)
    whole = gathered.whole()
    encoding = headers.get(b"content-encoding", b"identity")
    return whole if encoding == b"identity" else await inflated(whole, encoding, max_bytes)


class _Gathered:
    """What has come of a body; of a long one, in the memory that it ends in.

    Args:
        declared: bytes of it; 0 where the request does not say.
        max_bytes: that it may have.
    """

    def __init__(self, declared: int, max_bytes: int) -> None:
        self._declared, self._max_bytes, self._have = declared, max_bytes, 0
        self._parts: list[bytes] = []
        longer = declared > HELD_AS_BYTES
        self._view = np.empty(declared, np.uint8).data if longer else None

    def add(self, chunk: bytes) -> None:
        """Take what came.

        Raises:
            TooLarge: there is more than there may be.
            InvalidRequest: there is more than was declared.
        """
        at, self._have = self._have, self._have + len(chunk)
        if self._have > self._max_bytes:
            raise TooLarge(f"the body has more than {self._max_bytes} bytes, as many as it may")
        if self._view is None:
            self._parts.append(chunk)
        elif self._have > self._declared:
            raise InvalidRequest(f"the body has more than the {self._declared} bytes it declares")
        else:
            self._view[at : self._have] = chunk

    def whole(self) -> Message:
        """Return the body.

        Raises:
            InvalidRequest: it is shorter than was declared.
        """
        if self._view is None:
            return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if self._have < self._declared:  # the rest is whatever lay there
            raise InvalidRequest(f"the body has {self._have} bytes, it declares {self._declared}")
        return self._view


def _declared(headers: dict[bytes, bytes]) -> int:
    """Return the content-length; 0 where the request does not say."""
    text = headers.get(b"content-length", b"0")
    if not text.isdigit() or len(text) > LONGEST_LENGTH:
        shown = text[:20].decode("latin-1")
        raise InvalidRequest(f"content-length is a whole number of bytes, got {shown!r}")
    return int(text)
