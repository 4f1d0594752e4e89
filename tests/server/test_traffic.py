import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.server.traffic import Action, Break, Leave, Send, Traffic, Turn, random_actions

SENDS = st.builds(
    Send,
    rows=st.integers(1, 4),
    width=st.sampled_from((2, 3)),
    priority=st.integers(0, 4),
    timeout_s=st.sampled_from((0.0, 0.0005)),
    deadline_s=st.sampled_from((None, 0.0, 0.0005, 0.005)),
    bad=st.booleans(),
)
ACTIONS = st.one_of(
    SENDS,
    SENDS,
    st.builds(Leave, back=st.integers(1, 20)),
    st.builds(Turn, pause=st.booleans()),
    st.builds(Break, st.integers(0, 1), st.sampled_from(("raise", "exit", "mend"))),
)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", logger="nyquist.server.scheduling.instance")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(ACTIONS, max_size=60))
def test_whatever_comes_every_reply_belongs_to_its_request_and_no_neighbour_is_disturbed(
    actions: list[Action],
) -> None:
    asyncio.run(Traffic().play(actions))


def test_the_same_holds_over_thousands_of_requests() -> None:
    traffic = Traffic()
    asyncio.run(traffic.play(random_actions(3000, seed=1)))
    assert sum(traffic.outcomes.values()) == 3000
    for outcome in ("answered", "cancelled", "DeadlinePassed", "QueueTimeout", "QueueFull"):
        assert traffic.outcomes[outcome] > 10
    assert traffic.outcomes["InferenceFailed"] > 0
