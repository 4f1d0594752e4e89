"""Unmodified client libraries against the server, each in an environment of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.artifacts import copy_model
from tests.conformance.environments import ALL, OVER_HTTP, Client, run_client
from tests.conformance.plain import run_curl, run_grpcio
from tests.conformance.reflected import run_reflected
from tests.conformance.table import write_picture
from tests.processes import RunningServer, start_server

pytestmark = pytest.mark.usefixtures("transport")


@pytest.fixture(scope="module")
def served(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, transport: str
) -> Iterator[tuple[RunningServer, Path]]:
    """A server of its own, because clients load and unload; and a picture to send."""
    folder = tmp_path_factory.mktemp("repository")
    for name in ("fashion_strided", "efficientnet_lite0"):
        copy_model(repository, folder, name)
    picture = tmp_path_factory.mktemp("picture") / "picture.jpg"
    write_picture(picture)
    running = start_server(folder, ("--drain-s", "0", "--transport", transport))
    yield running, picture
    assert running.stop() == 0


@pytest.mark.parametrize("client", ALL, ids=lambda client: client.name)
def test_every_call_of_a_client_library_gets_the_right_answer(
    served: tuple[RunningServer, Path], client: Client
) -> None:
    server, picture = served
    rows = run_client(client, (server.target, str(picture)))
    assert len(rows) >= 8
    assert {row.call: row.result for row in rows if row.result != "ok"} == {}


@pytest.mark.parametrize("transport", ["h2corn"], indirect=True, scope="session")
@pytest.mark.parametrize("client", OVER_HTTP, ids=lambda client: client.name)
def test_every_request_of_a_client_of_plain_http_gets_the_right_answer(
    served: tuple[RunningServer, Path], client: Client
) -> None:
    server, picture = served
    rows = run_client(client, (server.target, str(picture)))
    assert len(rows) >= 7
    assert {row.call: row.result for row in rows if row.result != "ok"} == {}


def test_every_call_of_stubs_gets_the_right_answer(served: tuple[RunningServer, Path]) -> None:
    rows = run_grpcio(served[0].target, served[1])
    assert len(rows) >= 16
    assert {row.call: row.result for row in rows if row.result != "ok"} == {}


@pytest.mark.parametrize("transport", ["h2corn"], indirect=True, scope="session")
def test_every_request_of_curl_gets_the_right_answer(served: tuple[RunningServer, Path]) -> None:
    rows = run_curl(served[0].target, served[1])
    assert len(rows) >= 12
    assert {row.call: row.result for row in rows if row.result != "ok"} == {}


def test_a_client_that_knows_the_service_by_reflection_alone_can_call_it(
    served: tuple[RunningServer, Path],
) -> None:
    rows = run_reflected(served[0].target)
    assert {row.call: row.result for row in rows if row.result != "ok"} == {}
    assert len(rows) == 4
