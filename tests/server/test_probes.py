"""What probes are told of a server that starts, that could not load a model, and that drains.

docs/deployment.md has the table; each cell of it is asked for here.
"""

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import copy_model, damage
from tests.processes import ROOT
from tests.requests import fashion_request

SOUND, BROKEN = "fashion_strided", "fashion_blur"
PATIENCE_S = 60.0
LOADS_WHEN_TOLD = """
import sys
import nyquist.server.app as app
from nyquist.server.__main__ import main
load = app.load_model
def told(*arguments):
    sys.stdin.readline()
    return load(*arguments)
app.load_model = told
sys.exit(main(sys.argv[1:]))
"""
STATUS = health_pb2.HealthCheckResponse.ServingStatus


@dataclass
class Probed:
    """A server that loads a model for each line that it is sent.

    Attributes:
        process: of it.
        port: of gRPC and HTTP.
        metrics_port: of its metrics.
    """

    process: subprocess.Popen[str]
    port: int
    metrics_port: int

    def get(self, port: int, path: str) -> str:
        """Return the status of an HTTP answer; `refused` where nobody listens."""
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", path)
            return str(connection.getresponse().status)
        except ConnectionRefusedError:
            return "refused"
        finally:
            connection.close()

    def answers(self) -> list[str]:
        """Return what every probe of the table is told, in the order of its columns."""
        return [
            self.get(self.metrics_port, "/v2/health/live"),
            self.get(self.metrics_port, "/v2/health/ready"),
            self.get(self.port, "/v2/health/ready"),
            *self._of_grpc(),
        ]

    def _of_grpc(self) -> Iterator[str]:
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            health = health_pb2_grpc.HealthStub(channel)
            server = stubs.GRPCInferenceServiceStub(channel)

            def check(service: str) -> str:
                asked = health_pb2.HealthCheckRequest(service=service)
                return str(STATUS.Name(health.Check(asked, timeout=20).status))

            def ready() -> str:
                return str(server.ServerReady(pb.ServerReadyRequest(), timeout=20).ready).lower()

            probes: tuple[Callable[[], str], ...] = (ready, lambda: check(""), lambda: check(SOUND))
            for ask in probes:
                try:
                    yield ask()
                except grpc.RpcError as error:
                    yield "refused" if "refused" in (error.details() or "") else error.code().name

    def infer(self) -> None:
        """Ask the sound model, which must answer."""
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            stubs.GRPCInferenceServiceStub(channel).ModelInfer(fashion_request(model=SOUND))

    def unload(self) -> None:
        """Ask for the broken model no more."""
        asked = pb.RepositoryModelUnloadRequest(model_name=BROKEN)
        with grpc.insecure_channel(f"127.0.0.1:{self.port}") as channel:
            stubs.GRPCInferenceServiceStub(channel).RepositoryModelUnload(asked, timeout=20)


def until(found: Callable[[], bool]) -> None:
    """Wait for what a process does; there is nothing else to wait on."""
    gives_up = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < gives_up
        time.sleep(0.02)


def free_port() -> int:
    """Return a port that nobody listens on: that of a server that loads stands in no log."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


@pytest.fixture
def probed(repository: Path, tmp_path: Path) -> Iterator[Probed]:
    for name in (SOUND, BROKEN):
        copy_model(repository, tmp_path, name)
    damage(tmp_path / BROKEN / "1" / "model.onnx")
    port, metrics_port = free_port(), free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", LOADS_WHEN_TOLD, "--repository", str(tmp_path),
         "--port", str(port), "--metrics-port", str(metrics_port), "--drain-s", "60"],
        cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    server = Probed(process, port, metrics_port)
    yield server
    process.kill()
    process.wait()
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()


def table() -> dict[str, list[str]]:
    """Return the rows of the page, by what its first column says."""
    lines = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8").splitlines()
    head = next(at for at, line in enumerate(lines) if line.startswith("| the server |"))
    rows = (line.strip("| ").split(" | ") for line in lines[head + 2 : head + 6])
    return {state: answers for state, *answers in rows}


def test_every_probe_is_told_what_the_page_says(probed: Probed) -> None:
    expected, stdin = table(), probed.process.stdin
    assert stdin is not None
    until(lambda: probed.get(probed.metrics_port, "/v2/health/live") != "refused")
    assert probed.answers() == expected["loads its models"]
    stdin.write("\n\n")
    stdin.flush()
    until(lambda: probed.get(probed.port, "/v2/health/live") != "refused")
    assert probed.answers() == expected["has a model that could not be loaded"]
    assert probed.get(probed.metrics_port, "/healthz") == "404"
    probed.infer()
    probed.unload()
    until(lambda: probed.answers() == expected["is ready, or that model was unloaded"])
    probed.process.send_signal(signal.SIGTERM)
    until(lambda: probed.answers() == expected["drains"])
    probed.infer()
