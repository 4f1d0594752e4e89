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
