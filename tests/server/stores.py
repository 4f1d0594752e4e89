"""A real S3 server, and a proxy before it that does to answers what networks and stores do.

moto's server (in this process, on a free port) <- Faulty <- s3fs
"""

import hashlib
import http.client
import io
import json
import logging
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Event, Thread
from typing import Any
from urllib.parse import unquote
from urllib.request import Request, urlopen

from moto.server import ThreadedMotoServer

BUCKET = "models"
SECRET = "hunter2"  # noqa: S105 - moto takes any
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAHUNTER",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_DEFAULT_REGION": "us-east-1",
}
"""Beside AWS_ENDPOINT_URL; moto takes any key."""
EXPIRED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>ExpiredToken</Code>'
    b"<Message>The provided token has expired.</Message></Error>"
)
HOP_BY_HOP = ("connection", "transfer-encoding", "content-length", "server", "date")

Answer = tuple[int, bytes]
Fault = Callable[[str, str, Answer], Answer]
"""What an answer becomes, by method, path, status and body."""


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
    """Run moto's server, without a bucket; yield where it listens."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    # What it holds is the process's own, and other tests have had one.
    with urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")):
        yield host, port
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


class Pages(ThreadingHTTPServer):
    """Answers with what lies at a path.

    Attributes:
        pages: content by path, without a query.
        asked: paths so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _PagesHandler)
        self.pages: dict[str, bytes] = {}
        self.asked: list[str] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"


class _PagesHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Pages

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.server.asked.append(path)
        content = self.server.pages.get(path)
        self.send_response(404 if content is None else 200)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content or b"")

    do_HEAD = do_GET  # noqa: N815 - a name of http.server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def pages() -> Iterator[Pages]:
    """Run a server without a page."""
    server = Pages()
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def of_the_web(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the pages of a folder with its checksums."""
    sums = "".join(f"{sha256(content)}  ./{path}\n" for path, content in files.items())
    return {f"/models/{path}": one for path, one in {**files, "SHA256SUMS": sums.encode()}.items()}


def of_the_hub(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the pages of the Hugging Face Hub for a repository team/nets."""
    commit, api = sha256(repr(files).encode())[:40], "/api/models/team/nets"
    about = json.dumps({"id": "team/nets", "sha": commit}).encode()
    tree = [
        {"type": "file", "path": path, "size": len(content), "oid": sha256(content)[:40]}
        for path, content in files.items()
    ]
    return {
        api: about,
        f"{api}/revision/v1": about,
        f"{api}/revision/{commit}": about,
        f"{api}/tree/{commit}": json.dumps(tree).encode(),
        **{f"/team/nets/resolve/{commit}/{path}": one for path, one in files.items()},
    }


def of_a_registry(layers: Mapping[str, bytes], kind: str) -> dict[str, bytes]:
    """Return the pages of a registry for an artifact team/nets:v1 of titled layers.

    Args:
        layers: by their titles; one that begins with an underscore has none.
        kind: media type of them.
    """
    described = [
        {
            "mediaType": kind,
            "digest": f"sha256:{sha256(content)}",
            "size": len(content),
            "annotations": {} if title[0] == "_" else {"org.opencontainers.image.title": title},
        }
        for title, content in layers.items()
    ]
    blobs = {f"/v2/team/nets/blobs/sha256:{sha256(one)}": one for one in layers.values()}
    return {"/v2/team/nets/manifests/v1": json.dumps({"layers": described}).encode(), **blobs}


def tar(files: Mapping[str, bytes], *links: str) -> bytes:
    """Return a compressed tar of files, and of links to /etc/passwd."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for path in links:
            member = tarfile.TarInfo(path)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(member)
    return written.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
