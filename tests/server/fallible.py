"""A service of every kind of call behind the interceptor, in this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from nyquist.server.front.access import Authorizer, Tokens
from nyquist.server.front.asgi import Application
from nyquist.server.front.bodies import BodyLimits
from nyquist.server.front.calls import CallLimits, Calls
from nyquist.server.front.http_listener import HttpListener, open_socket
from nyquist.server.settings import Settings
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.errors import ArtifactError, InvalidRequest, NotServed
from nyquist.server.wire.pb import inference_pb2 as pb

SERVICE = "inference.GRPCInferenceService"
PATIENCE_S = 60.0
OPEN = Authorizer(Tokens(), frozenset(), frozenset())
SECRET_PIXELS = "0.123456789"  # noqa: S105 - no password


Test = Callable[[grpc.aio.Channel, "Fallible"], Awaitable[Any]]
ERRORS = {
    b"invalid": InvalidRequest("expected 1, got 2"),
    b"broken": RuntimeError("/etc/passwd at 0x7f00deadbeef"),
    b"artifact": ArtifactError("/srv/models/m/1/model.onnx cannot be read"),
    b"not served": NotServed("left out"),
}


class Fallible:
    """A service of every kind of call; the request's text says how each of them ends.

    Attributes:
        entered: set when as many calls as are awaited have begun to wait.
        let_go: set to end them.
        left: set when one of them has ended before that.
    """

    def __init__(self) -> None:
        self.entered, self.let_go = asyncio.Event(), asyncio.Event()
        self.left = asyncio.Event()
        self.waiting, self.awaited, self.port = 0, 1, 0

    def another_channel(self) -> grpc.aio.Channel:
        """Open a connection of its own to where this is served."""
        own = [("grpc.use_local_subchannel_pool", 1)]
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.port}", options=own)

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
        if request == b"abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "gone")
        if request in ERRORS:
            raise ERRORS[request]
        if request == b"wait":
            self.waiting += 1
            if self.waiting >= self.awaited:
                self.entered.set()
            try:
                await self.let_go.wait()
            except asyncio.CancelledError:
                self.left.set()
                raise
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
    authorizer: Authorizer = OPEN,
    limits: CallLimits = CallLimits(10, None),  # noqa: B008 - frozen
) -> Any:
    """Run a test against a server of these calls, in this process."""

    async def run() -> Any:
        service = Fallible()
        calls = Calls(metrics or Metrics(), authorizer, limits)
        calls.add_generic_rpc_handlers(service.handlers())
        async with (
            TRANSPORTS[Settings().transport](calls) as port,
            grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
            asyncio.timeout(PATIENCE_S),
        ):
            service.port = port
            return await test(channel, service)

    return asyncio.run(run())


@asynccontextmanager
async def _on_grpcio(calls: Calls) -> AsyncIterator[int]:
    server = grpc.aio.server(handlers=(calls,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def _on_h2corn(calls: Calls) -> AsyncIterator[int]:
    settings = Settings()
    application = Application(calls, BodyLimits(4 * 2**20), settings.max_metadata_bytes)
    listener = HttpListener(application, settings, settings, open_socket("127.0.0.1", 0), grace_s=1)
    await listener.start()
    try:
        yield listener.port
    finally:
        await listener.close()


TRANSPORTS = {"grpcio": _on_grpcio, "h2corn": _on_h2corn}


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


def handled(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Return how many calls ended, by type and status, where any did."""
    return {
        (sample.labels["grpc_type"], sample.labels["grpc_code"]): sample.value
        for family in metrics.handled.collect()
        for sample in family.samples
        if sample.value
    }
