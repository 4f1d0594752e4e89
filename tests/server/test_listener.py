import asyncio
import gzip
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client import CollectorRegistry, Gauge

from nyquist.server.telemetry.listener import metrics_listener

HALF = b"GET /metrics HTTP/1.1\r\nX: "


def get(port: int, path: str = "/metrics", **headers: str) -> tuple[int, bytes, Any]:
    request = Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urlopen(request, timeout=30) as answer:  # noqa: S310 - loopback
            return answer.status, answer.read(), answer.headers
    except HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


@asynccontextmanager
async def listening(
    registry: CollectorRegistry, ready: Callable[[], bool] = lambda: True, request_s: float = 5.0
) -> AsyncIterator[Callable[..., Any]]:
    """Give what gets an answer of a listener, without standing in its way."""
    async with metrics_listener(registry, ready, "127.0.0.1", 0, request_s) as port:

        async def ask(path: str = "/metrics", **headers: str) -> tuple[int, bytes, Any]:
            return await asyncio.to_thread(get, port, path, **headers)

        ask.port = port  # type: ignore[attr-defined] # for those who send by hand
        yield ask


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("nv_large", "x", ["model"], registry=registry).labels("a b").set(85_899_345_920)
    Gauge("large", "x", registry=registry).set(85_899_345_920)
    return registry


def test_tritons_numbers_are_written_out_and_the_others_left_as_they_are(
    registry: CollectorRegistry,
) -> None:
    async def run() -> None:
        async with listening(registry) as ask:
            _, body, _ = await ask()
            lines = body.decode().splitlines()
            assert 'nv_large{model="a b"} 85899345920' in lines
            assert "large 8.589934592e+10" in lines
            _, body, _ = await ask("/metrics?name[]=large")
            assert b"nv_large" not in body

    asyncio.run(run())


@pytest.mark.parametrize(
    "accept", ["text/plain", "application/openmetrics-text; version=1.0.0; charset=utf-8"]
)
def test_a_scrape_is_compressed_where_that_is_asked_for(
    registry: CollectorRegistry, accept: str
) -> None:
    async def run() -> None:
        async with listening(registry) as ask:
            _, plain, _ = await ask(Accept=accept)
            _, zipped, headers = await ask(Accept=accept, **{"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert headers["Content-Type"].split(";")[0] == accept.split(";")[0]
        assert gzip.decompress(zipped) == plain

    asyncio.run(run())


def test_it_lives_is_ready_as_the_process_says_and_answers_nothing_else(
    registry: CollectorRegistry,
) -> None:
    state = {"ready": True}

    async def run() -> None:
        async with listening(registry, lambda: state["ready"]) as ask:
            assert (await ask("/v2/health/ready"))[0] == 200
            state["ready"] = False
            assert (await ask("/v2/health/ready"))[0] == 400
            assert (await ask("/v2/health/live"))[0] == 200
            status, body, _ = await ask("/v2")
            assert (status, body) == (
                404,
                b"there are /metrics, /v2/health/live and /v2/health/ready\n",
            )

    asyncio.run(run())


def test_a_request_that_stands_still_is_given_up_in_silence(
    registry: CollectorRegistry, capfd: pytest.CaptureFixture[str]
) -> None:
    async def run() -> None:
        async with listening(registry, request_s=0.1) as ask:
            reader, writer = await asyncio.open_connection("127.0.0.1", ask.port)  # type: ignore[attr-defined] # as above
            writer.write(HALF)
            said = await asyncio.wait_for(reader.read(), 20)
            assert not said.startswith(b"HTTP/1.1 200")
            writer.close()
            assert (await ask())[0] == 200

    asyncio.run(run())
    assert capfd.readouterr().err == ""


def test_six_hundred_half_requests_keep_no_scrape_waiting(registry: CollectorRegistry) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))

    async def run() -> None:
        async with listening(registry, request_s=60) as ask:
            held = []
            for _ in range(600):
                half = socket.create_connection(("127.0.0.1", ask.port), timeout=20)  # type: ignore[attr-defined] # as above
                half.sendall(HALF)
                held.append(half)
            try:
                assert (await ask())[0] == 200
            finally:
                for half in held:
                    half.close()

    try:
        asyncio.run(run())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
