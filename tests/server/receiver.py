"""A companion's receiving end: keeps what is mirrored to it."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Condition, Event
from typing import Any

import grpc

from nyquist.server.wire.pb import shadow_pb2 as pb
from nyquist.server.wire.pb import shadow_pb2_grpc as stubs

TIMEOUT_S = 30.0


class Receiver(stubs.ShadowServicer):
    """Serves nyquist.v1.Shadow on the loopback; use it with `with`.

    Args:
        port: to listen on; 0 lets the system choose.
        credentials: for TLS; None without.
        token: that a stream must bring; empty: none.
        reads: whether it takes messages, or hangs.

    Attributes:
        received: messages, in their order.
        streams: how many were begun.
    """

    def __init__(
        self,
        port: int = 0,
        credentials: grpc.ServerCredentials | None = None,
        token: str = "",
        *,
        reads: bool = True,
    ) -> None:
        self.received: list[pb.MirroredInference] = []
        self.streams = 0
        self._token, self._reads = token, reads
        self._let_go, self._changed = Event(), Condition()
        self._server = grpc.server(
            ThreadPoolExecutor(4), options=[("grpc.max_receive_message_length", -1)]
        )
        stubs.add_ShadowServicer_to_server(self, self._server)
        address = f"127.0.0.1:{port}"
        self.port = (
            self._server.add_secure_port(address, credentials)
            if credentials
            else self._server.add_insecure_port(address)
        )

    @property
    def target(self) -> str:
        return f"localhost:{self.port}"

    def __enter__(self) -> "Receiver":
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._let_go.set()
        self._server.stop(None).wait(TIMEOUT_S)

    def Mirror(  # noqa: N802 - gRPC's name
        self, request_iterator: Iterator[pb.MirroredInference], context: Any
    ) -> pb.MirrorReceipt:
        sent = dict(context.invocation_metadata())
        self._note(stream=True)
        if self._token and sent.get("authorization") != f"Bearer {self._token}":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no such token")
        if not self._reads:
            self._let_go.wait(TIMEOUT_S)
        count = 0
        for message in request_iterator:
            count += 1
            self._note(message)
        return pb.MirrorReceipt(received=count)

    def wait_until(self, condition: Callable[["Receiver"], object]) -> None:
        """Wait for what comes to be enough."""
        with self._changed:
            assert self._changed.wait_for(lambda: condition(self), TIMEOUT_S)

    def _note(self, message: pb.MirroredInference | None = None, *, stream: bool = False) -> None:
        with self._changed:
            self.streams += stream
            if message is not None:
                self.received.append(message)
            self._changed.notify_all()


def until(condition: Callable[[], object], attempt: Callable[[], object] = lambda: None) -> None:
    """Attempt again and again, with a little time between, until a condition holds."""
    give_up = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        attempt()
        time.sleep(0.002)  # other threads have to come in between
