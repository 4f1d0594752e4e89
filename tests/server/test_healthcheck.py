"""python -m nyquist.server.healthcheck: what a container's health check exits with."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from nyquist.client.client import Client
from tests.processes import ROOT, RunningServer, start_server
from tests.server.certificates import Authority

pytestmark = pytest.mark.usefixtures("transport")

TOKEN = "health-token-0123456789"  # noqa: S105 - opens nothing
Response = health_pb2.HealthCheckResponse


def check(
    *arguments: str, **variables: str | int | Path | None
) -> subprocess.CompletedProcess[str]:
    """Run the health check with these NYQUIST_* variables."""
    named = {f"NYQUIST_{name.upper()}": str(value) for name, value in variables.items()}
    return subprocess.run(
        [sys.executable, "-m", "nyquist.server.healthcheck", *arguments],
        cwd=ROOT,
        env=os.environ | named,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@contextmanager
def health_server(status: health_pb2.HealthCheckResponse.ServingStatus) -> Iterator[int]:
    """Answer health checks with a status; yield the port."""
    servicer = health.HealthServicer()
    servicer.set("", status)
    server = grpc.server(ThreadPoolExecutor(max_workers=1))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait(10)


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        ([], 0, ""),
        (["--model", "fashion_blur"], 0, ""),
        (["--model", "nobody"], 1, "NOT_FOUND"),
    ],
)
def test_a_server_and_each_of_its_models_can_be_asked_for(
    server: RunningServer, arguments: list[str], status: int, reason: str
) -> None:
    checked = check(*arguments, port=server.port)
    assert checked.returncode == status
    assert checked.stderr.startswith(f"{server.target}: {reason}" if reason else "")
    assert bool(checked.stderr) is bool(reason)


def test_all_addresses_are_asked_at_this_machines_own(server: RunningServer) -> None:
    assert check(port=server.port, host="0.0.0.0").returncode == 0  # noqa: S104 - the case


def test_a_target_wins_over_the_variables(server: RunningServer) -> None:
    assert check("--target", server.target, port=1).returncode == 0


def test_a_proxy_of_the_environment_is_none_for_this_machine(
    server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert check(port=server.port).stderr == ""
    with Client(server.target) as client:
        assert client.ready()


def test_a_draining_server_is_not_healthy() -> None:
    with health_server(Response.NOT_SERVING) as port:
        checked = check(port=port)
    assert (checked.returncode, checked.stderr) == (1, f"127.0.0.1:{port}: NOT_SERVING\n")


def test_where_nobody_listens_is_not_healthy() -> None:
    with health_server(Response.SERVING) as port:
        pass
    checked = check(port=port)
    assert checked.returncode == 1
    assert checked.stderr.startswith(f"127.0.0.1:{port}: UNAVAILABLE: ")
    assert checked.stderr.count("\n") == 1


def test_variables_that_the_server_would_refuse_are_not_healthy() -> None:
    checked = check(port="http")
    assert checked.returncode == 1
    assert "port: Input should be a valid integer" in checked.stderr
    assert "Traceback" not in checked.stderr


def test_tls_and_a_token_come_from_the_servers_own_variables(
    one_model: Path, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    own = authority.issue("server", "models.example")
    tokens = tmp_path / "tokens"
    tokens.write_text(f"{TOKEN}\n", encoding="ascii")
    tls: dict[str, Path | str] = {"tls_certificate": own.certificate, "tls_key": own.key}
    asked = tls | {"token_file": tokens, "health_access": "token"}
    options = [word for name, value in asked.items()
               for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
    running = start_server(one_model, ("--drain-s", "0", *options))
    try:
        assert check(port=running.port, **asked).stderr == ""
        assert check(port=running.port).returncode == 1, "without TLS"
        assert "UNAUTHENTICATED" in check(port=running.port, **tls).stderr
        other = Authority(tmp_path / "other").issue("server", "models.example")
        wrong = {"tls_certificate": other.certificate, "tls_key": other.key}
        assert "certificate verify failed" in check(port=running.port, **wrong).stderr
    finally:
        assert running.stop() == 0


def test_a_client_certificate_is_shown_where_it_is_named(one_model: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    own, caller = authority.issue("server", "127.0.0.1"), authority.issue("caller", "probe.example")
    tls = {"tls_certificate": own.certificate, "tls_key": own.key, "tls_client_ca": authority.root}
    options = [word for name, value in tls.items()
               for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip
    shown = ("--client-certificate", str(caller.certificate), "--client-key", str(caller.key))
    running = start_server(one_model, ("--drain-s", "0", *options))
    try:
        assert check(*shown, port=running.port, **tls).stderr == ""
        assert check(*shown, "--ca", str(authority.root), port=running.port).stderr == ""
        assert check(port=running.port, **tls).returncode == 1
    finally:
        assert running.stop() == 0
