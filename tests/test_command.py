"""nyquist: one command, whose words are looked up before anything is imported."""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

from nyquist.__main__ import COMMANDS, EXTRAS, main
from nyquist.client.client import Client
from nyquist.models.analysis.__main__ import COMMANDS as ANALYSES
from nyquist.models.analysis.command_line import COMMANDS as NAMED_ANALYSES
from nyquist.models.choices import ARCHITECTURES
from tests.processes import ROOT, RunningServer

SLOW = ("torch", "onnx", "onnxruntime", "matplotlib", "numpy", "uvloop", "rich")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    told = capsys.readouterr().out
    for word, command in COMMANDS.items():
        assert re.search(rf"^  {word} +{re.escape(command.help)}$", told, re.MULTILINE)


def test_no_command_is_help_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("word", COMMANDS)
def test_help_of_a_command_waits_for_nothing_slow(word: str) -> None:
    code = (
        "import sys; from nyquist.__main__ import main\n"
        "try:\n"
        f"    main([{word!r}, '--help'])\n"
        "except SystemExit as ended:\n"
        f"    print(ended.code, *(name for name in {SLOW!r} if name in sys.modules))"
    )
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.startswith(f"usage: nyquist {word} ")
    assert answer.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("serv", "'serv' is no command; did you mean serve?"),
        ("clasify", "'clasify' is no command; did you mean classify?"),
        ("xyzzy", f"'xyzzy' is no command; choose from {', '.join(COMMANDS)}"),
    ],
)
def test_a_word_that_is_no_command_is_told_the_nearest(
    capsys: pytest.CaptureFixture[str], word: str, line: str
) -> None:
    assert main([word]) == 2
    assert capsys.readouterr().err == f"nyquist: {line}\n"


def test_models_lists_every_architecture_with_its_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {name: tuple(options) for name, options in told.items()} == {
        name: tuple(options) for name, options in ARCHITECTURES.items()
    }
    assert told["resnet18"]["taps"] == {"least": 1, "most": 7}
    assert told["resnet18"]["num_classes"] == {"least": 1, "most": None}
    assert main(["models"]) == 0
    lines = capsys.readouterr().out
    assert all(name in lines for name in ARCHITECTURES)
    assert "  taps          1 to 7\n  pad_mode      reflect, replicate, zero, circular\n" in lines


def test_version_says_what_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["versions"]["python"] == sys.version.split()[0]
    assert told["versions"]["torch"].startswith("2.13.0")
    assert {name for name, there in told["extras"].items() if there} >= {"companion", "export"}
    assert main(["--version"]) == 0
    assert re.search(r"^torch +2\.13\.0", capsys.readouterr().out, re.MULTILINE)


def test_the_extras_are_those_that_can_be_installed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    own = {"yaml": "pyyaml", "pynvml": "nvidia-ml-py", "onnxruntime": "onnxruntime"}
    for extra, modules in EXTRAS.items():
        for module in modules:
            name = own.get(module) or module.partition(".")[0].replace("_", "-")
            assert any(requirement.startswith(name) for requirement in known[extra]), module


def test_an_analysis_that_can_be_asked_for_is_one_that_there_is() -> None:
    assert {*NAMED_ANALYSES, ""} == {*ANALYSES}


