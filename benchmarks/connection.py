"""Unary gRPC calls of one fixed request over one HTTP/2 connection, at little cost.

start -> flush -> (the server) -> finished

libnghttp2 frames and parses, so a call costs a few microseconds where grpcio's Python client takes
as much CPU as the server that it is to measure.
"""

import socket
from dataclasses import dataclass, field

import ngh2

METHOD = "/inference.GRPCInferenceService/ModelInfer"
WINDOW_BYTES = 2**30
RECEIVE_BYTES = 256 * 1024


class CallFailed(Exception):
    """A call ended with another status than OK, or the connection ended."""


@dataclass
class _Answer:
    body: list[bytes] = field(default_factory=list)
    headers: dict[bytes, bytes] = field(default_factory=dict)


class Connection:
    """One connection. Close it.

    Args:
        port: of a server on this machine, without TLS.
        body: the serialized request that every call sends.
        method: full name of the RPC.
    """

    def __init__(self, port: int, body: bytes, method: str = METHOD) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10.0)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(0.0)
        self._message = b"\0" + len(body).to_bytes(4, "big") + body
        self._headers = [
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", f"127.0.0.1:{port}".encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
        ]
        self._http2 = ngh2.Connection(ngh2.Role.CLIENT)
        self._http2.initiate_connection({ngh2.Setting.INITIAL_WINDOW_SIZE: WINDOW_BYTES})
        self._http2.set_local_window_size(WINDOW_BYTES)
        self._answers: dict[int, _Answer] = {}
        self._unsent = memoryview(b"")

    def fileno(self) -> int:
        """Return what a selector waits for."""
        return self._socket.fileno()

    def start(self) -> int:
        """Begin a call and return its number; `flush` sends it."""
        stream = self._http2.send_request(self._headers)
        self._http2.send_data(stream, self._message, end_stream=True)
        self._answers[stream] = _Answer()
        return stream

    def flush(self) -> bool:
        """Send what the socket takes now; return whether nothing is left."""
        while True:
            if not self._unsent:
                self._unsent = memoryview(self._http2.data_to_send())
            if not self._unsent:
                return True
            try:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
            except BlockingIOError:
                return False

    def finished(self) -> list[tuple[int, bytes]]:
        """Read what has come; return the calls that it ends, and their answers.

        Raises:
            CallFailed: one of them ended with another status than OK.
        """
        try:
            received = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not received:
            raise CallFailed("the server closed the connection")
        self._http2.receive_data(received)
        return [done for event in self._http2.events() if (done := self._heed(event))]

    def _heed(self, event: ngh2.Event) -> tuple[int, bytes] | None:
        match event:
            case ngh2.DataReceived(stream, chunk):
                self._answers[stream].body.append(chunk)
            case ngh2.ResponseReceived(stream, headers) | ngh2.TrailersReceived(stream, headers):
                self._answers[stream].headers.update(headers)
            case ngh2.StreamClosed(stream):
                return stream, _message(self._answers.pop(stream))
        return None

    def close(self) -> None:
        """End the connection."""
        self._socket.close()


def _message(answer: _Answer) -> bytes:
    status = answer.headers.get(b"grpc-status")
    if status != b"0":
        words = answer.headers.get(b"grpc-message", b"").decode()
        raise CallFailed(f"a call ended with grpc-status {(status or b'none').decode()}: {words}")
    return b"".join(answer.body)[5:]
