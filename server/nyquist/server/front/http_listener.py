"""The HTTP/2 server itself: its socket, its limits, and how it changes over.

one listening socket -> an h2corn server -> the next on the same socket; the first lets go

A server that is told to end sends GOAWAY at once and answers what it has; the next one accepts
meanwhile. So callers are spread, certificates renewed, and a stop begins, in one way.
"""

import asyncio
import logging
import socket

from h2corn import Config
from h2corn import Server as H2Server

from nyquist.server.front.asgi import Application
from nyquist.server.front.settings import CallSettings, ListenerSecurity
from nyquist.server.front.tls import Renewal, certificate_files
from nyquist.server.telemetry.banner import keep_quiet
from nyquist.server.wire.listening import bound_port, listen

logger = logging.getLogger(__name__)

KEEPALIVE_S = 60
KEEPALIVE_PROBE_S = 20
KEEPALIVE_PROBES = 3
IDLE_S = 3600.0
"""What a connection without calls has; its caller opens the next without noticing."""

STREAMS = 1024
"""Calls of one connection at a time; its caller keeps the next ones back by itself."""

STREAM_WINDOW_BYTES = 1 << 20
CONNECTION_WINDOW_BYTES = 4 << 20
LOOK_S = 0.25


def open_socket(host: str, port: int) -> socket.socket:
    """Listen there; connections inherit that the kernel looks for callers that are gone.

    Raises:
        StartError: another listens there, or the address is not this machine's.
    """
    listening = listen(host, port, "gRPC", "--port or --host")
    if listening.family == socket.AF_UNIX:
        return listening
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_S)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_PROBE_S)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


class HttpListener:
    """Serves an application until it is closed.

    Args:
        application: that answers.
        settings: of calls and connections.
        security: certificates.
        listening: the socket, which it closes.
        grace_s: what the calls of a connection have to end that is let go.

    Attributes:
        port: that it listens on; 0 of a socket in the file system.
    """

    def __init__(
        self,
        application: Application,
        settings: CallSettings,
        security: ListenerSecurity,
        listening: socket.socket,
        grace_s: float,
    ) -> None:
        self._application, self._settings, self._grace_s = application, settings, grace_s
        self._files = certificate_files(security)
        self._socket = listening
        self.port = bound_port(listening)
        self._current: H2Server | None = None
        self._serving: dict[asyncio.Task[None], H2Server] = {}

    async def start(self) -> None:
        """Accept connections from now on."""
        keep_quiet()
        server = H2Server(self._application, self._config())
        task = asyncio.create_task(server.serve())
        self._serving[task] = server
        task.add_done_callback(self._ended)
        await server.wait_started()
        self._current = server

    async def change_over(self) -> None:
        """Let every connection go, and accept the next ones without a gap."""
        before = self._current
        await self.start()
        if before is not None:
            before.shutdown()

    async def close(self) -> None:
        """Accept nothing any more, and return once all calls have ended, or their time is over."""
        for server in self._serving.values():  # one may have been about to take over
            server.shutdown()
        self._application.end_watches()
        self._socket.close()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def keep_young(self) -> None:
        """Change over whenever connections are as old as they may be, until cancelled."""
        while age_s := self._settings.max_connection_age_s:
            await asyncio.sleep(age_s)
            await self.change_over()

    async def keep_certified(self) -> None:
        """Change over whenever the certificate has been renewed, until cancelled."""
        if self._files is None:
            return
        renewal = Renewal(self._files)
        while True:
            await asyncio.sleep(LOOK_S)
            if await asyncio.to_thread(renewal) is None:
                continue
            try:
                await self.change_over()
            except (OSError, ValueError) as error:  # written to since they were looked at
                logger.error("the TLS files cannot be taken up, the old ones stay: %s", error)  # noqa: TRY400 - one line is all

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._serving.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("the HTTP/2 server ended: %s", error)

    def _config(self) -> Config:
        settings, files = self._settings, self._files
        return Config(
            bind=(f"fd://{self._socket.fileno()}",),
            lifespan="off",
            runtime_threads=1,  # a second one costs more than it brings: measured with two cores
            grpc=True,
            max_request_body_size=0,  # bodies have limits of their own, in bytes and in time
            timeout_request_body_idle=0,
            access_log=False,
            log_format="json",
            max_concurrent_streams=STREAMS,
            limit_request_fields=0,
            # The application refuses what is above the limit with a status; this is for the rest.
            h2_max_header_list_size=4 * settings.max_metadata_bytes,
            h2_max_header_block_size=4 * settings.max_metadata_bytes,
            h2_initial_stream_window_size=STREAM_WINDOW_BYTES,
            h2_initial_connection_window_size=CONNECTION_WINDOW_BYTES,
            timeout_graceful_shutdown=self._grace_s,
            timeout_keep_alive=IDLE_S,
            certfile=files.certificate if files else None,
            keyfile=files.key if files else None,
            ca_certs=files.client_ca if files else None,
            cert_reqs="required" if files and files.client_ca else "none",
        )
