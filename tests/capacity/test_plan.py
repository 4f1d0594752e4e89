"""nyquist plan, as it is called."""

import json
from pathlib import Path

import pytest

from nyquist.__main__ import main
from nyquist.client.capacity.balancer import BALANCERS
from nyquist.client.capacity.command_line import BALANCINGS
from nyquist.client.capacity.replica_profile import Profile, read_profile
from tests.processes import RunningServer

GIVEN = {
    "model": "m",
    "device": "none",
    "origin": "this test",
    "run_s": {"1": 0.01, "8": 0.02},
    "loop_s": 0.0002,
    "wire_s": 0.0005,
    "start_s": 0.5,
    "batching": {"max_batch_size": 8},
}
FEW = ("--requests", "3000", "--seeds", "2")


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(GIVEN), encoding="utf-8")
    return path


def test_the_smallest_number_holds_the_limit_and_one_fewer_does_not(
    profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", "replicas", "--profile", str(profile), "--rate", "2000", "--p99-ms", "30"]
    assert main([*asked, *FEW, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["held"] is True
    found = told["replicas"]
    worst_s = {one["replicas"]: sum(one["p99_s"].values()) for one in told["tries"]}
    assert worst_s[found] <= 0.03 < worst_s[found - 1]
    busy = told["cases"]["all replicas"]["utilisation"]["mean"]
    batch = told["cases"]["all replicas"]["batch"]["mean"]
    assert busy == pytest.approx(2000 / batch * (0.01 + 0.01 * (batch - 1) / 7) / found, rel=0.05)
    assert main([*asked, *FEW, "--replicas", str(found - 1)]) == 1
    assert f"{found - 1} replicas miss p99 30 ms" in capsys.readouterr().out


def test_a_zone_that_fails_and_a_rollout_want_more_replicas_and_are_drawn(
    profile: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", "replicas", "--profile", str(profile), "--rate", "1000", "--p99-ms", "40"]
    plot = tmp_path / "plan.svg"
    lives = ["--zone-failure", "--noticed-s", "0.5", "--rolling", "--plot", str(plot)]
    assert main([*asked, *FEW, *lives, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    enough = min(one["replicas"] for one in told["tries"] if one["p99_s"]["mean"] <= 0.04)
    cases = told["cases"]
    assert told["replicas"] > enough
    assert cases["one zone gone"]["answering"] >= enough
    assert cases["as it goes"]["p99_s"]["mean"] > 0.4  # who was sent there is asked again
    assert cases["rolling"]["lost"]["mean"] == 0
    assert "while" not in plot.read_text(encoding="utf-8")
    assert "replicas that answer, %" in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"run_s": {}}, 'run_s is empty, expected seconds by pictures such as {"1": 0.002}'),
        ({"loop_s": -1}, "loop_s: Input should be greater than or equal to 0, got -1"),
        ({"sped": 1}, "sped: Extra inputs are not permitted, got 1"),
        ({"run_spread": [1, 2]}, "run_spread has 2 values, expected 12"),
    ],
)
def test_a_profile_that_is_none_is_a_line_and_status_2(
    profile: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], line: str
) -> None:
    profile.write_text(json.dumps(GIVEN | changed), encoding="utf-8")
    asked = ["plan", "replicas", "--profile", str(profile), "--rate", "10", "--p99-ms", "40"]
    assert main(asked) == 2
    assert capsys.readouterr().err == f"nyquist plan: error: {profile}: {line}\n"


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ([], 2, "error: --rate is missing: requests a second, such as 2000"),
        (["--rate", "9", "--arrivals", "no"], 2, "error: --arrivals no cannot be read: "),
        (["--rate", "9", "--pictures", "9"], 2, "error: --pictures is 9, m takes at most 8"),
        (["--rate", "9", "--seeds", "11"], 2, "error: --seeds is 11, most is 10"),
        (["--rate", "9", "--p99-ms", "9"], 1, "no number of replicas answers 99 of 100 in 9 ms"),
    ],
)
def test_what_cannot_be_answered_is_a_line(
    profile: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    status: int,
    line: str,
) -> None:
    goal = [] if "--p99-ms" in words else ["--p99-ms", "40"]
    assert main(["plan", "replicas", "--profile", str(profile), *goal, *words]) == status
    assert capsys.readouterr().err.startswith(f"nyquist plan: {line}")


def test_every_way_of_balancing_can_be_asked_for() -> None:
    assert set(BALANCINGS) == set(BALANCERS)


def test_a_profile_has_the_runs_that_are_between_and_beyond_those_that_were_measured() -> None:
    found = Profile.model_validate(GIVEN)
    assert found.run_times(15)[[1, 8, 15]].tolist() == pytest.approx([0.01, 0.02, 0.03])
    padded = Profile.model_validate(GIVEN | {"padded": True})
    assert padded.run_times(8)[[1, 2, 8]].tolist() == pytest.approx([0.01, 0.02, 0.02])


def test_a_profile_of_a_machine_that_had_other_work_says_so() -> None:
    calm = [0.9, 0.9, 0.9, 0.9, 1.0, 1.0, 1.0, 1.1, 1.2, 2.0, 9.0, 20.0]
    torn = [0.4, 0.4, 0.5, 0.5, 0.6, 0.7, 0.9, 2.4, 4.0, 6.0, 9.0, 20.0]
    assert not Profile.model_validate(GIVEN | {"run_spread": calm}).disturbed
    assert Profile.model_validate(GIVEN | {"run_spread": torn}).disturbed
    assert Profile.model_validate(GIVEN | {"run_spread": calm, "wire_spread": torn}).disturbed


def test_a_server_is_calibrated(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fashion_blur.json"
    words = ["--model", "fashion_blur", "--output", str(path), "--seconds", "0.02"]
    assert main(["plan", "calibrate", server.target, *words]) == 0
    found = read_profile(path)
    assert found.batching.max_batch_size == 64
    assert sorted(found.run_s) == [1, 2, 4, 8, 16, 32, 64]
    assert found.run_s[1] < found.run_s[64]
    assert found.wire_s + found.loop_s > 0
    assert found.most_a_second > 10
    capsys.readouterr()
    assert main(["plan", "calibrate", server.target, "--model", "fashion", *words[2:]]) == 2
    assert "no model 'fashion'" in capsys.readouterr().err
