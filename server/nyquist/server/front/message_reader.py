"""The messages of one call's body, each bounded in size and in time.

chunks as they come -> five bytes: how long, whether compressed -> the whole message -> unpacked
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import numpy as np

from nyquist.server.front.bodies import Bodies, Body
from nyquist.server.front.grpc_wire import PREFIX_BYTES, unpacked
from nyquist.server.wire.errors import InvalidRequest, TooLarge

Event: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = bytes | memoryview
Receive: TypeAlias = Callable[[], Awaitable[Event]]
Send: TypeAlias = Callable[[Event], Awaitable[None]]
App: TypeAlias = Callable[[Event, Receive, Send], Awaitable[None]]

SETTLING_S = 0.05
HELD_AS_BYTES = 64 * 1024
"""Of a message; a longer one is a view, which nothing copies but what parses it."""

INFLATED_HERE = 4096
"""Bytes of a compressed message that are no work for a thread: they become 4 MiB at most."""


class Reading(Protocol):
    """The call whose body is read."""

    peer_address: object
    receive: Receive

    def leave(self) -> None:
        """End what is done for a caller that has gone."""

    def watch(self) -> None:
        """Remember the task of the call, for what reads beside it."""


class MessageReader:
    """The messages of one call's body.

    Args:
        call: whose they are.
        encoding: of those that are compressed.
        bodies: all that are being read.
        max_bytes: of one message.
    """

    def __init__(self, call: Reading, encoding: bytes, bodies: Bodies, max_bytes: int) -> None:
        self._call, self._encoding = call, encoding
        self._bodies, self._max_bytes = bodies, max_bytes
        self._left, self._ended = b"", False
        self._seen = self._gone = False

    async def message(self) -> Message | None:
        """Return the one message of a unary call; None if the caller has gone.

        Raises:
            NyquistError: it is none, is too large, or does not come.
        """
        body = self._bodies.begin(self._call.peer_address)
        try:
            await self._read()
            message = self._lone_message() or await self._next(body)
        except asyncio.CancelledError:
            raise_if_ended(body)
            raise
        finally:
            self._bodies.finish(body)
        if message is None and not self._gone:
            raise InvalidRequest("the call ended without its message")
        return message

    async def messages(self, parse: Callable[[Any], Any] | None) -> AsyncIterator[Any]:
        """Yield one message after the other; each may begin as late as it likes.

        Raises:
            NyquistError: one is none, is too large, or does not end.
        """
        self._call.watch()
        while self._left or (not self._ended and await self._read()):
            if not self._left:
                continue
            body = self._bodies.begin(self._call.peer_address)
            try:
                message = await self._next(body)
            except asyncio.CancelledError:
                raise_if_ended(body)
                raise
            finally:
                self._bodies.finish(body)
            if message is None:
                return
            yield parse(message) if parse else message

    async def settle(self) -> None:
        """Let a stream's first message come before it is refused, or grpc.aio's clients fail.

        They take a message that they cannot send any more for an error of their own.
        """
        if not (self._seen or self._ended):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._read(), SETTLING_S)

    async def _read(self) -> bool:
        """Read on; return whether the caller is still there."""
        event = await self._call.receive()
        self._seen = True
        if event["type"] == "http.disconnect":
            self._gone = self._ended = True
            self._call.leave()
            return False
        chunk: bytes = event.get("body") or b""
        self._left = self._left + chunk if self._left else chunk
        self._ended = not event.get("more_body")
        return True

    def _lone_message(self) -> bytes | None:
        """Return the message that came whole and alone, as nearly all do.

        Whether the caller has said by then that it was the last one is of no account.
        """
        chunk, size = self._left, len(self._left) - PREFIX_BYTES
        if size < 0 or size > self._max_bytes or chunk[0]:
            return None
        return (
            chunk[PREFIX_BYTES:] if int.from_bytes(chunk[1:PREFIX_BYTES], "big") == size else None
        )

    async def _next(self, body: Body) -> Message | None:
        """Return the next message; None if the body ends before it."""
        while len(self._left) < PREFIX_BYTES:
            if self._ended and self._left and not self._gone:
                raise InvalidRequest("the call ended within a message")
            if self._ended or not await self._read():
                return None
        flag, size = self._left[0], int.from_bytes(self._left[1:PREFIX_BYTES], "big")
        if size > self._max_bytes:
            raise TooLarge(f"a message of {size} bytes; this call's have {self._max_bytes} at most")
        if flag > 1:
            raise InvalidRequest(f"a message begins with 0 or 1, got {flag}")
        whole = await self._whole(body, size)
        if whole is None or not flag:
            return whole
        if self._encoding == b"identity":
            raise InvalidRequest("a compressed message needs a grpc-encoding that says how")
        return await inflated(whole, self._encoding, self._max_bytes)

    async def _whole(self, body: Body, size: int) -> Message | None:
        """Return a message of this size; None if the caller goes before it has come."""
        end = PREFIX_BYTES + size
        if len(self._left) >= end:
            message, self._left = self._left[PREFIX_BYTES:end], self._left[end:]
            return message
        self._bodies.expect(body, size)
        self._bodies.reserve(body, len(self._left))
        # Filled as it comes: joining 64 MiB at the end would take 0.04 s, most of it for memory.
        whole, have = np.empty(size, np.uint8).data, len(self._left) - PREFIX_BYTES
        whole[:have] = self._left[PREFIX_BYTES:]
        while have < size:
            self._left = b""
            if self._ended:
                raise InvalidRequest("the call ended within a message")
            if not await self._read():
                return None
            self._bodies.reserve(body, len(self._left))
            own = self._left[: size - have]
            whole[have : have + len(own)] = own
            have += len(own)
        self._left = self._left[len(own) :]
        return whole if size > HELD_AS_BYTES else bytes(whole)


async def inflated(message: Message, encoding: bytes, max_bytes: int) -> bytes:
    """Undo the compression of a message, of a long one in a thread: zlib lets others run."""
    if len(message) <= INFLATED_HERE:
        return unpacked(message, encoding, max_bytes)
    return await asyncio.to_thread(unpacked, message, encoding, max_bytes)


def raise_if_ended(body: Body) -> None:
    """Tell a body that was ended from here from a call that was cancelled."""
    if body.ended is None:
        return
    if (task := asyncio.current_task()) is not None:
        task.uncancel()
    raise body.ended
