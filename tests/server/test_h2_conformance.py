"""The frames of h2_cases.py, against a server."""

import pytest

from tests.processes import RunningServer
from tests.server.h2_cases import CASES, Case, outcome, passes

OTHERWISE = {"a window above 2 ** 31 - 1": "PROTOCOL_ERROR"}
"""What h2corn ends with another error than RFC 9113 names: it is ended all the same."""


@pytest.mark.parametrize("transport", ["h2corn"], indirect=True, scope="session")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.section} {case.what}")
def test_frames_are_taken_as_the_standard_has_it(server: RunningServer, case: Case) -> None:
    came = outcome(server.port, case)
    assert came == OTHERWISE.get(case.what, came)
    assert case.what in OTHERWISE or passes(case, came), came
