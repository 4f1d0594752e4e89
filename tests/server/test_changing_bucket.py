from pathlib import Path

from tests.server.changing_bucket import CHANGED, STEADY, run


def test_no_request_is_lost_while_models_change_in_a_bucket_and_a_restart_does_without_it(
    repository: Path,
) -> None:
    """Two workers meet the changes, and one process starts from what they have fetched."""
    outcome = run(repository, 100, 2, "--workers", "2", pause_s=0.2)
    assert set(outcome.answers) == {"OK"}
    assert outcome.answers["OK"] >= 100
    assert outcome.versions >= {"1", "2"}
    assert outcome.failures >= 2
    assert outcome.offline == {(CHANGED, "3"), (STEADY, "1")}
