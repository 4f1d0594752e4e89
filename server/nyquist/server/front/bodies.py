"""The bodies that are on their way: so many, so many bytes of all, and each with an end.

A body that came whole with its headers is never seen here. Whoever sends another holds a place and
bytes of one budget until the message is complete; what is late ends, and where all places are
taken the oldest does, because a body that means well is soon complete.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from nyquist.server.wire.errors import NyquistError, QueueFull, TooManyCalls, TooSlow

LEAST_BYTES_A_SECOND = 64 * 1024
LOOK_S = 0.5
PLACES = 8192
"""A stream that waits takes some 10 kB, most of it the task."""


class Body:
    """One body that is being read.

    Attributes:
        ended: why it was ended from here; None as long as it was not.
    """

    def __init__(self, peer: object, ends: float) -> None:
        self.peer, self.ends, self.held_bytes = peer, ends, 0
        self.ended: NyquistError | None = None
        self._task = asyncio.current_task()

    def end(self, why: NyquistError) -> None:
        """Wake who reads it, by cancelling what it waits for."""
        if self.ended is None and self._task is not None:
            self.ended = why
            self._task.cancel()


@dataclass(frozen=True)
class BodyLimits:
    """What bodies may take.

    Attributes:
        message_bytes: of one message that carries pictures.
        small_bytes: of any other.
        all_bytes: of all messages on their way together.
        first_s: seconds that a message has at least; a long one has more, by its length.
    """

    message_bytes: int
    small_bytes: int = 64 * 1024
    all_bytes: int = 512 * 1024 * 1024
    first_s: float = 10.0


class Bodies:
    """All bodies that are being read; used in one loop."""

    def __init__(self, limits: BodyLimits, places: int = PLACES) -> None:
        self._limits, self._places = limits, places
        self._reading: OrderedDict[Body, None] = OrderedDict()
        self._of_peer: dict[object, int] = {}
        self._look: asyncio.TimerHandle | None = None
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._reading)

    def begin(self, peer: object) -> Body:
        """Give a body a place.

        Raises:
            TooManyCalls: there is none, and the peer holds its share of them.
        """
        loop = asyncio.get_running_loop()
        if len(self._reading) >= self._places:
            if self._of_peer.get(peer, 0) >= max(1, self._places // (len(self._of_peer) or 1)):
                raise TooManyCalls(f"{self._places} messages are on their way, as many as may be")
            oldest = next(iter(self._reading))
            oldest.end(TooManyCalls("the message did not come, and others wait for its place"))
            self.finish(oldest)
        body = Body(peer, loop.time() + self._limits.first_s)
        self._reading[body] = None
        self._of_peer[peer] = self._of_peer.get(peer, 0) + 1
        if self._look is None:
            self._look = loop.call_later(LOOK_S, self._end_late_ones)
        return body

    def expect(self, body: Body, size: int) -> None:
        """Give a body the time that its length takes."""
        body.ends += size / LEAST_BYTES_A_SECOND

    def reserve(self, body: Body, size: int) -> None:
        """Hold these bytes.

        Nobody waits for them: what a stream has sent and nobody reads stays in the window of its
        connection (RFC 9113, section 5.2), until no other stream can send there either.

        Raises:
            QueueFull: others hold them. The oldest body never hears so, and one always ends.
        """
        most = self._limits.all_bytes
        if self.held_bytes + size > most and next(iter(self._reading), body) is not body:
            raise QueueFull(
                f"Exceeds maximum queued bytes of {most}: messages on their way hold "
                f"{self.held_bytes}, this one has {size} more"
            )
        body.held_bytes += size
        self.held_bytes += size

    def finish(self, body: Body) -> None:
        """Give place and bytes back; a second time does nothing."""
        if body not in self._reading:
            return
        del self._reading[body]
        self.held_bytes -= body.held_bytes
        left = self._of_peer[body.peer] - 1
        if left:
            self._of_peer[body.peer] = left
        else:
            del self._of_peer[body.peer]

    def _end_late_ones(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        for body in [body for body in self._reading if body.ends <= now]:
            body.end(TooSlow("the message did not come in the time that it has"))
        self._look = loop.call_later(LOOK_S, self._end_late_ones) if self._reading else None
