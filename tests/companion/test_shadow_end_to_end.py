"""A server that mirrors its live traffic to a companion that runs."""

import socket
from pathlib import Path
from urllib.request import urlopen

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from nyquist.client.client import Client
from tests.artifacts import copy_model
from tests.companion.processes import start_companion
from tests.processes import RunningServer, start_server

MODEL = "fashion_strided"
LIVE = f'{{model="{MODEL}",version="1"}}'
REQUESTS, MOST_REQUESTS = 20, 2000


def free_port() -> int:
    """Return a port that nobody listens on: the two processes must know of each other."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_live_traffic_is_mirrored_and_compared_and_the_companions_own_is_not(
    repository: Path, tmp_path: Path
) -> None:
    copy_model(repository, tmp_path, MODEL)
    port = free_port()
    mirroring = ("--shadow-target", f"127.0.0.1:{port}", "--shadow-share", "1", "--drain-s", "0")
    server = start_server(tmp_path, mirroring)
    options = ("--port", str(port), "--core-share", "1", "--nice", "0", "--drain-s", "0")
    companion = start_companion(server.target, tmp_path, (*options, "--shadow-rate", "1000"))
    try:
        companion.wait_for(lambda: companion.verdict(MODEL) == "healthy")
        asked = 0
        checked = f"nyquist_shadow_checked_total{LIVE}"
        while companion.metrics()[checked] < REQUESTS:  # the server connects when it finds it
            assert asked < MOST_REQUESTS, server.log
            asked += ask(server.target)
        metrics = companion.metrics()
        assert metrics[f"nyquist_shadow_received_total{LIVE}"] <= asked  # none of the probe's
        live = f'model="{MODEL}",source="shadow",version="1"'
        assert metrics[f"nyquist_parity_relative_error{{{live}}}"] < 1e-4
        assert metrics[f"nyquist_parity_agreement_ratio{{{live}}}"] == 1
        answered = answered_by_source(server)
        assert answered["client"] == asked
        assert answered["probe"] > 0
        assert answered["shadow"] > 0
    finally:
        assert companion.stop() == 0
        server.stop()


def answered_by_source(server: RunningServer) -> dict[str, float]:
    """Return how many requests a server has answered, by who asked."""
    url = f"http://127.0.0.1:{server.metrics_port}/metrics"
    with urlopen(url, timeout=30) as answer:
        text: str = answer.read().decode()
    return {
        sample.labels["source"]: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "nyquist_request_duration_seconds_count"
    }


def ask(target: str) -> int:
    """Ask once as any caller does, and return how often that was."""
    with Client(target) as client:
        model = client.describe(MODEL)
        client.infer(model, np.random.default_rng(0).random((2, *model.shape), np.float32))
    return 1
