"""check, classify, status and a companion against servers of others, in their own environments.

MLServer says nothing of a model but its name, KServe lists no models either.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.model import MeasuredModel
from benchmarks.servers import (
    KSERVE,
    MLSERVER,
    Contender,
    Launch,
    free_port,
)
from benchmarks.servers import RunningServer as Peer
from benchmarks.servers import running as running_peer
from nyquist.client import classify, status
from nyquist.client.command_line import make_status_parser
from nyquist.companion.__main__ import main
from tests.companion.processes import FAST, RunningCompanion, start_companion
from tests.processes import ROOT, RunningServer

BLUR = "fashion_blur"
COFFEE = ROOT / "models/nyquist/models/data/photographs/coffee.png"
TAKES = ("--input", "1x48x48")
PEERS = (MLSERVER, KSERVE)


@pytest.fixture(scope="module", params=PEERS, ids=lambda peer: peer.name)
def peer(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Peer]:
    contender: Contender = request.param
    model, scratch = MeasuredModel(repository / BLUR), tmp_path_factory.mktemp("peer")
    launch = Launch(model, repository, model.tensor_request(1), free_port(), scratch)
    with running_peer(contender, launch) as started:
        yield started


def target(peer: Peer) -> str:
    return f"127.0.0.1:{peer.port}"


def checked(
    target: str, repository: Path, capsys: pytest.CaptureFixture[str], *options: str
) -> dict[str, Any]:
    way = ("--target", target, "--repository", str(repository), "--model", BLUR)
    assert main(["check", *way, "--json", *options]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert isinstance(row, dict)
    return row


@pytest.mark.parametrize("transport", ["h2corn"], indirect=True, scope="session")
def test_the_artifact_and_its_graph_hold_another_server_to_what_they_hold_ours_to(
    peer: Peer, server: RunningServer, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if peer.name == KSERVE.name:  # by a file that is given, where MLServer is by the artifact
        graph = ("--reference", str(repository / BLUR / "1" / "model.onnx"))
        row = checked(target(peer), repository / "none", capsys, *TAKES, *graph)
        assert row["parity"]["holds"]
        assert row["parity"]["graph"]["reference"] == "ONNX file, not PyTorch"
        (measured,) = row["consistency"]["measured"]
        assert measured["served"] == measured["reference"] > 0
        return
    theirs = checked(target(peer), repository, capsys)
    ours = checked(server.target, repository, capsys)
    assert theirs["consistency"]["measured"] == ours["consistency"]["measured"]
    assert theirs["parity"]["holds"]
    assert theirs["parity"]["pictures"] == ours["parity"]["pictures"] == 64
    graph = theirs["parity"]["graph"]
    lacking = ("model_version", "sha256", "execution_provider")
    assert [graph[name] for name in lacking] == ["", "", ""]


def test_without_a_reference_a_model_is_moved_and_compared_with_nothing(
    peer: Peer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = checked(target(peer), tmp_path / "none", capsys, *TAKES)
    assert row["parity"]["graph"]["no_reference"]
    (measured,) = row["consistency"]["measured"]
    assert 0 < measured["served"] <= 1
    way = ("--target", target(peer), "--repository", str(tmp_path / "none"), "--model", BLUR)
    assert main(["check", *way]) == 2
    assert "say it with --input CxHxW" in capsys.readouterr().err


def test_classify_ranks_what_a_server_does_not(
    peer: Peer, capsys: pytest.CaptureFixture[str]
) -> None:
    way = ["--target", target(peer), "--model", BLUR, *TAKES, "--json", str(COFFEE)]
    assert classify.main(way) == 0
    (document,) = json.loads(capsys.readouterr().out)
    probabilities = [one["probability"] for one in document["shifts"][0]["classes"]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert document["version"] == ""


def test_status_says_what_there_is_to_say(peer: Peer, capsys: pytest.CaptureFixture[str]) -> None:
    way = ["--target", target(peer)]
    assert status.run(make_status_parser().parse_args([*way, "--model", BLUR])) == 0
    assert f"{BLUR}" in capsys.readouterr().out
    assert status.run(make_status_parser().parse_args(way)) == 0
    shown = capsys.readouterr().out
    assert f"{target(peer)} is ready" in shown
    assert ("READY" in shown) or ("does not list its models (UNIMPLEMENTED)" in shown)


def watching(peer: Peer, repository: Path, *options: str) -> RunningCompanion:
    return start_companion(target(peer), repository, (*FAST, "--model", BLUR, *options))


def circular(companion: RunningCompanion) -> float | None:
    labels = f'model="{BLUR}",protocol="circular",source="probe",version="none"'
    return companion.metrics().get(f"nyquist_shift_consistency_ratio{{{labels}}}")


@pytest.mark.parametrize("peer", [MLSERVER], ids=["mlserver"], indirect=True)
def test_a_companion_finds_another_server_healthy_by_the_artifact(
    peer: Peer, repository: Path
) -> None:
    companion = watching(peer, repository)
    verdict = f'nyquist_verdict{{model="{BLUR}",verdict="healthy",version="none"}}'
    companion.wait_for(lambda: companion.metrics().get(verdict) == 1.0)
    assert "not told by the server" in companion.get(f"/models/{BLUR}")
    assert companion.stop() == 0


@pytest.mark.parametrize("peer", [KSERVE], ids=["kserve"], indirect=True)
def test_a_companion_without_a_reference_shows_the_shifts_and_says_so(
    peer: Peer, tmp_path: Path
) -> None:
    companion = watching(peer, tmp_path / "none", *TAKES)
    companion.wait_for(lambda: circular(companion) is not None)
    companion.wait_for(lambda: "Shift consistency" in companion.get(f"/models/{BLUR}"))
    page = companion.get(f"/models/{BLUR}")
    assert "no reference" in page
    assert "unverifiable" in page
    assert companion.stop() == 0
