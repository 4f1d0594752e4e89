"""The bytes of pictures that all models together may hold."""

from nyquist.server.wire.errors import QueueFull


class QueueBudget:
    """Counts the bytes of the requests taken in and not answered, over every model.

    Used from the event loop alone.

    Args:
        max_bytes: that may be held at a time.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0

    def take(self, count: int) -> None:
        """Reserve `count` bytes.

        Raises:
            QueueFull: that many are not left.
        """
        if self.held_bytes + count > self.max_bytes:
            raise QueueFull(
                f"Exceeds maximum queued bytes of {self.max_bytes}: "
                f"{self.held_bytes} are held, the request has {count}"
            )
        self.held_bytes += count

    def give_back(self, count: int) -> None:
        """Return what `take` reserved."""
        self.held_bytes -= count
