"""Candidates beside the version before them: a real server, its traffic, a companion killed."""

import csv
import io
import json
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import grpc
import numpy as np
import pytest

from nyquist.__main__ import main
from nyquist.client.client import Client
from nyquist.models.samples import fashion_samples
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import add_version, copy_model, set_config
from tests.companion.processes import RunningCompanion, start_companion
from tests.companion.test_shadow_end_to_end import free_port
from tests.impostors import perturb_weight, replace_graph
from tests.processes import RunningServer, start_server

MODEL, STRIDED = "fashion_blur", "fashion_strided"
EAGER = (
    *("--nice", "0", "--drain-s", "0", "--probe-period-s", "600", "--shadow-rate", "0"),
    *("--rollout-rate", "1000", "--rollout-flips", "0.05", "--rollout-alpha", "0.2"),
    *("--rollout-latency", "10"),  # a busy machine is slow to either, now and then
)
A_ROUND = 60
"""Requests between two looks."""


@dataclass
class Bench:
    """A server that mirrors, and a companion that is started again and again.

    Attributes:
        folder: of the repository.
        state: folder of the companion's.
        port: of the companion.
        server: that serves.
        companion: that runs now.
    """

    folder: Path
    state: Path
    port: int
    server: RunningServer
    companion: RunningCompanion = field(init=False)

    def start(self) -> None:
        options = (*EAGER, "--port", str(self.port), "--state", str(self.state))
        self.companion = start_companion(self.server.target, self.folder, options)

    def load(self) -> None:
        """Take up the versions that lie there now."""
        with grpc.insecure_channel(self.server.target) as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=MODEL), timeout=60)

    def rollout(self) -> dict[str, Any]:
        """Return what the API says of the model; nothing where it knows of no candidate."""
        try:
            return dict(json.loads(self.companion.get(f"/api/rollouts/{MODEL}")))
        except HTTPError:
            return {}

    def decided(self, candidate: str, most: int = 6000) -> dict[str, Any]:
        """Send pictures to version 1 until there is a decision about a candidate."""
        pictures, dice = fashion_samples().images.numpy(), np.random.default_rng(0)
        with Client(self.server.target) as client:
            model = client.describe(MODEL, "1")
            for _ in range(0, most, A_ROUND):
                for at in dice.integers(len(pictures), size=A_ROUND):
                    client.infer(model, pictures[at : at + 1])
                found = self.rollout()
                if found.get("candidate") == candidate and found["decision"] != "not_enough_yet":
                    return found
        raise AssertionError(f"nothing is decided: {self.rollout()}")

    def command(self, *words: str) -> int:
        """Run `nyquist rollout` against the companion."""
        return main(["rollout", *words, "--companion", f"127.0.0.1:{self.companion.http_port}"])


