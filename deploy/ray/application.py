"""Nyquist as a deployment of Ray Serve: serve run deploy/ray/serve.yaml.

Ray's proxy: gRPC, REST -> a replica -> the application that h2corn has elsewhere -> answer, status
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import unquote

import grpc
from ray import serve
from ray.serve.grpc_util import RayServegRPCContext
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from nyquist.server.app import Server
from nyquist.server.front.asgi import Application
from nyquist.server.front.grpc_wire import PREFIX_BYTES, Header, framed
from nyquist.server.settings import read_settings
from nyquist.server.wire.pb import inference_pb2

SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
UNARY = [one.name for one in SERVICE.methods if not one.client_streaming]
"""Methods that a replica answers; of ModelStreamInfer Ray would hand on objects, not bytes."""

STATUSES = {code.value[0]: code for code in grpc.StatusCode}
OWN = {"port": 0, "metrics_port": 0, "transport": "h2corn", "drain_s": 0.0}
"""Of every replica: free ports, since several are on one node, and Ray itself drains."""


class Registering(Protocol):
    """The part of a gRPC server that a service is added to."""

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None: ...


def add_service(_servicer: object, server: Registering) -> None:
    """Tell Ray's proxy the methods; messages stay bytes there, and are parsed in the replica."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        name: grpc.unary_unary_rpc_method_handler(lambda _request, _context: None) for name in UNARY
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(SERVICE.full_name, handlers),)
    )


class Answer(bytes):
    """A message as it goes to the caller."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - Ray calls it so
        """Return it as it is."""
        return bytes(self)


class Passed(Response):
    """Lets an application answer an HTTP request whose body it reads itself."""

    def __init__(self, application: Application) -> None:
        super().__init__()
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer it."""
        await self._application(scope, receive, send)


class Replica:
    """A whole server: registry, batchers, admission, metrics. Its callers come through Ray.

    Args:
        settings: as flags or the TOML file have them: repository, load, threads, ...
    """

    async def __init__(  # type: ignore[misc] # Ray awaits it
        self, settings: Mapping[str, Any]
    ) -> None:
        self._server = await Server(read_settings({**settings, **OWN})).__aenter__()

    async def __del__(self) -> None:
        """Stop as a server does; Ray has let the last requests end."""
        await self._server.__aexit__()

    def check_health(self) -> None:
        """Tell Ray, which replaces a replica that fails this.

        Raises:
            RuntimeError: the server is not ready.
        """
        if not self._server.ready:
            raise RuntimeError("the server is not ready")

    async def __call__(self, _request: Request) -> Response:
        """Answer REST."""
        return Passed(self._application)

    @property
    def _application(self) -> Application:
        application = self._server.application
        assert application is not None, "h2corn is the transport"  # noqa: S101 - of OWN
        return application

    async def call(self, method: str, message: bytes, context: RayServegRPCContext) -> Answer:
        """Have the application answer one unary gRPC call, as if it came over HTTP/2."""
        headers: list[Header] = [(b"content-type", b"application/grpc")]
        for key, value in context.invocation_metadata():
            headers.append((key.encode(), value if isinstance(value, bytes) else value.encode()))
        scope = {
            "type": "http",
            "method": "POST",
            "raw_path": f"/{SERVICE.full_name}/{method}".encode(),
            "query_string": b"",
            "headers": headers,
            "client": (context.peer(), 0),
        }
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": framed(message), "more_body": False}

        async def send(event: Message) -> None:
            sent.append(event)

        await self._application(scope, receive, send)
        return _answer(sent, context)


def _answer(sent: Iterable[Message], context: RayServegRPCContext) -> Answer:
    """Take the message and the status out of what an application has sent."""
    events = list(sent)
    trailers = dict(header for event in events for header in event.get("headers", ()))
    status = STATUSES[int(trailers.get(b"grpc-status", b"2"))]
    if status is not grpc.StatusCode.OK:
        context.set_code(status)
        context.set_details(unquote(trailers.get(b"grpc-message", b"").decode()))
        raise RuntimeError(status.name)
    body = b"".join(event.get("body", b"") for event in events)
    return Answer(body[PREFIX_BYTES:])


def _method(name: str) -> Any:  # noqa: ANN401 - Ray looks at its signature
    async def call(self: Replica, request: bytes, grpc_context: RayServegRPCContext) -> Answer:
        return await self.call(name, request, grpc_context)

    call.__name__ = name
    return call


for _name in UNARY:
    setattr(Replica, _name, _method(_name))


def application(settings: dict[str, Any]) -> serve.Application:
    """Return what `serve run` runs; `args` of the YAML file are the settings."""
    return serve.deployment(name="nyquist")(Replica).bind(settings)
