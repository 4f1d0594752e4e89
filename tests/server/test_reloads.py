from pathlib import Path

from tests.reloads import run


def test_no_request_is_lost_or_wrong_while_models_are_reloaded_damaged_and_repaired(
    repository: Path,
) -> None:
    outcome = run(repository, least=1000, reloads=10)
    assert set(outcome.answers) == {"OK"}
    assert outcome.answers["OK"] >= 1000
    assert (outcome.reloads, outcome.refusals) == (10, 2)
