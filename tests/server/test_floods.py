"""What callers without a token can do to all others: nothing, on h2corn.

grpcio lets streams in and holds their bodies before Python hears of them, so that headers without
a body, bursts and resets shut others out there; the same tests on it fail.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event
from typing import Any, cast

import grpc
import pytest

from nyquist.server.front.asgi import Application
from nyquist.server.front.bodies import BodyLimits
from nyquist.server.front.calls import CallLimits, Calls
from nyquist.server.front.http_listener import HttpListener, open_socket
from nyquist.server.settings import Settings
from nyquist.server.telemetry.metrics import Metrics
from tests.processes import RunningServer, start_server
from tests.requests import fashion_request
from tests.server.fallible import OPEN, Fallible, serve, unary
from tests.server.frames import (
    CANCEL,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    RESET,
    Connection,
    frame,
    headers,
)

NAME = "fashion_strided"
SERVICE = "/inference.GRPCInferenceService/"
LIVE, INFER = SERVICE + "ServerLive", SERVICE + "ModelInfer"
TOKEN = "use-token-0123456789"  # noqa: S105 - opens nothing
MIB = 1024 * 1024
BODY = fashion_request(1, NAME).SerializeToString()


@pytest.fixture(scope="module")
def server(one_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    tokens = tmp_path_factory.mktemp("tokens") / "use"
    tokens.write_text(TOKEN, encoding="ascii")
    options = ("--transport", "h2corn", "--token-file", str(tokens), "--max-concurrent-rpcs", "64")
    running = start_server(one_model, ("--drain-s", "0", "--grace-s", "1", *options))
    yield running
    assert running.stop() == 0


def outcomes(server: RunningServer, count: int, channels: int = 1) -> Counter[str]:
    """Send calls all at once, and count how they end."""
    own = [("grpc.use_local_subchannel_pool", 1)]
    ends: Counter[str] = Counter()
    opened = [grpc.insecure_channel(server.target, options=own) for _ in range(channels)]
    calls = [
        cast(Any, opened[at % channels].unary_unary(INFER)).future(
            BODY, timeout=60, metadata=[("authorization", f"Bearer {TOKEN}")]
        )
        for at in range(count)
    ]
    for call in calls:
        ends[call.code().name] += 1
    for channel in opened:
        channel.close()
    return ends


@contextmanager
def another_caller(server: RunningServer) -> Iterator[Counter[str]]:
    """Send one call after the other meanwhile, and count how they end."""
    stop, ends = Event(), Counter[str]()

    def call() -> None:
        while not stop.is_set():
            ends.update(outcomes(server, 1))

    with ThreadPoolExecutor(1) as pool:
        calling = pool.submit(call)
        try:
            yield ends
        finally:
            stop.set()
            calling.result()


@pytest.mark.parametrize("path", [LIVE, "/grpc.health.v1.Health/Check", INFER])
def test_streams_that_send_headers_alone_take_no_place_of_others(
    server: RunningServer, path: str
) -> None:
    idle = [Connection(server.port) for _ in range(4)]
    for connection in idle:
        connection.open(path, range(1, 2 * 64, 2))
    assert outcomes(server, 50) == {"OK": 50}
    for connection in idle:
        connection.close()


def test_a_large_body_is_refused_by_its_first_bytes_where_messages_are_small(
    server: RunningServer,
) -> None:
    connection = Connection(server.port)
    connection.open(LIVE, range(1, 2))
    connection.send(frame(0, 0, 1, b"\0" + (60 * MIB).to_bytes(4, "big")))
    assert any(kind == HEADERS for kind, *_ in connection.frames())  # and it sent no more
    connection.close()
    with grpc.insecure_channel(server.target) as channel:
        live: Any = channel.unary_unary(LIVE)
        with pytest.raises(grpc.RpcError) as failure:
            live(bytes(64 * 1024 + 1), timeout=20)
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "65536 at most" in (failure.value.details() or "")


def test_a_burst_is_answered_or_refused_and_never_cancelled(server: RunningServer) -> None:
    with another_caller(server) as ends:
        burst = outcomes(server, 3000, channels=4)
    assert set(burst) <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}
    assert burst["OK"]
    assert set(ends) <= {"OK", "RESOURCE_EXHAUSTED", "UNAVAILABLE"}


def test_streams_that_are_reset_at_once_disturb_nobody(server: RunningServer) -> None:
    block = headers(LIVE)
    rapid = b"".join(
        frame(HEADERS, END_HEADERS | END_STREAM, stream, block) + frame(RESET, 0, stream, CANCEL)
        for stream in range(1, 6001, 2)
    )
    with another_caller(server) as ends:
        for _ in range(5):
            connection = Connection(server.port)
            with suppress(OSError):  # it may be closed for that
                connection.send(rapid)
            connection.close()
        assert outcomes(server, 10) == {"OK": 10}
    assert set(ends) == {"OK"}


def test_a_connection_that_takes_every_place_leaves_one_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def test(channel: grpc.aio.Channel, service: Fallible) -> None:
        service.awaited = 3
        waiting = [asyncio.create_task(unary(channel, b"wait", timeout=30)) for _ in range(3)]
        await service.entered.wait()
        with pytest.raises(grpc.RpcError) as failure:
            await unary(channel, b"good")
        assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        async with service.another_channel() as other:
            assert await unary(other, b"good") == b"good"
        service.let_go.set()
        assert await asyncio.gather(*waiting) == [b"wait"] * 3

    monkeypatch.setenv("NYQUIST_TRANSPORT", "h2corn")
    serve(test, limits=CallLimits(3, None))


def test_a_message_that_does_not_come_ends_with_a_status() -> None:
    async def test() -> None:
        calls = Calls(Metrics(), OPEN, CallLimits(10, None))
        calls.add_generic_rpc_handlers(Fallible().handlers())
        settings = Settings()
        application = Application(calls, BodyLimits(MIB, first_s=0.1), MIB)
        listener = HttpListener(
            application, settings, settings, open_socket("127.0.0.1", 0), grace_s=1
        )
        await listener.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{listener.port}") as channel:
                call: Any = channel.stream_unary(SERVICE + "ModelMetadata")
                withheld = call()
                with pytest.raises(grpc.RpcError) as failure:
                    await withheld
        finally:
            await listener.close()
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "did not come" in (failure.value.details() or "")

    asyncio.run(test())