def test_status_shows_every_model_and_that_the_server_is_ready(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--target", server.target]) == 0
    told = capsys.readouterr().out
    (row,) = (line.split() for line in told.splitlines() if line.startswith(" fashion_blur "))
    assert row == ["fashion_blur", "1", "READY", "CPU", "FP32", "1x48x48"]
    assert told.splitlines()[-1] == f"{server.target} is ready"


def test_status_as_json_says_the_same(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--target", server.target, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["target"], told["ready"]) == (server.target, True)
    (one,) = (model for model in told["models"] if model["model"] == "efficientnet_lite0")
    assert (one["version"], one["state"], one["shape"]) == ("1", "READY", [224, 224, 3])
    assert one["provider"] == "CPUExecutionProvider"


def test_status_counts_requests_and_how_long_they_took(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    with Client(server.target) as client:
        model = client.describe("fashion_blur")
        client.infer(model, np.zeros((1, *model.shape), np.float32))
    metrics = f"127.0.0.1:{server.metrics_port}"
    words = ["status", "--target", server.target, "--metrics", metrics, "--model", "fashion_blur"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "requests" in told
    (row,) = (line.split() for line in told.splitlines() if line.startswith(" fashion_blur "))
    *_, requests, p99, unit = row
    assert (int(requests) >= 1, float(p99) > 0, unit) == (True, True, "ms")
    assert main([*words, "--json"]) == 0
    (one,) = json.loads(capsys.readouterr().out)["models"]
    assert one["requests"] >= 1
    assert one["p99_s"] > 0


def test_status_watches_until_ctrl_c_and_shows_what_came_between(server: RunningServer) -> None:
    metrics = f"127.0.0.1:{server.metrics_port}"
    words = ["status", "--target", server.target, "--metrics", metrics, "--watch", "0.1"]
    with subprocess.Popen(
        [sys.executable, "-m", "nyquist", *words, "--model", "fashion_blur"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as watching:  # fmt: skip
        assert watching.stdout is not None
        seen = [next(line for line in watching.stdout if "model" in line) for _ in range(3)]
        watching.send_signal(signal.SIGINT)
        _, told = watching.communicate(timeout=60)
    assert ["requests/s" in line for line in seen] == [False, True, True]
    assert (watching.returncode, told) == (130, "nyquist: interrupted\n")


def test_status_of_nobody_is_a_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--target", "127.0.0.1:1"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nyquist status: error: 127.0.0.1:1: UNAVAILABLE")


def test_ctrl_c_is_a_line_and_status_130(tmp_path: Path) -> None:
    code = (
        "import signal, sys, nyquist.client.classify as room\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # may be ignored around tests
        "room.run = lambda options: signal.raise_signal(signal.SIGINT)\n"
        "from nyquist.__main__ import main\n"
        "sys.exit(main(['classify', 'p.png', '--model', 'm']))"
    )
    command = [sys.executable, "-c", code]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (130, "nyquist: interrupted\n")


@pytest.mark.parametrize("module", ["argparse", "nyquist.client.status", "grpc._cython.cygrpc"])
def test_ctrl_c_while_a_command_is_imported_is_the_same(module: str) -> None:
    code = (
        "import importlib.abc, signal, sys\n"
        "class Interrupting(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}: signal.raise_signal(signal.SIGINT)\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from nyquist.entry import main\n"
        "sys.argv = ['nyquist', 'status', '--target', '127.0.0.1:1']\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-S", "-c", code]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}  # -S: nothing is imported for its sake
    ended = subprocess.run(
        command, env=os.environ | path, capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (130, "nyquist: interrupted\n")


def completed(words: str, folder: Path) -> list[str]:
    """Return what a real bash offers when TAB is pressed at the end of these words."""
    script = subprocess.run(
        [sys.executable, "-m", "nyquist", "completion", "bash"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    (folder / "completion").write_text(script, encoding="utf-8")
    asked = (
        "source ./completion\n"
        f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n"
        "function_name=$(complete -p nyquist | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"
        '$function_name\nprintf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    answer = subprocess.run(
        ["bash", "--norc", "-c", asked],  # noqa: S607 - the bash of the person
        cwd=folder, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return answer.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("nyquist che", {"check", "check-repository"}),
        ("nyquist serve --max-im", {"--max-image-pixels"}),
        ("nyquist companion des", {"describe"}),
        ("nyquist companion latency --batch", {"--batch-size"}),
        ("nyquist analyse --downsampling max_", {"max_pool", "max_blur"}),
        ("nyquist classify chel", {"chelsea.png"}),
    ],
)
def test_bash_completes_commands_options_choices_and_files(
    tmp_path: Path, words: str, offered: set[str]
) -> None:
    (tmp_path / "chelsea.png").touch()
    assert set(completed(words, tmp_path)) == offered
