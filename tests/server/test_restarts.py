import shutil
from pathlib import Path

import pytest

from tests.server.restarts import restart_in_turn

RESTARTS, CALLERS = 2, 4


@pytest.mark.usefixtures("transport")
def test_restarting_replicas_in_turn_loses_no_request_of_a_client_that_asks_for_health(
    one_model: Path,
) -> None:
    outcomes = restart_in_turn(one_model, RESTARTS, client="health", callers=CALLERS)
    assert set(outcomes) == {"OK"}, outcomes
    assert outcomes["OK"] >= 500


@pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
def test_a_replica_that_stops_behind_nginx_answers_all_that_it_still_gets(one_model: Path) -> None:
    """Not mended: what is sent on a connection while its GOAWAY is on the way.

    It names the stream before as the last, and nginx sends nothing again that it has sent.
    """
    outcomes = restart_in_turn(
        one_model,
        RESTARTS,
        client="plain",
        callers=CALLERS,
        transport="h2corn",
        behind_nginx=True,
    )
    between = outcomes.pop("UNAVAILABLE: Received http2 header with status: 502", 0)
    assert set(outcomes) == {"OK"}, outcomes
    assert between <= 2 * RESTARTS * CALLERS  # twice: where the drain begins, and where it ends
    assert outcomes["OK"] >= 500
