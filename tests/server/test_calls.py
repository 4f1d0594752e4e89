"""What happens around a call, whatever its kind, seen by callers and in the log."""

import asyncio
import json
import logging
from typing import Any

import grpc
import pytest

from nyquist.server.front.calls import CallLimits
from nyquist.server.telemetry.logs import configure_logs
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.pb import inference_pb2 as pb
from tests.server.fallible import (
    KINDS,
    SECRET_PIXELS,
    SERVICE,
    TYPES,
    Fallible,
    Test,
    bidirectional,
    handled,
    serve,
    unary,
    watching,
)

pytestmark = pytest.mark.usefixtures("transport")


def logged(capsys: pytest.CaptureFixture[str], test: Test) -> list[dict[str, Any]]:
    """Run a test as `serve` does, and return what is logged meanwhile."""
    configure_logs("debug", "json")
    (handler,) = logging.getLogger().handlers
    try:
        serve(test)
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("nyquist").setLevel(logging.NOTSET)
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("request_", "code", "details"),
    [
        (b"invalid", "INVALID_ARGUMENT", "expected 1, got 2"),
        (b"abort", "DATA_LOSS", "gone"),
        (b"broken", "INTERNAL", "internal error; request id abc"),
        (b"artifact", "INTERNAL", "internal error; request id abc"),
    ],
)
def test_an_error_becomes_its_status_in_calls_of_every_kind(
    kind: Any, request_: bytes, code: str, details: str
) -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        assert await kind(channel, b"good") == b"good"
        with pytest.raises(grpc.RpcError) as failure:
            await kind(channel, request_, metadata=(("x-request-id", "abc"),))
        assert failure.value.code().name == code
        assert failure.value.details() == details
        assert await kind(channel, b"good") == b"good"

    metrics = Metrics()
    serve(test, metrics)
    assert handled(metrics) == {(TYPES[kind], "OK"): 2, (TYPES[kind], code): 1}


@pytest.mark.parametrize("kind", KINDS)
def test_an_unexpected_error_is_logged_with_its_call_and_without_its_values(
    kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    sent = (("x-request-id", "abc"), ("traceparent", f"00-{trace}-00f067aa0ba902b7-01"))

    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        with pytest.raises(grpc.RpcError):
            await kind(channel, b"broken", metadata=sent)

    events = [event for event in logged(capsys, test) if event["logger"].startswith("nyquist.")]
    (event,) = (event for event in events if event["level"] == "error")
    assert (event["request_id"], event["trace_id"]) == ("abc", trace)
    assert "RuntimeError" in event["exception"]
    assert not [event for event in events if SECRET_PIXELS in json.dumps(event)]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("abc-1", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("two words", False),
        ("", False),
    ],
)
def test_a_request_id_is_the_callers_if_it_is_plain_and_else_a_new_one(
    capsys: pytest.CaptureFixture[str], sent: str, kept: bool
) -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        await unary(channel, b"good", metadata=(("x-request-id", sent),))
        await unary(channel, b"good")

    ended = [event for event in logged(capsys, test) if event["event"] == "call ended"]
    first, second = (event["request_id"] for event in ended)
    assert (first == sent) is kept
    assert len(second) == 16
    assert first != second


@pytest.mark.parametrize(
    "traceparent",
    [
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "4bf92f3577b34da6a3ce929d0e0e4736",
    ],
)
def test_what_is_no_trace_is_not_logged_as_one(
    capsys: pytest.CaptureFixture[str], traceparent: str
) -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        await unary(channel, b"good", metadata=(("traceparent", traceparent),))

    assert not [event for event in logged(capsys, test) if "trace_id" in event]


@pytest.mark.parametrize("name", ["ModelReady", "ModelConfig"])
def test_bytes_that_are_no_message_are_the_callers_fault(name: str) -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        unary_call: Any = channel.unary_unary(f"/{SERVICE}/{name}")
        stream_call: Any = channel.stream_stream(f"/{SERVICE}/{name}")
        good = pb.ModelReadyRequest(name="m").SerializeToString()
        call = {
            "ModelReady": unary_call,
            "ModelConfig": lambda body: anext(aiter(stream_call(iter([body])))),
        }[name]
        assert await call(good) == b"m"
        with pytest.raises(grpc.RpcError) as failure:
            await call(b"\xff\xff")
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await call(good) == b"m"

    serve(test)


def test_a_method_that_is_not_in_the_access_table_does_not_exist() -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        call: Any = channel.unary_unary(f"/{SERVICE}/Unlisted")
        with pytest.raises(grpc.RpcError) as failure:
            await call(b"good")
        assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED

    serve(test)


def test_a_call_without_a_deadline_gets_one() -> None:
    async def test(channel: grpc.aio.Channel, service: Fallible) -> None:
        with pytest.raises(grpc.RpcError) as failure:
            await asyncio.wait_for(unary(channel, b"wait"), timeout=20)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert failure.value.details() == "Request timeout expired"
        assert service.entered.is_set()

    serve(test, limits=CallLimits(10, 0.05))


async def loading(channel: grpc.aio.Channel, request: bytes) -> bytes:
    call: Any = channel.unary_unary(f"/{SERVICE}/RepositoryModelLoad")
    return await call(request)


@pytest.mark.parametrize(
    "free",
    [
        lambda channel: unary(channel, b"wait", timeout=30),
        lambda channel: loading(channel, b"wait"),
    ],
)
def test_a_call_with_a_deadline_keeps_its_own_and_loading_has_none(free: Any) -> None:
    async def test(channel: grpc.aio.Channel, service: Fallible) -> None:
        waiting = asyncio.create_task(free(channel))
        await service.entered.wait()
        with pytest.raises(grpc.RpcError):
            await unary(channel, b"wait")
        assert not waiting.done()
        service.let_go.set()
        assert await waiting == b"wait"

    serve(test, limits=CallLimits(10, 0.05))


def test_one_call_too_many_is_refused_while_health_is_answered() -> None:
    async def test(channel: grpc.aio.Channel, service: Fallible) -> None:
        service.awaited = 3
        waiting = [asyncio.create_task(unary(channel, b"wait", timeout=30)) for _ in range(3)]
        await service.entered.wait()
        for kind in (unary, bidirectional):
            with pytest.raises(grpc.RpcError) as failure:
                await kind(channel, b"good")
            assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert "3 calls are running" in (failure.value.details() or "")
        assert await watching(channel, b"good") == b"good"
        service.let_go.set()
        assert await asyncio.gather(*waiting) == [b"wait"] * 3
        assert await unary(channel, b"good") == b"good"

    serve(test, limits=CallLimits(3, None))


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_is_given_up_frees_its_place(kind: Any) -> None:
    async def test(channel: grpc.aio.Channel, service: Fallible) -> None:
        for _ in range(3):
            waiting = asyncio.create_task(kind(channel, b"wait"))
            await service.entered.wait()
            waiting.cancel()
            await asyncio.wait([waiting])
        while True:
            try:
                return await kind(channel, b"good")
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
                    raise

    assert serve(test, limits=CallLimits(1, None)) == b"good"
