"""companion/nyquist/companion/watch/history.py: what outlives a restart, and where it lies."""

import sqlite3
from dataclasses import replace
from pathlib import Path
from time import time

import numpy as np
import pytest

from nyquist.companion.measures.parity import Parity
from nyquist.companion.watch.candidate import Comparison, Decision, Pair
from nyquist.companion.watch.history import FILE, SCHEMA, TABLES, Bounds, History
from nyquist.companion.watch.limits import Limits
from nyquist.companion.watch.record import SHADOW, Disagreement, Point
from nyquist.companion.watch.rollouts import Rollouts
from nyquist.companion.watch.verdict import Verdict
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.head import Head

KEY = ("fashion", "1")
PAIR = Pair("fashion", "1", "2", "a", "b")
POINT = Point(
    time_s=1.0,
    sha256="a",
    verdict=Verdict.DEGRADED,
    parity=Parity(float("inf"), 1e-6, 0.75, 12, 2.0),
    consistency={"circular": 0.98},
    latency_s={("onnxruntime", 1): 0.003, ("torch", 8): 0.02},
)
COMPARISON = Comparison(1.0, 1.0, 0.5, 0.0, 0.9, 0.8, 0.003, 0.004, "5a" * 16)
DAYS = 90 * 86400.0
MEBIBYTE = 1 << 20


def roomy(folder: Path, size_bytes: int = MEBIBYTE) -> History:
    return History(folder, Bounds(2 * time(), size_bytes))


def difference(number: int = 0) -> Disagreement:
    return Disagreement(
        time_s=float(number),
        model=PAIR.model,
        version=PAIR.candidate,
        sha256=PAIR.candidate_sha256,
        source=SHADOW,
        layout="HWC",
        picture=np.full((4, 4, 1), number, np.uint8),
        served=np.array([1.0, 2.0]),
        reference=np.array([2.0, 1.0]),
        labels=("shirt", "coat"),
        head=Head("multi-label", "probabilities", 0.3),
        trace_id="5a" * 16,
    )


def test_what_is_noted_is_there_again_after_a_restart(tmp_path: Path) -> None:
    bare = replace(POINT, time_s=2.0, parity=None, consistency={}, latency_s={})
    history = roomy(tmp_path / "made" / "here")
    history.note_probe(KEY, POINT)
    history.note_probe(KEY, bare)
    history.note_verdict(KEY, "a", Verdict.FAILING, "parity")
    history.note_comparison(PAIR, COMPARISON)
    history.note_difference(PAIR, difference(), kept=3)
    history.close()
    history = roomy(tmp_path / "made" / "here")
    assert history.points(10) == {KEY: [POINT, bare]}
    assert history.points(1) == {KEY: [bare]}
    verdict = history.verdict(KEY, "a")
    assert verdict
    assert verdict[0] is Verdict.FAILING
    assert history.verdict(KEY, "another graph") is None
    assert history.pairs() == [PAIR]
    assert history.comparisons(PAIR, 10) == [COMPARISON]
    assert history.comparisons(replace(PAIR, candidate_sha256="c"), 10) == []
    (found,) = history.differences(PAIR)
    np.testing.assert_array_equal(found.picture, difference().picture)
    assert found.served.tolist() == [1, 2]
    assert found.reference.tolist() == [2, 1]
    assert (found.labels, found.head) == (("shirt", "coat"), difference().head)
    history.close()


def test_a_candidate_stands_after_a_restart_where_it_stood(tmp_path: Path) -> None:
    history = roomy(tmp_path)
    rollouts = Rollouts(Limits(), history)
    for at in range(20):
        rollouts.note(PAIR, replace(COMPARISON, time_s=float(at)))
    (before,) = rollouts.rollouts()
    history.close()
    history = roomy(tmp_path)
    (after,) = Rollouts(Limits(), history).rollouts("fashion")
    assert replace(after, figures=()) == replace(before, figures=())
    for one, again in zip(before.figures, after.figures, strict=True):
        assert (again.low, again.high, again.mean) == pytest.approx((one.low, one.high, one.mean))
    assert after.decision is Decision.HOLD
    assert after.decided_at < after.pictures == 20
    assert Rollouts(Limits(), history).rollouts("other") == []
    history.close()


def test_another_pair_of_a_model_takes_the_place_of_the_one_before() -> None:
    rollouts = Rollouts(Limits(), History())
    rollouts.note(PAIR, COMPARISON)
    rollouts.note(replace(PAIR, candidate_sha256="c"), COMPARISON)
    (standing,) = rollouts.rollouts()
    assert (standing.pair.candidate_sha256, standing.pictures) == ("c", 1)


