"""The metrics of gRPC calls, right for every way in which a call can end."""

import asyncio
from typing import Any

import grpc
import pytest

from nyquist.server.front.access import Access, Authorizer, Tokens
from nyquist.server.front.calls import CallLimits
from nyquist.server.telemetry.metrics import Metrics
from tests.server.fallible import (
    KINDS,
    SERVICE,
    TYPES,
    Fallible,
    bidirectional,
    handled,
    serve,
    unary,
    watching,
)

CLIENT = {"source": "client"}
CLOSED = Authorizer(Tokens(use=frozenset({b""})), frozenset({Access.REPOSITORY}), frozenset())
METHODS = {
    unary: (SERVICE, "ModelMetadata"),
    bidirectional: (SERVICE, "ModelStreamInfer"),
    watching: ("grpc.health.v1.Health", "Watch"),
}

pytestmark = pytest.mark.usefixtures("transport")


def messages(metrics: Metrics, kind: Any) -> tuple[float | None, float | None]:
    """Return how many messages a kind of call received and sent."""
    service, method = METHODS[kind]
    labels = {"grpc_type": TYPES[kind], "grpc_service": service, "grpc_method": method} | CLIENT
    received, sent = (
        metrics.registry.get_sample_value(f"grpc_server_msg_{way}_total", labels)
        for way in ("received", "sent")
    )
    return received, sent


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_the_caller_gives_up_counts_as_cancelled(kind: Any) -> None:
    async def test(channel: grpc.aio.Channel, service: Fallible) -> None:
        waiting = asyncio.create_task(kind(channel, b"wait"))
        await service.entered.wait()
        waiting.cancel()
        await service.left.wait()

    metrics = Metrics()
    serve(test, metrics)
    assert handled(metrics) == {(TYPES[kind], "CANCELLED"): 1}
    assert messages(metrics, kind) == (1, 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deadline_s", [0.5, 1.001])
def test_a_call_whose_deadline_passes_counts_as_that_and_not_as_cancelled(
    kind: Any, deadline_s: float
) -> None:
    async def test(channel: grpc.aio.Channel, service: Fallible) -> None:
        with pytest.raises(grpc.RpcError) as failure:
            await kind(channel, b"wait", timeout=deadline_s)
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await service.left.wait()

    metrics = Metrics()
    serve(test, metrics)
    assert handled(metrics) == {(TYPES[kind], "DEADLINE_EXCEEDED"): 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_that_is_turned_away_counts_and_its_message_is_not_read(kind: Any) -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        with pytest.raises(grpc.RpcError):
            await kind(channel, b"good")

    metrics = Metrics()
    serve(test, metrics, authorizer=CLOSED)
    assert handled(metrics) == {(TYPES[kind], "UNAUTHENTICATED"): 1}
    assert messages(metrics, kind) == (0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_one_call_too_many_counts_as_resource_exhausted(kind: Any) -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        with pytest.raises(grpc.RpcError):
            await kind(channel, b"good")

    metrics = Metrics()
    serve(test, metrics, limits=CallLimits(0, None))
    assert handled(metrics) == {(TYPES[kind], "RESOURCE_EXHAUSTED"): 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_part_that_is_not_served_counts_as_unimplemented(kind: Any) -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        with pytest.raises(grpc.RpcError):
            await kind(channel, b"not served")

    metrics = Metrics()
    serve(test, metrics)
    assert handled(metrics) == {(TYPES[kind], "UNIMPLEMENTED"): 1}


def test_methods_that_callers_make_up_count_together_under_one_name() -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        for number in range(3):
            call: Any = channel.unary_unary(f"/made.up.Service/Method{number}")
            with pytest.raises(grpc.RpcError) as failure:
                await call(b"")
            assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert failure.value.details() == "Method not found!"

    metrics = Metrics()
    serve(test, metrics)
    labels = {"grpc_type": "unary", "grpc_service": "_OTHER", "grpc_method": "_OTHER"} | CLIENT
    count = metrics.registry.get_sample_value
    assert count("grpc_server_started_total", labels) == 3
    assert count("grpc_server_handled_total", labels | {"grpc_code": "UNIMPLEMENTED"}) == 3
    methods = {
        sample.labels["grpc_service"]
        for family in metrics.started.collect()
        for sample in family.samples
    }
    assert methods == {SERVICE, "grpc.health.v1.Health", "_OTHER"}


def test_every_message_of_a_stream_counts_whoever_writes_it() -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        stream: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
        answers = [answer async for answer in stream(iter([b"1", b"2", b"3"]))]
        assert answers == [b"1", b"2", b"3"]
        await watching(channel, b"written by the handler itself")
        await unary(channel, b"good")

    metrics = Metrics()
    serve(test, metrics)
    assert messages(metrics, bidirectional) == (3, 3)
    assert messages(metrics, watching) == (1, 1)
    assert messages(metrics, unary) == (1, 1)


def test_every_method_and_status_is_there_at_zero_before_the_first_call() -> None:
    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        pass

    metrics = Metrics()
    serve(test, metrics)
    value = metrics.registry.get_sample_value
    stream = {
        "grpc_type": "bidi_stream",
        "grpc_service": SERVICE,
        "grpc_method": "ModelStreamInfer",
        **CLIENT,
    }
    for name in ("started_total", "msg_received_total", "msg_sent_total", "handling_seconds_count"):
        assert value(f"grpc_server_{name}", stream) == 0
    for code in grpc.StatusCode:
        labels = stream | {"grpc_code": code.name}
        assert value("grpc_server_handled_total", labels) == 0
