import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic, sleep

import pytest
from rich.console import Console

from benchmarks import results
from benchmarks.__main__ import main, make_plan, parse
from benchmarks.bench import Bench
from benchmarks.comparison import compare
from benchmarks.model import MeasuredModel
from benchmarks.plan import Plan
from benchmarks.process_usage import with_children
from benchmarks.results import Results
from tests.processes import ROOT


def test_a_round_measures_bare_onnxruntime_and_every_server_once(
    repository: Path, tmp_path: Path
) -> None:
    plan = Plan(servers=("nyquist", "echo"), rounds=1, light_s=0.1, bare_s=0.01)
    bench = Bench(plan, Results({}), tmp_path / "results.json", Console(quiet=True))
    compare(bench, MeasuredModel(repository / "fashion_strided"))
    assert bench.results.missing == {}
    for server in plan.servers:
        (row,) = bench.results.select(server=server, concurrency=16, round=1)
        assert row.figures["calls"] >= 16
        assert row.figures["cpu_us"] > 0
        assert bench.results.select(server=server, what="start")
    bare = bench.results.select(experiment="bare", setting="1x1")
    assert [row.of["batch"] for row in bare] == [1, 2, 4, 8, 16, 32, 64]
    assert results.read(tmp_path / "results.json") == bench.results


@pytest.mark.usefixtures("repository")
def test_a_run_that_is_interrupted_keeps_what_it_measured_and_leaves_no_process(
    tmp_path: Path,
) -> None:
    file = tmp_path / "results.json"
    run = ["run", "--quick", "--models", "fashion_strided", "--servers", "nyquist,echo"]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "benchmarks", *run, str(file)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("round 1 of 3" in line for line in process.stdout)
        children = with_children(process.pid)[1:]
        assert len(children) >= 2
        process.send_signal(signal.SIGINT)
        said = process.stdout.read()
    assert process.returncode == 130
    assert "interrupted; what was measured is in" in said.replace("\n", " ")
    ends_by = monotonic() + 10  # a process that was killed is there until init has noticed
    while any(Path(f"/proc/{pid}").exists() for pid in children) and monotonic() < ends_by:
        sleep(0.05)
    assert [pid for pid in children if Path(f"/proc/{pid}").exists()] == []
    started = results.read(file).select(what="start")
    assert [row.of["server"] for row in started] == ["nyquist", "echo"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--servers", "nyqist"], "no server 'nyqist'; choose from nyquist, echo, mlserver"),
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--models", "resnet51"], "no model 'resnet51'; choose from efficientnet_lite0"),
    ],
)
def test_a_wrong_choice_is_named_with_the_right_ones(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words, str(tmp_path / "results.json")]) == 2
    assert message in capsys.readouterr().err


def test_the_quick_run_has_no_peers_and_the_full_one_every_server() -> None:
    quick, full = make_plan(parse(["run", "--quick"])), make_plan(parse(["run"]))
    assert quick.servers == ("nyquist", "echo")
    assert full.servers == ("nyquist", "echo", "mlserver", "kserve", "pytriton")
    assert full.rounds >= 3


def test_results_that_are_not_there_are_an_error_of_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["show", str(tmp_path / "nothing.json")]) == 2
    assert os.fspath(tmp_path / "nothing.json") in capsys.readouterr().err