@pytest.fixture(scope="module")
def bench(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder, port = tmp_path_factory.mktemp("models"), free_port()
    set_config(copy_model(repository, folder, MODEL), "\nversion_policy { all { } }\n")
    mirroring = ("--shadow-target", f"127.0.0.1:{port}", "--shadow-share", "1", "--drain-s", "0")
    server = start_server(folder, mirroring)
    made = Bench(folder, tmp_path_factory.mktemp("state"), port, server)
    made.start()
    received = f'nyquist_shadow_received_total{{model="{MODEL}",version="1"}}'
    send(made, lambda: made.companion.metrics().get(received, 0) > 0)
    yield made
    assert made.companion.stop() == 0
    server.stop()


def test_before_there_are_two_versions_nothing_is_said(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.rollout() == {}
    assert bench.command(MODEL) == 2
    assert "no two versions of 'fashion_blur' were compared" in capsys.readouterr().err


def test_the_same_network_is_promoted_and_gauge_page_and_command_say_so(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    add_version(bench.folder / MODEL, 2)
    bench.load()
    found = bench.decided("2")
    assert (found["decision"], found["reason"], found["baseline"]) == ("promote", "", "1")
    assert bench.command(MODEL, "--json") == 0
    assert json.loads(capsys.readouterr().out)["decision"] == "promote"
    metrics = bench.companion.metrics()
    pair = f'baseline="1",decision="%s",model="{MODEL}",version="2"'
    shown = [metrics[f"nyquist_rollout_decision{{{pair % one}}}"] for one in ("promote", "hold")]
    assert shown == [1, 0]
    assert ">promote</span>" in bench.companion.get("/")
    assert ">promote</span>" in bench.companion.get(f"/models/{MODEL}")


def test_a_perturbed_weight_is_held_and_the_pictures_that_differ_are_shown(bench: Bench) -> None:
    add_version(bench.folder / MODEL, 3)
    perturb_weight(bench.folder / MODEL, share=20.0, version=3)
    bench.load()
    found = bench.decided("3")
    assert (found["decision"], found["baseline"]) == ("hold", "2")
    page = bench.companion.get(f"/rollouts/{MODEL}")
    assert "version 3 beside version 2" in page
    assert page.count('src="data:image/png') > 0
    assert "Version 2: <strong>" in page


def test_a_strided_twin_is_held_within_a_thousand_pictures(
    bench: Bench, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(bench.folder / MODEL / "3")
    add_version(bench.folder / MODEL, 4)
    strided = (repository / STRIDED / "1" / "model.onnx").read_bytes()
    digest = replace_graph(bench.folder / MODEL, strided, version=4)
    bench.load()
    found = bench.decided("4")
    assert (found["decision"], found["candidate_sha256"]) == ("hold", digest)
    assert 0 < found["decided_at"] <= found["pictures"] < 1000
    figures = found["figures"]
    assert False in [figure["held"] for figure in figures.values()]
    assert figures["confidence"]["mean"] < 0 < figures["flips"]["mean"]
    assert bench.command(MODEL) == 1
    told = capsys.readouterr().out
    assert "fashion_blur version 4 beside version 2: hold" in told
    assert "beyond" in told


def test_after_kill_9_the_history_is_there_and_can_be_downloaded(bench: Bench) -> None:
    probes, before = bench.companion.get("/api/probes.csv"), bench.rollout()
    bench.companion.process.send_signal(signal.SIGKILL)
    assert bench.companion.stop() == -signal.SIGKILL
    bench.start()
    after = bench.rollout()
    for what in ("decision", "decided_at", "candidate_sha256", "began"):
        assert after[what] == before[what]
    assert after["pictures"] >= before["pictures"]  # those that still waited
    assert bench.companion.get("/api/probes.csv").startswith(probes.rstrip())
    rows = list(csv.DictReader(io.StringIO(bench.companion.get("/api/verdicts.csv"))))
    decisions = {row["version"]: row["verdict"] for row in rows if row["baseline"]}
    assert decisions == {"2": "promote", "3": "hold", "4": "hold"}
    compared = json.loads(bench.companion.get(f"/api/comparisons.json?model={MODEL}"))
    twins = [one for one in compared if one["candidate"] == "4"]
    assert len(twins) == after["pictures"]
    same = [one["disagreement"] for one in compared if one["candidate"] == "2"]
    assert same
    assert not any(same)
    assert bench.companion.get("/api/comparisons.json?model=other") == "[]\n"
    bench.companion.wait_for(lambda: "version 4 is failing" in bench.rollout()["reason"])
    (first, *_) = json.loads(bench.companion.get("/api/probes.json"))
    assert first["latency_s"]["onnxruntime 1"] > 0
    with pytest.raises(HTTPError, match="404"):
        bench.companion.get("/api/secrets.csv")


def test_a_disk_that_is_full_is_told_and_the_companion_goes_on(bench: Bench) -> None:
    pid = bench.companion.process.pid
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    send(bench, lambda: logged(bench, "is not written any more"))
    assert bench.companion.get("/healthz") == "ok\n"
    resource.prlimit(pid, resource.RLIMIT_FSIZE, unlimited)
    send(bench, lambda: logged(bench, "is written again"))
    assert sum("is not written any more" in line for line in bench.companion.log) == 1


def logged(bench: Bench, words: str) -> bool:
    """Say whether the companion has said so."""
    return any(words in line for line in bench.companion.log)


def send(bench: Bench, until: Callable[[], bool]) -> None:
    """Send a picture now and then until something holds: the server finds a companion by itself."""
    picture = fashion_samples().images.numpy()[:1]
    with Client(bench.server.target) as client:
        model = client.describe(MODEL, "1")

        def held() -> bool:
            client.infer(model, picture)
            return until()

        bench.companion.wait_for(held)


def test_what_is_no_companion_is_told_apart(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    port = bench.server.metrics_port
    assert main(["rollout", MODEL, "--companion", f"http://127.0.0.1:{port}"]) == 2
    assert "does not answer as a companion" in capsys.readouterr().err
    assert main(["rollout", MODEL, "--companion", f"127.0.0.1:{free_port()}"]) == 2
    assert "no companion answers at 127.0.0.1" in capsys.readouterr().err
    assert main(["rollout", MODEL, "--companion", "file:///etc"]) == 2
    assert "--companion is http://HOST:PORT" in capsys.readouterr().err
