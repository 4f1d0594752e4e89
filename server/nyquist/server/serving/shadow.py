"""Mirror a share of live inferences, with their answers, to a companion. No request waits for it.

a request that has run -> chosen? -> queue, or dropped -> a thread: message -> one stream

A companion that is away, hangs or is slow costs its inferences: they are dropped and counted.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import random
from threading import Event, Thread
from typing import Any

import grpc
from numpy.typing import NDArray

from nyquist.server.artifact.graph_description import Described
from nyquist.server.scheduling.request_queue import Outputs
from nyquist.server.serving.mirrored import Inference
from nyquist.server.serving.settings import ShadowSettings
from nyquist.server.telemetry.current_call import current_call
from nyquist.server.telemetry.metrics import ModelMetrics
from nyquist.server.wire.byte_queue import ByteQueue
from nyquist.server.wire.connection import CLIENT, NO_SHADOW
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.pb import shadow_pb2 as pb
from nyquist.server.wire.pb import shadow_pb2_grpc as stubs

MAX_INFERENCES = 256
MAX_BYTES = 64 * 1024 * 1024
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 30.0
END_S = 1.0
"""How long the companion gets to take what was sent when the server stops."""

KEEPALIVE_MS = 330_000
"""Finds a companion that is gone without a word; servers take a ping every 300 s for abuse."""

Mirror = Callable[[NDArray[Any], Outputs], None]
Outbox = ByteQueue[Inference]

logger = logging.getLogger(__name__)


class Companion:
    """Where inferences are mirrored to, and how it is reached.

    Args:
        target: host:port.
        ca: certificates, PEM, of which one has signed the companion's; None: no TLS.
        token: sent with each connection; empty: none.
    """

    def __init__(self, target: str, ca: bytes | None = None, token: str = "") -> None:
        self.target = target
        self._credentials = ca and grpc.ssl_channel_credentials(ca)
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def channel(self) -> grpc.Channel:
        """Open a connection of its own, without the waits that gRPC's shared ones remember."""
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.keepalive_time_ms", KEEPALIVE_MS),
            ("grpc.max_send_message_length", -1),
        )
        if self._credentials:
            return grpc.secure_channel(self.target, self._credentials, options)
        return grpc.insecure_channel(self.target, options)


class Shadow:
    """Mirrors to one companion from a thread of its own, between `start` and `close`.

    Args:
        companion: that gets the inferences.
        share: of them that is mirrored, above 0 to 1.
    """

    def __init__(self, companion: Companion, share: float) -> None:
        self._companion, self._share = companion, share
        self._outbox, self._overflowed = make_outbox(), False
        self._state = ""
        self._closing, self._wake = Event(), Event()
        self._thread = Thread(target=self._run, name="shadow", daemon=True)

    def start(self) -> None:
        """Connect, and stay connected."""
        self._thread.start()

    def close(self) -> None:
        """End the stream and the thread; takes a little over END_S at most."""
        self._closing.set()
        self._wake.set()
        self._thread.join()

    def of(self, manifest: Described, metrics: ModelMetrics) -> Mirror:
        """Return what mirrors the inferences of one loaded version, on the event loop."""

        def mirror(pictures: NDArray[Any], outputs: Outputs) -> None:
            if random() >= self._share:  # noqa: S311 - no secret
                return
            call = current_call()
            if call.source == CLIENT and not call.sent(NO_SHADOW):
                trace_id = call.trace.trace_id if call.trace else ""
                self._offer(Inference(manifest, metrics, pictures, outputs, trace_id))

        return mirror

    def _offer(self, inference: Inference) -> None:
        outbox = self._outbox
        if outbox.put(inference):
            return
        inference.metrics.shadow_dropped.inc()
        if outbox.open and not self._overflowed:
            self._overflowed = True
            self._say(logging.WARNING, "does not keep up: what it has no room for is dropped")

    def _run(self) -> None:
        wait_s = FIRST_RETRY_S
        while not self._closing.is_set():
            delivered = self._connect()
            wait_s = FIRST_RETRY_S if delivered else min(2 * wait_s, LAST_RETRY_S)
            self._closing.wait(wait_s)

    def _connect(self) -> bool:
        """Keep one stream up for as long as it holds; say whether anything came through."""
        self._wake.clear()
        outbox, delivered = self._outbox, Event()
        if not outbox.open:
            self._outbox, self._overflowed = make_outbox(), False
            outbox = self._outbox
        with self._companion.channel() as channel:
            call = stubs.ShadowStub(channel).Mirror.future(
                self._messages(outbox, delivered), metadata=self._companion.metadata
            )
            call.add_done_callback(lambda _: self._wake.set())
            if not self._closing.is_set():
                self._wake.wait()
            outbox.close()
            self._tell_end(call)
            for inference in outbox.left():  # the one that gRPC has in hand among them
                inference.metrics.shadow_dropped.inc()
        return delivered.is_set()

    def _messages(self, outbox: Outbox, delivered: Event) -> Iterator[pb.MirroredInference]:
        """Yield what waits, in gRPC's thread; it asks for the next once the last is on its way."""
        while inference := outbox.first():
            yield inference.message()
            if not outbox.done():
                return  # it was given up, and counted as dropped
            inference.metrics.shadow_mirrored.inc()
            delivered.set()
            if not self._overflowed:
                self._say(logging.INFO, f"gets {100 * self._share:g} % of the inferences")
            elif not outbox:
                self._overflowed = False

    def _tell_end(self, call: Any) -> None:  # noqa: ANN401 - a call has no type of its own
        """Say why a stream ended; when it is the server that ends it, give it a moment."""
        with suppress(grpc.FutureTimeoutError):
            try:
                call.result(timeout=END_S)
            except grpc.RpcError:
                if not self._closing.is_set():
                    why = f"{call.code().name} {call.details()}"
                    self._say(logging.WARNING, f"is away, inferences for it are dropped: {why}")
            else:
                if not self._closing.is_set():
                    self._say(logging.WARNING, "has ended the stream; inferences are dropped")
        call.cancel()

    def _say(self, level: int, state: str) -> None:
        """Log what holds of the companion, once for each change."""
        kind = state.split(":")[0]
        if kind != self._state:
            self._state = kind
            logger.log(level, "the companion at %s %s", self._companion.target, state)


def make_outbox() -> Outbox:
    """Return the queue of one connection."""
    return ByteQueue(MAX_INFERENCES, MAX_BYTES, lambda inference: inference.nbytes)


def make_shadow(settings: ShadowSettings) -> Shadow | None:
    """Return what the settings ask for; None where nothing is mirrored.

    Raises:
        StartError: a file cannot be read, or does not hold one token.
    """
    if not settings.shadow_share or settings.shadow_target is None:
        return None
    ca = _read(settings.shadow_ca) if settings.shadow_ca else None
    token = _token(settings.shadow_token_file) if settings.shadow_token_file else ""
    if token and not ca:
        logger.warning("the companion's token travels unencrypted: there is no --shadow-ca")
    return Shadow(Companion(settings.shadow_target, ca, token), settings.shadow_share)


def _token(path: Path) -> str:
    tokens = _read(path).decode(errors="replace").split()
    if len(tokens) != 1 or not tokens[0].isascii():
        raise StartError(f"--shadow-token-file {path} has {len(tokens)} tokens, expected one")
    return tokens[0]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartError(f"{path} cannot be read: {error.strerror}") from error
