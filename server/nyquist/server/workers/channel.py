"""Messages between the supervising process and a worker, over a pair of sockets.

length (4 bytes) -> pickle; the processes are of one program, and nobody else has the sockets
"""

import asyncio
import pickle
import socket
from typing import Any


class Channel:
    """One end.

    Args:
        end: of the pair.
    """

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def open(self) -> None:
        """Take the socket into the running loop."""
        self._reader, self._writer = await asyncio.open_connection(sock=self._end)

    def send(self, *message: Any) -> None:  # noqa: ANN401 - what pickle takes
        """Send a message; to one who has gone, nothing is sent."""
        if self._writer is None or self._writer.is_closing():
            return
        content = pickle.dumps(message)
        self._writer.write(len(content).to_bytes(4, "big") + content)

    async def receive(self) -> Any:  # noqa: ANN401 - what was sent
        """Return the next message; None once the other has gone."""
        assert self._reader is not None  # noqa: S101 - for mypy: it is open
        try:
            size = int.from_bytes(await self._reader.readexactly(4), "big")
            return pickle.loads(await self._reader.readexactly(size))  # noqa: S301 - our own process
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Let the other know that nothing comes any more."""
        if self._writer is not None:
            self._writer.close()
        else:
            self._end.close()
