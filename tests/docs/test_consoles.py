"""The commands of the pages, run from the pages' own text; or why one is not.

A command asks the server of this test where the page has localhost:8001. What the page says that it
prints is compared word by word, and by number where the number is not a time.
"""

import json
import re
import subprocess
import sys
from argparse import ArgumentParser
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from nyquist.__main__ import COMMANDS, main
from nyquist.server.command_line import make_serve_parser
from tests.companion.processes import FAST, RunningCompanion
from tests.docs.consoles import Command, commands
from tests.docs.pages import ROOT
from tests.processes import RunningServer, start_server, start_until

SERVED = ("efficientnet_lite0", "efficientnet_lite0_stable", "fashion_blur")
CHEAP = "fashion_blur"
"""What is asked where a page asks all models: the others take minutes."""

NOT_RUN = {
    r"nyquist build(?!.*(--help|--config))": "builds for minutes; tests/export builds",
    r"nyquist analyse": "seconds of PyTorch each; tests/analysis analyses",
    r"nyquist companion describe": "seconds of PyTorch; tests/companion describes",
    r"nyquist (check|companion) .*(triton|mlserver|kserve):": "a server of others; tests/interop",
    r"nyquist (classify|status|check) .*\[--": "says which options there are",
    r"(nyquist rollout|echo) ": "wants a candidate and its traffic; tests/companion has both",
    r"nyquist (serve|check) --repository repository\b": "a network of the reader's own",
    r"nyquist .*--engine ray": "wants a cluster of Ray; tests.deploy.ray_nodes has one",
    r"nyquist lab": "shows its page until Ctrl-C; tests/companion opens it",
    r"nyquist plan": "measures or simulates for minutes; tests/capacity plans",
    r"nyquist diff": "wants two versions of a model; tests/export compares such",
    r"make ": "installs, or is what runs this",
    r"docker ": "wants Docker; tests/deploy reads the images and the composition",
    r"(apt-get|sudo) ": "changes the machine",
    r"python -m (tests|benchmarks|nyquist.models.train)": "minutes, and figures of its own",
}
"""Commands that are not run, by a pattern, and why."""

OTHERS = {path.name for path in (ROOT / "model_repository").iterdir()} - {CHEAP}
TIMES = ("check", "latency")
"""Commands whose numbers are times, or as small as the rounding of a float."""

NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?%?")
ALL = commands()


def why_not(command: Command) -> str:
    """Return why a command is not run; nothing if it is."""
    text = " ".join([*command.program.split(), *command.words[len(command.program.split()) :]])
    return next((why for pattern, why in NOT_RUN.items() if re.match(pattern, text)), "")


RUN = [command for command in ALL if not why_not(command)]
ONCE = {tuple(one.words): one for one in sorted(RUN, key=lambda one: len(one.prints))}.values()
"""The same without those that stand on several pages, of which what most is said of is run."""


def named(command: Command) -> str:
    """Name a command in the list of tests."""
    return f"{command.page.name}: {command.text[:60]}"


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """The server that docs/companion.md starts, on free ports and with two of its models."""
    command = next(one for one in RUN if one.program == "nyquist serve")
    flags = vars(make_serve_parser().parse_args(command.words[2:]))
    loads = [word for model in SERVED for word in ("--load", model)]
    running = start_server(ROOT / flags["repository"][0], ("--drain-s", "0", *loads))
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def companion(server: RunningServer) -> Iterator[RunningCompanion]:
    """The companion that docs/companion.md starts, on free ports, watching one model."""
    command = next(one for one in RUN if one.text.startswith("nyquist companion --target"))
    words = [word.replace("localhost:8001", server.target) for word in command.words[1:]]
    process, found, log, reader = start_until(
        [sys.executable, "-m", "nyquist", *words, *FAST, "--port", "0", "--http-port", "0",
         "--model", CHEAP],
        r"ready: [^\n]* gRPC on \S+:(\d+), HTTP on http://\S+:(\d+)/",
    )  # fmt: skip
    running = RunningCompanion(process, int(found[1]), int(found[2]), log, reader)
    running.wait_for(lambda: running.verdict(CHEAP) != "")
    yield running
    assert running.stop() == 0


def asked(command: Command, request: pytest.FixtureRequest) -> list[str]:
    """Return the words of a command of ours, as they reach the servers of this test."""
    words = [word.replace("export/build.py", "build") for word in command.words[1:]]
    if words[0] in ("classify", "status", "check") or words[:1] == ["companion"]:
        if "--companion" in words:
            companion: RunningCompanion = request.getfixturevalue("companion")
            return [word.replace("localhost:8003", companion.target) for word in words]
        running: RunningServer = request.getfixturevalue("server")
        words += ["--target", running.target]
    return words if "--model" in words or words[0] != "check" else [*words, "--model", CHEAP]


