"""What happens around a call, whatever its kind, seen by callers and in the log."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from prometheus_client import generate_latest

from server.access import Gate, Tokens
from server.errors import ArtifactError, InvalidRequest
from server.interceptors import CallLimits, Calls
from server.logs import configure_logs
from server.metrics import Metrics
from server.pb import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
OPEN = Gate(Tokens(), frozenset(), frozenset())
SECRET_PIXELS = "0.123456789"  # noqa: S105 - no password


Test = Callable[[grpc.aio.Channel, "Fallible"], Awaitable[Any]]


class Fallible:
    """A service of every kind of call; the request's text says how each of them ends.

    Attributes:
        entered: set when as many calls as are awaited have begun to wait.
        let_go: set to end them.
    """

    def __init__(self) -> None:
        self.entered, self.let_go = asyncio.Event(), asyncio.Event()
        self.waiting, self.awaited = 0, 1

    async def unary(self, request: bytes, context: Any) -> bytes:
        return await self._answer(request, context)

    async def generator(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await self._answer(request, context)

    async def writer(self, request: bytes, context: Any) -> None:
        await context.write(await self._answer(request, context))

    async def parsed(self, request: pb.ModelReadyRequest, context: Any) -> bytes:  # noqa: ARG002 - gRPC's signature
        return request.name.encode()

    async def parsed_stream(
        self,
        requests: AsyncIterator[pb.ModelReadyRequest],
        context: Any,  # noqa: ARG002 - gRPC's signature
    ) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request.name.encode()

    async def _answer(self, request: bytes, context: Any) -> bytes:
        pixels = SECRET_PIXELS
        if request == b"invalid":
            raise InvalidRequest("expected 1, got 2")
        if request == b"abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        if request == b"broken":
            raise RuntimeError("/etc/passwd at 0x7f00deadbeef")
        if request == b"artifact":
            raise ArtifactError("/srv/models/m/1/model.onnx cannot be read")
        if request == b"wait":
            self.waiting += 1
            if self.waiting >= self.awaited:
                self.entered.set()
            await self.let_go.wait()
        return request + pixels[:0].encode()

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        parse = pb.ModelReadyRequest.FromString
        make: Any = grpc
        inference = {
            "ModelMetadata": make.unary_unary_rpc_method_handler(self.unary),
            "ModelStreamInfer": make.stream_stream_rpc_method_handler(self.generator),
            "ModelReady": make.unary_unary_rpc_method_handler(self.parsed, parse),
            "ModelConfig": make.stream_stream_rpc_method_handler(self.parsed_stream, parse),
            "RepositoryModelLoad": make.unary_unary_rpc_method_handler(self.unary),
            "Unlisted": make.unary_unary_rpc_method_handler(self.unary),
        }
        watch = {"Watch": make.unary_stream_rpc_method_handler(self.writer)}
        return (
            make.method_handlers_generic_handler(SERVICE, inference),
            make.method_handlers_generic_handler("grpc.health.v1.Health", watch),
        )


def serve(
    test: Test,
    metrics: Metrics | None = None,
    gate: Gate = OPEN,
    limits: CallLimits = CallLimits(10, None),  # noqa: B008 - frozen
) -> Any:
    """Run a test against a server with one interceptor, in this process."""

    async def run() -> Any:
        service = Fallible()
        calls = Calls(metrics or Metrics(), gate, limits)
        calls.add_generic_rpc_handlers(service.handlers())
        server = grpc.aio.server(handlers=(calls,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
                return await test(channel, service)
        finally:
            await server.stop(None)

    return asyncio.run(run())


async def unary(channel: grpc.aio.Channel, request: bytes, **options: Any) -> bytes:
    call: Any = channel.unary_unary(f"/{SERVICE}/ModelMetadata")
    return await call(request, **options)


async def bidirectional(channel: grpc.aio.Channel, request: bytes, **options: Any) -> bytes:
    call: Any = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    return (await anext(aiter(call(iter([request]), **options)))) or b""


async def watching(channel: grpc.aio.Channel, request: bytes, **options: Any) -> bytes:
    call: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
    return (await anext(aiter(call(request, **options)))) or b""


KINDS = [unary, bidirectional, watching]
TYPES = {unary: "unary", bidirectional: "bidi_stream", watching: "server_stream"}


def logged(capsys: pytest.CaptureFixture[str], test: Test) -> list[dict[str, Any]]:
    """Run a test as `serve` does, and return what is logged meanwhile."""
    configure_logs("debug", "json")
    (handler,) = logging.getLogger().handlers
    try:
        serve(test)
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger("server").setLevel(logging.NOTSET)
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
    lines = generate_latest(metrics.registry).decode().splitlines()
    counted = [line for line in lines if line.startswith("grpc_server_handled_total{")]
    (failed,) = (line for line in counted if f'grpc_code="{code}"' in line)
    assert f'grpc_type="{TYPES[kind]}"' in failed
    assert failed.endswith(" 1.0")


@pytest.mark.parametrize("kind", KINDS)
def test_an_unexpected_error_is_logged_with_its_call_and_without_its_values(
    kind: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    sent = (("x-request-id", "abc"), ("traceparent", f"00-{trace}-00f067aa0ba902b7-01"))

    async def test(channel: grpc.aio.Channel, _: Fallible) -> None:
        with pytest.raises(grpc.RpcError):
            await kind(channel, b"broken", metadata=sent)

    events = logged(capsys, test)
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
