import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from grpc import Channel

from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.deploy.balancers import BALANCERS, EVENTS, Fleet, Row, balanced_fleet, nginx, play
from tests.processes import ROOT
from tests.requests import fashion_request
from tests.server.restarts import MODEL

LEAST, CALLERS = 100, 8
CUT = {"SIGKILL": 1}
"""An answer that the kill ends halfway is one that nothing can repeat."""


@pytest.fixture(scope="module")
def balanced(
    one_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Fleet, dict[str, Channel]]]:
    folder = tmp_path_factory.mktemp("balanced")
    with balanced_fleet(one_model, folder, drain_s=1) as running:
        yield running


@pytest.fixture(scope="module")
def rows(balanced: tuple[Fleet, dict[str, Channel]]) -> list[Row]:
    """What came of the calls by each balancer while one replica stopped, died, and one changed."""
    return list(play(*balanced, CALLERS, LEAST, rounds=1))


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("balancer", BALANCERS)
def test_no_call_is_lost_by_a_balancer(balancer: str, event: str, rows: list[Row]) -> None:
    (row,) = (row for row in rows if (row.balancer, row.event) == (balancer, event))
    assert row.outcomes["OK"] >= LEAST
    assert row.lost <= CUT.get(event, 0), row.outcomes


def test_the_page_shows_the_configuration_of_nginx_that_is_tested() -> None:
    page = (ROOT / "docs/balancing.md").read_text(encoding="utf-8")
    assert (ROOT / "deploy/nginx/default.conf").read_text(encoding="utf-8") in page


def test_nginx_repeats_what_a_replica_took_and_did_not_answer(
    balanced: tuple[Fleet, dict[str, Channel]],
) -> None:
    fleet, _ = balanced
    with socket.create_server(("127.0.0.1", 0)) as dying:
        taken: list[bytes] = []

        def die() -> None:
            caller, _ = dying.accept()
            with caller:
                taken.append(caller.recv(1 << 16))

        thread = Thread(target=die)
        thread.start()
        with nginx([dying.getsockname()[1], *fleet.ports[1:]]) as channel, channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            for _ in range(3):  # each replica has one
                stub.ModelInfer(fashion_request(model=MODEL), timeout=30)
        thread.join(timeout=30)
    assert taken[0].startswith(b"PRI * HTTP/2.0")
