"""companion/nyquist/companion/watch/record.py: what the page reads."""

from dataclasses import replace

import numpy as np
import pytest

from nyquist.companion.measures.parity import compare
from nyquist.companion.watch.record import PROBE, Disagreement, ModelState, Point, Record, Seen
from nyquist.companion.watch.verdict import Verdict

KEY = ("fashion_blur", "1")
PARITY = compare(np.eye(3), np.eye(3))
STATE = ModelState(
    name=KEY[0],
    version=KEY[1],
    sha256="a",
    provider="CPUExecutionProvider",
    verdict=Verdict.HEALTHY,
    since_s=1.0,
    reason="",
    probed_s=1.0,
    manifest=None,
    probe=Seen(PARITY),
)


@pytest.fixture
def record() -> Record:
    return Record("localhost:8001", probes=3, disagreements=2, disagreement_bytes=1000)


def point(time_s: float) -> Point:
    return Point(time_s, "a", Verdict.HEALTHY, PARITY, {}, {})


def disagreement(time_s: float, size: int = 10, model: str = KEY[0]) -> Disagreement:
    logits = np.zeros(10, np.uint8)
    picture = np.zeros(size, np.uint8)
    return Disagreement(time_s, model, "1", "a", PROBE, "CHW", picture, logits, logits, ())


def test_the_history_holds_the_latest_probes_the_oldest_first(record: Record) -> None:
    for time_s in range(5):
        record.note_point(KEY, point(time_s))
    assert [one.time_s for one in record.history(*KEY)] == [2, 3, 4]
    assert record.history("nobody", "1") == ()


def test_disagreements_are_bounded_in_number_and_in_bytes(record: Record) -> None:
    for time_s in range(3):
        record.note_disagreement(disagreement(time_s))
    assert [one.time_s for one in record.disagreements()] == [2, 1]
    record.note_disagreement(disagreement(3, size=970, model="other"))
    assert [one.time_s for one in record.disagreements()] == [3]
    assert record.disagreements(KEY[0]) == ()
    record.note_disagreement(disagreement(4, size=2000))
    assert record.disagreements() == ()


def test_what_live_traffic_showed_stays_with_the_graph_that_it_was_of(record: Record) -> None:
    record.note_shadow(KEY, Seen(PARITY))
    assert record.models() == ()  # no probe has seen it
    record.note_model(STATE)
    record.note_shadow(KEY, Seen(PARITY))
    record.note_model(replace(STATE, probed_s=2.0))
    (state,) = record.models()
    assert state.shadow == Seen(PARITY)
    record.note_model(replace(STATE, sha256="b"))
    (state,) = record.models()
    assert state.shadow is None


def test_versions_are_listed_in_the_order_of_their_numbers_and_forgotten(record: Record) -> None:
    for version in ("10", "9", "1"):
        record.note_model(replace(STATE, version=version))
    assert [state.version for state in record.models()] == ["1", "9", "10"]
    record.note_point(KEY, point(0))
    record.forget(KEY)
    assert [state.version for state in record.models()] == ["9", "10"]
    assert record.history(*KEY) == ()


def test_only_the_graph_that_is_served_and_known_can_be_verified(
    record: Record,
) -> None:
    record.note_model(STATE)
    assert not record.verifies(KEY, "a")  # without a manifest
    assert not record.verifies(("nobody", "1"), "a")
