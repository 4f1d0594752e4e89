"""What goes on while files come: bytes for the log, and the word to stop.

chunk -> stopped? -> counted -> a line every few seconds
"""

import logging
from collections.abc import Callable
from threading import Event
from time import monotonic

from nyquist.server.wire.errors import Stopping

TOLD_EVERY_S = 5.0
MEGA = 1e6

logger = logging.getLogger(__name__)


class Watch:
    """Over what is fetched from one source.

    Args:
        source: its address, as it may stand in the log.
        count: called with the bytes of each chunk that has come.
    """

    def __init__(self, source: str, count: Callable[[int], object]) -> None:
        self._source, self._count = source, count
        self._stop = Event()
        self.begin()

    def stop(self) -> None:
        """Let the next chunk be the last."""
        self._stop.set()

    def begin(self) -> None:
        """Count from here what the log tells of."""
        self._came, self._told_at = 0, monotonic()

    def received(self, count: int) -> None:
        """Note bytes that have come.

        Raises:
            Stopping: no more shall come.
        """
        self.check()
        self._count(count)
        self._came += count
        if monotonic() - self._told_at > TOLD_EVERY_S:
            self._told_at = monotonic()
            logger.info("fetching from %s: %.0f MB until now", self._source, self._came / MEGA)

    def check(self) -> None:
        """Go on, unless it was stopped.

        Raises:
            Stopping: it was.
        """
        self.pause(0)

    def pause(self, seconds: float) -> None:
        """Wait, unless it is stopped.

        Raises:
            Stopping: it was.
        """
        if self._stop.wait(seconds):
            raise Stopping("Server is stopping and fetches nothing any more")
