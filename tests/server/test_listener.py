import gzip
import socket
from typing import Any
from urllib.request import Request, urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge

from nyquist.server.telemetry.listener import metrics_listener


def get(port: int, **headers: str) -> tuple[bytes, Any]:
    request = Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
    with urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
        return answer.read(), answer.headers


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("nv_large", "x", ["model"], registry=registry).labels("a b").set(85_899_345_920)
    Gauge("large", "x", registry=registry).set(85_899_345_920)
    return registry


def test_tritons_numbers_are_written_out_and_the_others_left_as_they_are(
    registry: CollectorRegistry,
) -> None:
    with metrics_listener(registry, "127.0.0.1", 0) as port:
        body, _ = get(port)
    lines = body.decode().splitlines()
    assert 'nv_large{model="a b"} 85899345920' in lines
    assert "large 8.589934592e+10" in lines


@pytest.mark.parametrize(
    "accept", ["text/plain", "application/openmetrics-text; version=1.0.0; charset=utf-8"]
)
def test_a_scrape_is_compressed_where_that_is_asked_for(
    registry: CollectorRegistry, accept: str
) -> None:
    with metrics_listener(registry, "127.0.0.1", 0) as port:
        plain, _ = get(port, Accept=accept)
        zipped, headers = get(port, Accept=accept, **{"Accept-Encoding": "gzip"})
    assert headers["Content-Encoding"] == "gzip"
    assert headers["Content-Type"].split(";")[0] == accept.split(";")[0]
    assert gzip.decompress(zipped) == plain


def test_a_request_that_stands_still_is_given_up_in_silence(
    registry: CollectorRegistry, capfd: pytest.CaptureFixture[str]
) -> None:
    with metrics_listener(registry, "127.0.0.1", 0, request_s=0.05) as port:
        half = socket.create_connection(("127.0.0.1", port), timeout=20)
        half.sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        assert half.recv(1) == b""
        half.close()
        assert get(port)[0]
    assert capfd.readouterr().err == ""
