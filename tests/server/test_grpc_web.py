"""gRPC-Web on the wire, and the pages of other origins that may read its answers."""

import base64
import http.client
from collections.abc import Iterator
from pathlib import Path

import pytest

from nyquist.server.wire.pb import inference_pb2 as pb
from tests.processes import start_server

pytestmark = pytest.mark.parametrize("transport", ["h2corn"], indirect=True, scope="session")

SERVICE = "/inference.GRPCInferenceService"
NOTHING = bytes(5)
PAGE = "https://a.example"


@pytest.fixture(scope="module")
def connection(one_model: Path, transport: str) -> Iterator[http.client.HTTPConnection]:
    options = ("--drain-s", "0", "--transport", transport, "--cors-origin", PAGE)
    running = start_server(one_model, options)
    connected = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    yield connected
    connected.close()
    assert running.stop() == 0


def call(
    connection: http.client.HTTPConnection, path: str, body: bytes, kind: str = ""
) -> tuple[bytes, http.client.HTTPMessage]:
    connection.request("POST", path, body, {"Content-Type": f"application/grpc-web{kind}"})
    answer = connection.getresponse()
    assert answer.status == 200
    return answer.read(), answer.headers


def trailers(text: bytes) -> bytes:
    return b"\x80" + len(text).to_bytes(4, "big") + text


@pytest.mark.parametrize("kind", ["", "+proto"])
def test_the_trailers_are_the_last_frame_of_the_body(
    connection: http.client.HTTPConnection, kind: str
) -> None:
    body, headers = call(connection, f"{SERVICE}/ServerLive", NOTHING, kind)
    live = pb.ServerLiveResponse(live=True).SerializeToString()
    assert body == b"\0\0\0\0\2" + live + trailers(b"grpc-status: 0\r\n")
    assert headers["Content-Type"] == f"application/grpc-web{kind}"


def test_a_body_of_text_is_base64_in_either_direction(
    connection: http.client.HTTPConnection,
) -> None:
    body, _ = call(connection, f"{SERVICE}/ServerLive", base64.b64encode(NOTHING), "-text")
    frame, end = body[:12], body[12:]
    assert (
        base64.b64decode(frame)
        == b"\0\0\0\0\2" + pb.ServerLiveResponse(live=True).SerializeToString()
    )
    assert base64.b64decode(end) == trailers(b"grpc-status: 0\r\n")


@pytest.mark.parametrize("body", [b"AAAA$AA=", b"AAAAA"])
def test_what_is_no_base64_is_refused(connection: http.client.HTTPConnection, body: bytes) -> None:
    _, headers = call(connection, f"{SERVICE}/ServerLive", body, "-text")
    assert headers["Grpc-Status"] == "3"
    assert "base64" in headers["Grpc-Message"]


def test_answers_of_a_stream_come_one_by_one(connection: http.client.HTTPConnection) -> None:
    watching = http.client.HTTPConnection("127.0.0.1", connection.port, timeout=60)
    headers = {"Content-Type": "application/grpc-web-text"}
    body = base64.b64encode(NOTHING)
    watching.request("POST", "/grpc.health.v1.Health/Watch", body, headers)
    assert base64.b64decode(watching.getresponse().read(12)) == b"\0\0\0\0\2\x08\1"
    watching.close()


def test_a_page_of_an_origin_that_is_named_may_read_the_answer_and_no_other(
    connection: http.client.HTTPConnection,
) -> None:
    def asked(method: str, origin: str) -> http.client.HTTPResponse:
        headers = {"Origin": origin, "Access-Control-Request-Headers": "authorization"}
        connection.request(method, "/v2/health/live", headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer

    allowed = "Access-Control-Allow-Origin"
    assert asked("GET", PAGE).getheader(allowed) == PAGE
    assert asked("GET", "https://b.example").getheader(allowed) is None
    preflight = asked("OPTIONS", PAGE)
    assert (preflight.status, preflight.getheader(allowed)) == (204, PAGE)
    assert preflight.getheader("Access-Control-Allow-Headers") == "authorization"
    assert asked("OPTIONS", "https://b.example").status == 405
