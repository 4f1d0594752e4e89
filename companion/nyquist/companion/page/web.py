"""The HTTP listener: /metrics for Prometheus, /healthz, and the page."""

import asyncio
from collections.abc import Callable, Sequence
from threading import Event, Thread

from h2corn import Config, Server
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from nyquist.companion.page.guard import Guard
from nyquist.companion.page.safety import SafeHeaders
from nyquist.server.front.access import Authorizer
from nyquist.server.telemetry.banner import keep_quiet
from nyquist.server.wire.listening import bound_port, listen

GRACE_S = 1.0
REQUEST_S = 5.0
"""That a request may stand still before its connection is closed."""


def application(
    registry: CollectorRegistry,
    pages: Sequence[BaseRoute],
    allows: Callable[[str], bool],
    authorizer: Authorizer | None = None,
) -> Starlette:
    """Return what answers: metrics and health to all, and the pages to whom they are for.

    Args:
        registry: of the metrics.
        pages: that are guarded.
        allows: whether a request may name this host.
        authorizer: of the tokens; None lets everyone in.
    """

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthy), *pages],
        middleware=[
            Middleware(SafeHeaders),
            Middleware(Guard, allows=allows, authorizer=authorizer),
        ],
    )


class WebListener:
    """Serves an application in a thread of its own. Close it.

    Args:
        app: that answers.
        host: to listen on.
        port: likewise; 0 lets the system choose.
        request_s: seconds that a request may stand still before its connection is closed.

    Attributes:
        port: that it listens on.

    Raises:
        StartError: another listens there.
    """

    def __init__(self, app: Starlette, host: str, port: int, request_s: float = REQUEST_S) -> None:
        self._socket = listen(host, port, "HTTP", "--http-port")
        self.port = bound_port(self._socket)
        config = Config(
            bind=(f"fd://{self._socket.fileno()}",),
            lifespan="off",
            runtime_threads=1,
            access_log=False,
            log_format="json",
            timeout_handshake=request_s,
            timeout_request_header=request_s,
            timeout_request_body_idle=request_s,
            timeout_graceful_shutdown=GRACE_S,
        )
        keep_quiet()
        self._server = Server(app, config)
        started = Event()
        self._thread = Thread(target=asyncio.run, args=(self._serve(started),), name="http")
        self._thread.start()
        started.wait()

    def close(self) -> None:
        """Let running answers end, for a second at most, and stop."""
        self._loop.call_soon_threadsafe(self._server.shutdown)
        self._thread.join()
        self._socket.close()

    async def _serve(self, started: Event) -> None:
        self._loop = asyncio.get_running_loop()
        serving = asyncio.create_task(self._server.serve())
        await self._server.wait_started()
        started.set()
        await serving
