"""The HTTP port that Prometheus reads, and that says whether this process lives and is ready.

registry -> text -> Triton's numbers written out -> gzip

It is served by h2corn whatever carries gRPC: a request that stands still costs no thread, and ends.
"""

import asyncio
import gzip
import re
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from h2corn import Config
from h2corn import Server as H2Server
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from nyquist.server.telemetry.banner import keep_quiet
from nyquist.server.wire.listening import address, bound_port, listen, remove_file

REQUEST_S = 5.0
IDLE_S = 120.0
END_S = 1.0

Event: TypeAlias = MutableMapping[str, Any]
Answer: TypeAlias = tuple[int, dict[bytes, bytes], bytes]
"""Status, headers, body."""

_UNTYPED = re.compile(rb"^(# TYPE nv_inference_\w+ )untyped$", re.MULTILINE)
_EXPONENT = re.compile(rb"^(nv_.*[} ])(\d\.?\d*e\+\d+)$", re.MULTILINE)


@asynccontextmanager
async def metrics_listener(
    registry: CollectorRegistry,
    ready: Callable[[], bool],
    host: str,
    port: int,
    request_s: float = REQUEST_S,
) -> AsyncIterator[int]:
    """Answer scrapes of a registry meanwhile; gives the port, which the system chooses for 0.

    Args:
        registry: what is read.
        ready: says whether the process is.
        host: to listen on.
        port: likewise.
        request_s: seconds that a request may stand still before its connection is closed.

    Raises:
        StartError: the port is taken, or the address is not this machine's.
    """
    listening = listen(host, port, "metrics", "--metrics-port")
    config = Config(
        bind=(f"fd://{listening.fileno()}",),
        lifespan="off",
        runtime_threads=1,
        access_log=False,
        log_format="json",
        timeout_handshake=request_s,
        timeout_request_header=request_s,
        timeout_keep_alive=IDLE_S,
        timeout_graceful_shutdown=END_S,
    )
    keep_quiet()
    server = H2Server(_Scrapes(registry, ready), config)
    serving = asyncio.create_task(server.serve())
    with listening:
        try:
            await server.wait_started()
            yield bound_port(listening)
        finally:
            server.shutdown()
            await asyncio.gather(serving, return_exceptions=True)
    remove_file(host)


def metrics_address(host: str, port: int) -> str:
    """Return where the metrics are: a URL, or a socket in the file system."""
    where = address(host, port)
    return where if where == host else f"http://{where}/metrics"


class _Scrapes:
    """Answers as an ASGI application; one scrape is written at a time, in a thread."""

    def __init__(self, registry: CollectorRegistry, ready: Callable[[], bool]) -> None:
        self._registry, self._ready = registry, ready
        self._writing = asyncio.Lock()

    async def __call__(
        self,
        scope: Event,
        receive: Callable[[], Awaitable[Event]],  # noqa: ARG002 - no request here has a body
        send: Callable[[Event], Awaitable[None]],
    ) -> None:
        if scope["type"] != "http":
            return
        status, headers, body = await self._answer(scope)
        headers[b"content-length"] = b"%d" % len(body)
        listed = list(headers.items())
        await send({"type": "http.response.start", "status": status, "headers": listed})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Event) -> Answer:
        path = scope["path"]
        if scope["method"] not in ("GET", "HEAD"):
            return 405, {b"allow": b"GET"}, b"GET alone is answered here\n"
        if path == "/metrics":
            async with self._writing:
                fields = dict(scope["headers"])
                query = parse_qs(scope["query_string"].decode("latin-1"))
                names = query.get("name[]", [])
                return await asyncio.to_thread(scraped, self._registry, fields, names)
        if path == "/v2/health/live" or (path == "/v2/health/ready" and self._ready()):
            return 200, {}, b""
        if path == "/v2/health/ready":  # as the protocol has it
            return 400, {}, b""
        return 404, {}, b"there are /metrics, /v2/health/live and /v2/health/ready\n"


def scraped(registry: CollectorRegistry, fields: dict[bytes, bytes], names: list[str]) -> Answer:
    """Write what a registry holds, in the format that the scraper asks for.

    perf_analyzer reads 8.5e+010 as 8.5, and the Prometheus client writes all above a million so:
    the numbers of Triton's metrics come without exponents. Its counters have no _total at their
    end, which OpenMetrics forbids and the Prometheus client calls untyped.

    Args:
        registry: what is read.
        fields: headers of the request.
        names: of the metrics that are wanted; none of them wants all.
    """
    encode, kind = choose_encoder(fields.get(b"accept", b"").decode("latin-1"))
    wanted: Any = registry.restricted_registry(names) if names else registry
    body = _UNTYPED.sub(rb"\1counter", _EXPONENT.sub(_write_out, encode(wanted)))
    headers = {b"content-type": kind.encode()}
    if b"gzip" in fields.get(b"accept-encoding", b""):
        headers[b"content-encoding"] = b"gzip"
        body = gzip.compress(body)
    return 200, headers, body


def _write_out(line: re.Match[bytes]) -> bytes:
    return line[1] + f"{float(line[2]):.0f}".encode()
