"""The lab, asked over HTTP as its page asks it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from nyquist.client.client import Client
from nyquist.companion.page.guard import hosts
from nyquist.companion.page.lab.routes import Lab
from nyquist.companion.page.lab.served import Models, Target
from nyquist.companion.page.web import WebListener, application
from nyquist.server.wire.connection import Connection

TYPE = "application/octet-stream"


@contextmanager
def opened(*targets: str) -> Iterator[int]:
    """Open the lab of some servers, and yield its port."""
    connections = [Connection(target) for target in targets]
    clients = [Client(connection, source="probe") for connection in connections]
    lab = Lab(Models([Target(*one) for one in zip(connections, clients, strict=True)]))
    listener = WebListener(
        application(CollectorRegistry(), lab.routes(), hosts((), "127.0.0.1")), "127.0.0.1", 0
    )
    try:
        yield listener.port
    finally:
        listener.close()
        lab.close()
        for client in clients:
            client.close()


def ask(port: int, path: str, body: bytes | None = None, kind: str = TYPE) -> tuple[int, bytes]:
    """Return the status of an answer and all of it."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        answer = sent(connection, path, body, kind)
        return answer.status, answer.read()


def sent(
    connection: HTTPConnection, path: str, body: bytes | None = None, kind: str = TYPE
) -> HTTPResponse:
    """Send a request, and return the beginning of its answer."""
    connection.request("POST" if body else "GET", path, body, {"content-type": kind})
    return connection.getresponse()


def body_of(models: Sequence[str], pictures: Sequence[Path], /, **wish: Any) -> bytes:
    """Return the body of a run; pictures are labelled with the names of their folders."""
    files = [path.read_bytes() for path in pictures]
    head: dict[str, Any] = {
        "models": models,
        "pictures": [
            {"name": path.name, "size": len(file), "label": path.parent.name}
            for path, file in zip(pictures, files, strict=True)
        ],
    }
    return json.dumps(head | wish).encode() + b"\n" + b"".join(files)


def run(port: int, models: Sequence[str], pictures: Sequence[Path], **wish: Any) -> list[Any]:
    """Return the events of a run."""
    status, answer = ask(port, "/lab/run", body_of(models, pictures, **wish))
    assert status == 200, answer
    return [json.loads(line) for line in answer.splitlines()]


def of_kind(events: Sequence[Any], kind: str) -> list[Any]:
    """Return the events of a kind."""
    return [event for event in events if event["kind"] == kind]
