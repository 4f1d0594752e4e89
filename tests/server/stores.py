"""A real S3 server, and a proxy before it that does to answers what networks and stores do.

moto's server (in this process, on a free port) <- Faulty <- s3fs
"""

import hashlib
import http.client
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Event, Thread
from typing import Any

from moto.server import ThreadedMotoServer

BUCKET = "models"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""Beside AWS_ENDPOINT_URL; moto takes any key."""
EXPIRED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>ExpiredToken</Code>'
    b"<Message>The provided token has expired.</Message></Error>"
)
HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "server", "date")

Answer = tuple[int, bytes]
Fault = Callable[[str, str, Answer], Answer | None]
"""What an answer becomes, by method, path, status and body; None: the connection is cut."""


def sound(method: str, path: str, answer: Answer) -> Answer:
    del method, path
    return answer


class Faulty(ThreadingHTTPServer):
    """Hands requests on, and answers back as its fault makes them.

    Attributes:
        fault: of every answer from now on.
        refuses: whether a request is cut before it is handed on, by its method.
        asked: method and path of each request so far.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, upstream: tuple[str, int]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.fault: Fault = sound
        self.refuses: Callable[[str], bool] = lambda _: False
        self.asked: list[tuple[str, str]] = []
        self.never = Event()
        self._more = Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def wait_for(self, count: int) -> None:
        """Wait until there have been so many requests."""
        with self._more:
            assert self._more.wait_for(lambda: len(self.asked) >= count, timeout=30)

    def note(self, method: str, path: str) -> None:
        """Remember a request."""
        with self._more:
            self.asked.append((method, path))
            self._more.notify_all()

    def fetched(self) -> list[str]:
        """Return the objects that were asked for, without their bucket."""
        return [
            path.split("?")[0].removeprefix(f"/{BUCKET}/")
            for method, path in self.asked
            if method == "GET" and "list-type" not in path
        ]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Faulty

    def _hand_on(self) -> None:
        self.server.note(self.command, self.path)
        if self.server.refuses(self.command):
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        upstream = http.client.HTTPConnection(*self.server.upstream)
        try:
            upstream.request(self.command, self.path, body, dict(self.headers))
            came = upstream.getresponse()
            content = came.read()
        finally:
            upstream.close()
        answer = self.server.fault(self.command, self.path, (came.status, content))
        if answer is None:
            self.close_connection = True
            return
        status, changed = answer
        self.send_response(status)
        for name, value in came.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = came.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length if status == came.status else len(changed)))
        self.end_headers()
        with suppress(ConnectionError):  # who asked has given up
            self.wfile.write(changed)
        if len(changed) < len(content):
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _hand_on  # noqa: N815 - names of http.server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def s3_server() -> Iterator[tuple[str, int]]:
    """Run moto's server; yield where it listens."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield server.get_host_and_port()
    server.stop()


@contextmanager
def faulty(upstream: tuple[str, int]) -> Iterator[Faulty]:
    """Run a proxy before a server."""
    proxy = Faulty(upstream)
    thread = Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    yield proxy
    proxy.never.set()
    proxy.shutdown()
    proxy.server_close()


def artifact(name: str, version: int = 1, graph: bytes = b"graph") -> dict[str, bytes]:
    """Return files that are laid out as a build lays them out; no server could open the graph."""
    files = {
        f"{name}/config.pbtxt": f'name: "{name}" platform: "onnxruntime_onnx"\n'.encode(),
        f"{name}/{version}/labels.txt": b"cat\ndog\n",
        f"{name}/{version}/model.onnx": graph,
    }
    listed = {
        path.removeprefix(f"{name}/"): hashlib.sha256(content).hexdigest()
        for path, content in files.items()
    }
    files[f"{name}/{version}/manifest.json"] = json.dumps({"files": listed}).encode()
    return files


def put(files: Any, prefix: str, content: Mapping[str, bytes]) -> None:
    """Write objects in their order."""
    for path, body in content.items():
        files.pipe_file(f"{prefix}/{path}", body)
