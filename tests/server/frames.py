"""HTTP/2 by hand, for callers that no client library is: they stop halfway, reset, flood."""

import socket
import struct
from collections.abc import Iterator

DATA, HEADERS, RESET, SETTINGS, GOAWAY = 0, 1, 3, 4, 7
END_STREAM, END_HEADERS, ACK = 1, 4, 1
CANCEL = struct.pack(">I", 8)

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def headers(path: str, *more: tuple[str, str]) -> bytes:
    """Return the headers of a gRPC call, each a literal that no table keeps."""
    pairs = (
        *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")),
        *(("te", "trailers"), ("content-type", "application/grpc")),
        *more,
    )
    return b"".join(b"\0" + _text(name) + _text(value) for name, value in pairs)


def _text(text: str) -> bytes:
    encoded = text.encode()
    assert len(encoded) < 127
    return bytes([len(encoded)]) + encoded


class Connection:
    """A connection that says only what it is told to."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._unread = b""
        self.send(PREFACE + frame(SETTINGS, 0, 0) + frame(SETTINGS, ACK, 0))

    def send(self, frames: bytes) -> None:
        self._socket.sendall(frames)

    def open(self, path: str, streams: range, *more: tuple[str, str]) -> None:
        """Begin calls, and send nothing of their bodies."""
        block = headers(path, *more)
        self.send(b"".join(frame(HEADERS, END_HEADERS, stream, block) for stream in streams))

    def frames(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield kind, flags, stream and body of what comes, until the server closes."""
        while True:
            head = self._read(9)
            if len(head) < 9:
                return
            body = self._read(int.from_bytes(head[:3], "big"))
            yield head[3], head[4], int.from_bytes(head[5:9], "big"), body

    def close(self) -> None:
        self._socket.close()

    def _read(self, size: int) -> bytes:
        while len(self._unread) < size:
            got = self._socket.recv(65536)
            if not got:
                break
            self._unread += got
        data, self._unread = self._unread[:size], self._unread[size:]
        return data
