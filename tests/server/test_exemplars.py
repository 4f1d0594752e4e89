"""Trace ids beside the latencies: who gets one, and that Prometheus takes it."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import grpc
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as families

from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import RunningServer, start_server
from tests.requests import fashion_request

pytestmark = pytest.mark.usefixtures("transport")

NAME = "nyquist_request_duration_seconds_bucket"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SAMPLED = f"00-{TRACE}-00f067aa0ba902b7-01"
UNSAMPLED = f"00-{TRACE}-00f067aa0ba902b7-00"
OPEN_METRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TIMEOUT_S = 30


@pytest.fixture(scope="module")
def traced(one_model: Path, transport: str) -> Iterator[RunningServer]:
    running = start_server(one_model, ("--drain-s", "0", "--transport", transport))
    yield running
    assert running.stop() == 0


def infer(server: RunningServer, *metadata: tuple[str, str]) -> None:
    with grpc.insecure_channel(server.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        stub.ModelInfer(fashion_request(model="fashion_strided"), metadata=metadata)


def scrape(server: RunningServer, accept: str) -> str:
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urlopen(Request(url, headers={"Accept": accept}), timeout=30) as answer:
        text: str = answer.read().decode()
    return text


def exemplars(server: RunningServer) -> list[dict[str, str]]:
    return [
        sample.exemplar.labels
        for family in families(scrape(server, OPEN_METRICS))  # type: ignore[no-untyped-call] # its own
        for sample in family.samples
        if sample.exemplar
    ]


def test_only_a_call_whose_trace_is_sampled_leaves_its_id(traced: RunningServer) -> None:
    infer(traced)
    infer(traced, ("traceparent", UNSAMPLED))
    infer(traced, ("traceparent", "nonsense"))
    assert exemplars(traced) == []
    infer(traced, ("traceparent", SAMPLED))
    assert exemplars(traced) == [{"trace_id": TRACE}]
    assert TRACE not in scrape(traced, "text/plain")


def test_open_metrics_has_the_same_series_and_none_of_their_times_of_creation(
    traced: RunningServer,
) -> None:
    def names(accept: str) -> set[str]:
        lines = scrape(traced, accept).splitlines()
        return {line.split("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}

    assert names(OPEN_METRICS) == names("text/plain")
    assert not [name for name in names(OPEN_METRICS) if name.endswith("_created")]


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_prometheus_stores_the_exemplar(traced: RunningServer, tmp_path: Path) -> None:
    infer(traced, ("traceparent", SAMPLED))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "2s"},
                "scrape_configs": [
                    {
                        "job_name": "nyquist",
                        "static_configs": [{"targets": [f"127.0.0.1:{traced.metrics_port}"]}],
                    }
                ],
            }
        )
    )
    process = subprocess.Popen(
        [  # noqa: S607 - wherever it is installed
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--enable-feature=exemplar-storage",
            "--log.level=error",
        ]
    )
    try:
        stored = wait_for(f"http://127.0.0.1:{port}/api/v1/query_exemplars?query={NAME}")
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert TRACE in {exemplar["labels"]["trace_id"] for exemplar in stored}


def wait_for(url: str) -> list[dict[str, Any]]:
    """Ask Prometheus until it has exemplars."""
    url += f"&start={time.time() - 3600}&end={time.time() + 3600}"
    give_up = time.monotonic() + TIMEOUT_S
    while time.monotonic() < give_up:
        try:
            with urlopen(url, timeout=30) as answer:  # noqa: S310 - http, loopback
                series = json.load(answer)["data"]
        except OSError:
            series = []
        if series:
            return [exemplar for one in series for exemplar in one["exemplars"]]
        time.sleep(0.1)  # its API has nothing to wait on
    raise AssertionError("Prometheus has stored no exemplar")