def close(said: str, printed: str, *, times: bool) -> bool:
    """Say whether two words are one, or numbers near each other."""
    if not (NUMBER.fullmatch(said) and NUMBER.fullmatch(printed)):
        return said == printed
    first, second = (float(word.rstrip("%")) for word in (said, printed))
    return times or abs(first - second) <= 0.01 + 0.02 * abs(first)


def differences(page: str, printed: str, *, times: bool = False) -> list[str]:
    """Return the lines of a page that are not printed; rulers, gaps and other models left out."""
    told = [line.split() for line in printed.splitlines()]
    missing = []
    for line in page.splitlines():
        words = line.split()
        of_another = times and words[:1] != [CHEAP] and words[:1] and words[0] in OTHERS
        if not words or set(line) <= {"─", " "} or of_another:
            continue
        if not any(
            len(one) == len(words)
            and all(close(*pair, times=times) for pair in zip(words, one, strict=True))
            for one in told
        ):
            missing.append(line)
    return missing


@pytest.mark.parametrize(
    "command", [one for one in ONCE if one.program.startswith("nyquist ")], ids=named
)
def test_a_page_says_what_its_command_prints(
    command: Command,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    if command.program == "nyquist serve" or "localhost:8001" in command.words:
        request.getfixturevalue("companion")  # which is started by these words, beside the server
        return
    monkeypatch.chdir(ROOT)
    if "models.yaml" in command.words:
        monkeypatch.chdir(tmp_path)
        text = command.page.read_text(encoding="utf-8")
        (recipe,) = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        Path("models.yaml").write_text(recipe, encoding="utf-8")
        names = [f"class {number}" for number in range(10)]
        Path("labels.txt").write_text("\n".join(names), encoding="utf-8")
    try:
        status: object = main(asked(command, request))
    except SystemExit as ended:  # of --help
        status = ended.code
    assert status == 0
    times = any(word in command.words for word in TIMES)
    assert differences(command.prints, capsys.readouterr().out, times=times) == []


@pytest.mark.parametrize("command", [one for one in RUN if one.program == "curl"], ids=named)
def test_a_page_says_what_curl_prints(command: Command, server: RunningServer) -> None:
    words = [word.replace("localhost:8001", server.target) for word in command.words]
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    if not command.prints.startswith("{"):
        assert ended.stdout.strip() == command.prints
        return
    said, printed = (re.findall(r"[\w' ]+|[\d.]+", text) for text in (command.prints, ended.stdout))
    assert json.loads(ended.stdout).keys() == json.loads(command.prints).keys()
    assert len(said) == len(printed)
    assert all(close(*pair, times=False) for pair in zip(said, printed, strict=True))


def test_the_stubs_are_made_by_the_command_of_the_page(tmp_path: Path) -> None:
    (command,) = [one for one in RUN if one.program == "python -m grpc_tools.protoc"]
    words = [word.replace("python_out=.", f"python_out={tmp_path}") for word in command.words]
    subprocess.run([sys.executable, *words[1:]], cwd=ROOT, check=True, timeout=60)
    assert {path.name for path in tmp_path.iterdir()} >= {
        "inference_pb2.py",
        "inference_pb2_grpc.py",
    }


def test_every_command_is_run_or_has_its_reason_and_every_reason_its_command() -> None:
    programs = {command.program for command in RUN}
    ours = {program for program in programs if program.startswith("nyquist ")}
    assert programs - ours == {"curl", "python -m grpc_tools.protoc"}
    assert {why_not(command) for command in ALL} == {"", *NOT_RUN.values()}


@pytest.mark.parametrize(
    "command", [one for one in ALL if why_not(one) and "[--" not in one.text], ids=named
)
def test_a_command_that_is_not_run_is_one_that_there_is(command: Command) -> None:
    first, *rest = command.program.split()
    if first == "nyquist":
        parser = load(COMMANDS[rest[0]].parser)
        words = [word.replace("...", "x") for word in command.words[2:]]
        parser.parse_args(words)
    elif first == "make":
        assert re.search(
            rf"^{rest[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
        )
    elif first == "python":
        assert find_spec(rest[1])


def load(reference: str) -> ArgumentParser:
    """Return the parser that a command of ours names."""
    module, _, function = reference.partition(":")
    made: ArgumentParser = getattr(import_module(module), function)()
    return made


@pytest.mark.parametrize("command", [one for one in ALL if "[--" in one.text], ids=named)
def test_a_synopsis_has_options_that_there_are(command: Command) -> None:
    told = load(COMMANDS[command.words[1]].parser).format_help()
    options = re.findall(r"--[a-z-]+", command.text)
    assert [option for option in options if not re.search(rf"{option}\b", told)] == []
