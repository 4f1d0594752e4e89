"""The server as a process: how it starts, fails to start, and stops."""

import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from threading import Event, Lock

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nyquist.client.client import Client
from nyquist.models.samples import fashion_samples
from tests.processes import ROOT, RunningServer, run, start_server
from tests.server.frames import GOAWAY, Connection

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_the_server_never_imports_torch() -> None:
    code = "import sys, nyquist.server.__main__; print('torch' in sys.modules)"
    command = [sys.executable, "-c", code]
    answer = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert answer.stdout == "False\n"


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_a_taken_port_is_one_clear_line(repository: Path, taken_port: int, option: str) -> None:
    free = {"--port": "0", "--metrics-port": "0"} | {option: str(taken_port)}
    options = [word for pair in free.items() for word in pair]
    ended = run("nyquist.server", "--repository", str(repository), *options, "--log-level", "error")
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert f"127.0.0.1:{taken_port}" in line
    assert f"choose another with {option}" in line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--repository", "/nowhere"], "there is no model repository at /nowhere"),
        (["--port", "70000"], "port: Input should be less than or equal to 65535, got '70000'"),
        (["--provider", "cpu", "--require-cuda"], "--require-cuda contradicts --provider cpu"),
    ],
)
def test_a_wrong_option_is_one_clear_line(options: list[str], message: str) -> None:
    ended = run("nyquist.server", "--port", "0", "--metrics-port", "0", *options)
    assert ended.returncode == 1
    (line,) = ended.stderr.splitlines()
    assert line.startswith("nyquist serve: error: ")
    assert message in line


def test_help_explains_every_option_with_its_default() -> None:
    ended = run("nyquist.server", "--help")
    assert ended.returncode == 0
    for option in ("--repository", "--port", "--provider", "--require-cuda", "--drain-s"):
        assert option in ended.stdout
    assert "(default: 8001)" in " ".join(ended.stdout.split())


def test_the_environment_sets_what_the_command_line_leaves(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NYQUIST_LOG_LEVEL", "loud")
    ended = run("nyquist.server", "--repository", str(repository))
    assert ended.returncode == 1
    assert "log_level" in ended.stderr


class Load:
    """Closed-loop callers that go on until the server is gone; counts what each call got."""

    def __init__(self, server: RunningServer, callers: int) -> None:
        self.outcomes: Counter[str] = Counter()
        self.answered = Event()
        self._counting = Lock()
        self._server = server
        # Read here: numpy parses a header, which Python 3.11 cannot do in several threads at once.
        self._pictures = fashion_samples().images[:1].numpy()
        self._pool = ThreadPoolExecutor(callers)
        self._calls = [self._pool.submit(self._call_until_refused) for _ in range(callers)]

    def join(self) -> None:
        for call in self._calls:
            call.result(timeout=60)
        self._pool.shutdown()

    def _call_until_refused(self) -> None:
        stop_at = time.monotonic() + 30
        with Client(self._server.target) as client:
            model = client.describe("fashion_strided")
            while time.monotonic() < stop_at:
                try:
                    client.infer(model, self._pictures)
                except grpc.RpcError as error:
                    with self._counting:
                        self.outcomes[error.code().name] += 1
                    return
                with self._counting:
                    self.outcomes["OK"] += 1
                if self.outcomes["OK"] > 200:
                    self.answered.set()


def test_a_terminated_server_answers_every_request_that_it_accepted(one_model: Path) -> None:
    server = start_server(one_model, ("--drain-s", "1"))
    load = Load(server, callers=8)
    assert load.answered.wait(timeout=60)
    with grpc.insecure_channel(server.target) as channel:
        statuses = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        seen = [next(statuses).status]
        server.process.send_signal(signal.SIGTERM)
        before = load.outcomes["OK"]
        seen.append(next(statuses).status)
        statuses.cancel()
    load.join()
    assert server.process.wait(timeout=60) == 0
    assert seen == [
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    ]
    assert load.outcomes["OK"] > before, "it served on while it drained"
    assert set(load.outcomes) <= {"OK", "UNAVAILABLE"}
    assert load.outcomes["UNAVAILABLE"] <= 8, "at most one refusal a caller, none of it accepted"
    server.reader.join()
    (summary,) = (line for line in server.log if "accepted" in line)
    assert f"{load.outcomes['OK']} requests accepted, {load.outcomes['OK']} finished" in summary


def test_a_second_signal_ends_the_server_at_once(one_model: Path) -> None:
    server = start_server(one_model, ("--drain-s", "60"))
    server.process.send_signal(signal.SIGTERM)
    gives_up = time.monotonic() + 60
    while not any("draining" in line for line in server.log):
        assert server.process.poll() is None
        assert time.monotonic() < gives_up
        time.sleep(0.01)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 128 + signal.SIGTERM
    server.reader.join()


def test_ctrl_c_stops_without_draining(one_model: Path) -> None:
    server = start_server(one_model, ("--drain-s", "60"))
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(timeout=60) == 0
    server.reader.join()


def health(port: int, what: str) -> int:
    """Return the status that a server's port of metrics has for its health."""
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", f"/v2/health/{what}")
    status = connection.getresponse().status
    connection.close()
    return status


# grpcio lets its connections go when it stops, not before.
@pytest.mark.parametrize("transport", ["h2corn"], indirect=True, scope="session")
def test_a_server_that_drains_lets_its_connections_go_at_once_and_answers_the_next(
    repository: Path,
) -> None:
    server = start_server(repository, ("--drain-s", "60", "--grace-s", "1"))
    assert health(server.metrics_port, "ready") == 200
    connection = Connection(server.port)
    connection.open("/inference.GRPCInferenceService/ServerLive", range(1, 2))
    next(connection.frames())  # it is there
    server.process.terminate()
    try:
        assert any(kind == GOAWAY for kind, *_ in connection.frames())
        with grpc.insecure_channel(server.target) as channel:
            stub = health_pb2_grpc.HealthStub(channel)
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with Client(server.target) as client:
            model = client.describe("fashion_blur")
            assert client.infer(model, fashion_samples().images[:1].numpy()).shape == (1, 10)
        assert [health(server.metrics_port, what) for what in ("live", "ready")] == [200, 400]
        assert server.process.poll() is None
    finally:
        connection.close()
        server.process.kill()
        server.process.wait()
