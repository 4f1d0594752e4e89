import pytest

from tests.processes import RunningServer
from tests.server.mutations import LEAK, Choices, case, mutate, open_run


def test_mutated_requests_get_documented_statuses_and_disturb_no_good_one(
    server: RunningServer,
) -> None:
    codes = mutate(server.target, cases=1280)
    assert codes.total() >= 1280
    assert {"OK", "INVALID_ARGUMENT", "NOT_FOUND"} <= codes.keys()


def test_the_run_notices_a_status_that_is_not_documented(server: RunningServer) -> None:
    with (
        open_run(server.target) as (loop, run),
        pytest.raises(AssertionError, match="RESOURCE_EXHAUSTED"),
    ):
        loop.run(run.send([("ModelInfer", bytes(64 * 1024 * 1024 + 1))]))


def test_the_run_notices_a_good_request_that_is_answered_otherwise(server: RunningServer) -> None:
    with open_run(server.target) as (loop, run):
        run.answer = b"another"
        with pytest.raises(AssertionError, match="answered otherwise"):
            loop.run(run.send([case(Choices(bytes(32)))]))


@pytest.mark.parametrize(
    ("details", "leaks"),
    [
        ("unexpected shape for input 'image'. Expected [-1, 1, 48, 48], got [1]", False),
        ("Request for unknown model: 'a/b' version ../x is not found", False),
        ("/srv/models/fashion/1 cannot be read", True),
        ("<object at 0x7f00deadbeef>", True),
        ("Traceback (most recent call last)", True),
    ],
)
def test_the_run_knows_a_path_an_address_or_code_in_a_text(details: str, leaks: bool) -> None:
    assert bool(LEAK.search(details)) is leaks
