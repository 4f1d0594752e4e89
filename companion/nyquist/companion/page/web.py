"""The HTTP listener: /metrics for Prometheus, /healthz, and the page."""

import socket
from collections.abc import Sequence
from threading import Thread

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from nyquist.companion.page.safety import SafeHeaders
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.listening import address

CONNECTIONS = 64
GRACE_S = 1


def application(registry: CollectorRegistry, pages: Sequence[BaseRoute]) -> Starlette:
    """Return what answers: metrics and health, and the pages."""

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    async def healthy(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthy), *pages],
        middleware=[Middleware(SafeHeaders)],
    )


class WebListener:
    """Serves an application in a thread of its own. Close it.

    Args:
        app: that answers.
        host: to listen on.
        port: likewise; 0 lets the system choose.

    Attributes:
        port: that it listens on.

    Raises:
        StartError: another listens there.
    """

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            listening = socket.create_server((host, port), family=family)
        except OSError as error:
            raise StartError(
                f"HTTP cannot listen on {address(host, port)}: {error.strerror}; "
                "choose another with --http-port"
            ) from error
        self.port: int = listening.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                log_level="warning",
                access_log=False,
                limit_concurrency=CONNECTIONS,
                timeout_graceful_shutdown=GRACE_S,
            )
        )
        self._thread = Thread(target=self._server.run, args=([listening],), name="http")
        self._thread.start()

    def close(self) -> None:
        """Let running answers end, for a second at most, and stop."""
        self._server.should_exit = True
        self._thread.join()
