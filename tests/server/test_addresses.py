"""Addresses other than those of IPv4, on either transport."""

import socket
import stat
from http.client import HTTPConnection
from pathlib import Path

import grpc
import pytest

from nyquist.client import status
from nyquist.client.client import Client
from nyquist.client.command_line import make_status_parser
from nyquist.models.samples import fashion_samples
from nyquist.server import healthcheck
from nyquist.server.wire.connection import Connection
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.listening import listen, remove_file
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import run, start_server

pytestmark = pytest.mark.usefixtures("transport")


def test_calls_and_scrapes_are_answered_over_ipv6(one_model: Path) -> None:
    server = start_server(one_model, ("--drain-s", "0", "--host", "::1"))
    try:
        with grpc.insecure_channel(f"[::1]:{server.port}") as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            assert stub.ServerReady(pb.ServerReadyRequest(), timeout=20).ready
        scrape = HTTPConnection("::1", server.metrics_port, timeout=20)
        scrape.request("GET", "/v2/health/ready")
        assert scrape.getresponse().status == 200
        scrape.close()
    finally:
        assert server.stop() == 0


def test_a_server_answers_at_the_file_of_a_socket_which_is_there_as_long_as_it(
    one_model: Path,
    tmp_path: Path,
    transport: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "nyquist.sock"
    host = f"unix:{file}"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(file))
    server = start_server(one_model, ("--drain-s", "0", "--host", host))
    try:
        with Client(host) as client:
            model = client.describe("fashion_strided")
            assert client.infer(model, fashion_samples().images[:1].numpy()).shape == (1, 10)
        monkeypatch.setenv("NYQUIST_HOST", host)
        assert healthcheck.main([]) == 0
        assert status.run(make_status_parser().parse_args(["--target", host])) == 0
        assert "fashion_strided" in capsys.readouterr().out
        if transport == "h2corn":
            rest = HTTPConnection("localhost", timeout=20)
            rest.sock = socket.socket(socket.AF_UNIX)
            rest.sock.connect(str(file))
            rest.request("GET", "/v2/health/ready")
            assert rest.getresponse().status == 200
            rest.close()
        second = run("nyquist.server", "--repository", str(one_model), "--metrics-port", "0")
        assert (second.returncode, second.stderr) == (
            1,
            f"nyquist serve: error: gRPC cannot listen on {host}: Address already in use; "
            "choose another with --port or --host\n",
        )
    finally:
        assert server.stop() == 0
    assert not file.exists()


def test_what_is_no_socket_is_neither_replaced_nor_removed(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine", encoding="ascii")
    with pytest.raises(StartError, match=f"{file}: Address already in use"):
        listen(f"unix:{file}", 0, "gRPC", "--host")
    remove_file(f"unix:{file}")
    assert file.read_text(encoding="ascii") == "mine"


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("unix:", "needs the path of a socket"),
        ("unix:/nowhere/a.sock", "No such file or directory"),
        (f"unix:/tmp/{'a' * 200}", "path too long"),
    ],
)
def test_a_file_that_cannot_be_listened_at_is_told_in_words(host: str, reason: str) -> None:
    with pytest.raises(StartError, match=reason):
        listen(host, 0, "gRPC", "--host")


def test_only_a_socket_that_nobody_answers_at_is_removed(tmp_path: Path) -> None:
    file = tmp_path / "a.sock"
    with listen(f"unix://{file}", 0, "gRPC", "--host") as listening:
        remove_file(f"unix:{file}")
        assert stat.S_ISSOCK(file.stat().st_mode)
        assert listening.getsockname() == str(file)
    remove_file(f"unix:{file}")
    assert not file.exists()


def test_where_no_socket_is_the_client_says_that_nobody_listens(tmp_path: Path) -> None:
    target = f"unix:{tmp_path / 'a.sock'}"
    with Client(target) as client, pytest.raises(grpc.RpcError) as refused:
        client.ready()
    assert "nobody listens there" in Connection(target).explain(refused.value)