def test_a_candidate_whose_baseline_is_gone_is_over_until_both_are_served_again() -> None:
    rollouts = Rollouts(Limits(), History())
    rollouts.note(PAIR, COMPARISON)
    rollouts.note_served("fashion", ("1", "2", "3"))
    assert not rollouts.rollouts()[0].over
    rollouts.note_served("fashion", ("2",))
    assert rollouts.rollouts()[0].over
    rollouts.note(PAIR, COMPARISON)
    assert not rollouts.rollouts()[0].over


def test_a_candidate_that_is_failing_or_takes_other_pictures_is_held() -> None:
    rollouts = Rollouts(Limits(), History())
    rollouts.note_failing(("fashion", "2"), "b", "parity")  # of no candidate yet
    rollouts.note(PAIR, replace(COMPARISON, disagreement=0.0))
    rollouts.note_failing(("fashion", "1"), "a", "parity")  # the baseline's is no news
    rollouts.note_failing(("fashion", "2"), "c", "parity")  # of another graph
    assert rollouts.rollouts()[0].decision is Decision.UNDECIDED
    rollouts.note_failing(("fashion", "2"), "b", "parity")
    assert rollouts.rollouts()[0].decision is Decision.HOLD
    assert rollouts.rollouts()[0].reason.startswith("version 2 is failing: parity")
    rollouts.note_misfit(replace(PAIR, candidate_sha256="d"), "version 2 takes bytes")
    (standing,) = rollouts.rollouts()
    assert (standing.decision, standing.reason) == (Decision.HOLD, "version 2 takes bytes")


def test_of_the_pictures_that_differ_the_latest_are_kept() -> None:
    history = History()
    for number in range(5):
        history.note_difference(PAIR, difference(number), kept=3)
    other = replace(PAIR, model="other")
    history.note_difference(other, difference(9), kept=3)
    assert [one.time_s for one in history.differences(PAIR)] == [4, 3, 2]
    assert [one.time_s for one in history.differences(other)] == [9]


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    history = roomy(tmp_path)
    now = time()
    for age_s in (2 * DAYS, 0.5 * DAYS):
        history.note_probe(KEY, replace(POINT, time_s=now - age_s))
    history.close()
    history = History(tmp_path, Bounds(DAYS, MEBIBYTE))
    (left,) = history.points(10)[KEY]
    assert left.time_s == now - 0.5 * DAYS
    history.close()


def test_where_there_is_no_room_the_oldest_go_and_the_file_does_not_grow(tmp_path: Path) -> None:
    size_bytes = 256 * 1024
    history = roomy(tmp_path, size_bytes)
    for at in range(3000):
        history.note_comparison(PAIR, replace(COMPARISON, time_s=float(at)))
    times = [one.time_s for one in history.comparisons(PAIR, 3000)]
    assert times[-1] == 2999
    assert [one.time_s for one in history.comparisons(PAIR, 2)] == [2998, 2999]
    assert times == [float(at) for at in range(3000 - len(times), 3000)]
    assert 300 < len(times) < 3000
    history.close()
    assert (tmp_path / FILE).stat().st_size <= size_bytes


def test_all_rows_are_read_in_parts_in_their_order_of_one_model_or_of_all() -> None:
    history = History()
    for at in range(2500):
        history.note_verdict((f"model {at % 2}", "1"), str(at), Verdict.HEALTHY, "")
    column = TABLES["verdicts"].index("sha256")
    assert [row[column] for row in history.rows("verdicts")] == [str(at) for at in range(2500)]
    odd = [row[column] for row in history.rows("verdicts", "model 1")]
    assert odd == [str(at) for at in range(1, 2500, 2)]


def test_a_folder_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"--state .*/file/state cannot be written: Not a dir"):
        roomy(tmp_path / "file" / "state")
    (tmp_path / FILE).mkdir()
    with pytest.raises(StartError, match=r"history\.sqlite3 cannot be used: unable to open"):
        roomy(tmp_path)


def test_a_file_of_a_later_release_says_so_and_stays_as_it_is(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as later:
        later.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    later.close()
    before = (tmp_path / FILE).read_bytes()
    with pytest.raises(StartError, match=r"later Nyquist \(schema 2, this one knows 1\)"):
        roomy(tmp_path)
    assert (tmp_path / FILE).read_bytes() == before


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("no database" * 100)
    with pytest.raises(StartError, match="cannot be used: file is not a database"):
        roomy(tmp_path)


def test_a_folder_is_one_companions(tmp_path: Path) -> None:
    first = roomy(tmp_path)
    with pytest.raises(StartError, match="cannot be used: another companion uses it"):
        roomy(tmp_path)
    first.close()
    roomy(tmp_path).close()
