"""What waits between two threads: bounded in number and bytes, and never waited for by who puts.

put, or no room -> first -> done -> ... -> closed -> what is left
"""

from collections import deque
from collections.abc import Callable
from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class ByteQueue(Generic[T]):
    """A queue for one taker. What it has in hand counts as held until it says `done`.

    Args:
        limit: how many may be held.
        limit_bytes: that they may take.
        size_of: bytes of one.
    """

    def __init__(self, limit: int, limit_bytes: int, size_of: Callable[[T], int]) -> None:
        self._limit, self._limit_bytes, self._size_of = limit, limit_bytes, size_of
        self._changed = Condition()
        self._held: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._open = True

    @property
    def open(self) -> bool:
        """Whether it still takes anything."""
        return self._open

    def put(self, item: T) -> bool:
        """Hold an item, if there is room for it; say whether there was."""
        size = self._size_of(item)
        with self._changed:
            full = len(self._held) >= self._limit or self._bytes + size > self._limit_bytes
            if full or not self._open:
                return False
            self._held.append((item, size))
            self._bytes += size
            self._changed.notify()
            return True

    def first(self) -> T | None:
        """Wait for the item that is next, which stays until `done`; None once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or not self._open)
            return self._held[0][0] if self._open else None

    def done(self) -> bool:
        """Let the first item go; say whether it was still there, and not taken by `left`."""
        with self._changed:
            if not self._held:
                return False
            self._bytes -= self._held.popleft()[1]
            return True

    def close(self) -> None:
        """Take nothing any more, and wake who waits in `first`."""
        with self._changed:
            self._open = False
            self._changed.notify_all()

    def left(self) -> list[T]:
        """Let all go that was held, and return it."""
        with self._changed:
            items = [item for item, _ in self._held]
            self._held.clear()
            self._bytes = 0
            return items

    def __len__(self) -> int:
        return len(self._held)
