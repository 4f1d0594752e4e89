"""The HTTP port that Prometheus reads: registry -> text -> Triton's numbers written out -> gzip."""

import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, make_wsgi_app, start_http_server

from nyquist.server.wire.errors import StartError

REQUEST_S = 5.0

_EXPONENT = re.compile(rb"^(nv_.*[} ])(\d\.?\d*e\+\d+)$", re.MULTILINE)


@contextmanager
def metrics_listener(
    registry: CollectorRegistry, host: str, port: int, request_s: float = REQUEST_S
) -> Iterator[int]:
    """Answer scrapes of a registry meanwhile; gives the port, which the system chooses for 0.

    Args:
        registry: what is read.
        host: to listen on.
        port: likewise.
        request_s: seconds that a request may stand still before its connection is closed.

    Raises:
        StartError: the port is taken, or the address is not this machine's.
    """
    try:
        listener, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise StartError(
            f"metrics cannot listen on {host}:{port}: {error.strerror}; "
            "choose another with --metrics-port"
        ) from error
    listener.set_app(written_out(make_wsgi_app(registry)))
    listener.RequestHandlerClass = _bounded(listener.RequestHandlerClass, request_s)
    try:
        yield listener.server_port
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()


def _bounded(handler: Any, request_s: float) -> Any:  # noqa: ANN401 - not in the stubs
    """Let a request that stands still end, or it would hold a thread for as long as it likes."""

    class Bounded(handler):  # type: ignore[misc] # the base is the Prometheus client's
        timeout = request_s

        def handle(self) -> None:
            with suppress(TimeoutError):
                super().handle()

    return Bounded


def written_out(app: WSGIApplication) -> WSGIApplication:
    """Let an application's numbers of Triton's metrics come without exponents.

    perf_analyzer reads 8.5e+010 as 8.5; the Prometheus client writes all above a million so.
    """

    def plain(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        zipped = "gzip" in environ.pop("HTTP_ACCEPT_ENCODING", "")

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:  # noqa: ANN401 - exc_info
            encoding = [("Content-Encoding", "gzip")] if zipped else []
            return start_response(status, headers + encoding, *rest)

        body = _EXPONENT.sub(_write_out, b"".join(app(environ, start)))
        return [gzip.compress(body) if zipped else body]

    return plain


def _write_out(line: re.Match[bytes]) -> bytes:
    return line[1] + f"{float(line[2]):.0f}".encode()
