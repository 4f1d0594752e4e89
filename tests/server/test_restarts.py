from pathlib import Path

from tests.server.restarts import restart_in_turn


def test_restarting_replicas_in_turn_loses_no_request_of_a_client_that_asks_for_health(
    repository: Path, tmp_path: Path
) -> None:
    (tmp_path / "fashion_strided").symlink_to(repository / "fashion_strided")
    outcomes = restart_in_turn(tmp_path, restarts=2, client="health", callers=4)
    assert set(outcomes) == {"OK"}, outcomes
    assert outcomes["OK"] >= 500
