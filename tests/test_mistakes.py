"""What a person mistypes at the command line, and the one line that answers it."""

import re
from pathlib import Path

import pytest

from nyquist.__main__ import main
from tests.processes import ROOT, RunningServer

PICTURE = "models/nyquist/models/data/fashion/bag.png"
ASK = f"classify {PICTURE} --model fashion_blur --target"

OPTIONS = {
    "serv": "nyquist: 'serv' is no command; did you mean serve?",
    "serve --prot 1": "--prot is no option, did you mean --port",
    "serve --port x": "port: Input should be a valid integer, .*, got 'x'",
    "serve --port 1 --port=2": "--port stands twice, and takes one value",
    "status --target a:1 --target b:2": "--target stands twice, and takes one value",
    "companion check --target a:1 --target b:2": "--target stands twice, and takes one value",
    "serve --grpc-port 8001": "--grpc-port is Triton's, here it is --port",
    "serve --model-repository r": "--model-repository is Triton's, here it is --repository",
    "serve --host [::1]": r"host: an address stands without brackets, ::1, got '\[::1\]'",
    "companion --host [::1]": "host: an address stands without brackets, ::1",
    f"{ASK} a:1 --shift -1": "--shift: expected a whole number of at least 1, got '-1'",
    "status --watch soon": "--watch: expected seconds from 0.1 to 3600, got 'soon'",
    "status --metrics 8002": "--metrics is HOST:PORT, such as localhost:8002, got '8002'",
}
FILES = {
    "serve --repository nowhere": "there is no model repository at nowhere; make one with nyquist",
    "serve --repository README.md": "README.md is a file, a model repository is a folder",
    "serve nowhere.onnx": "nowhere.onnx cannot be read: No such file or directory",
    "check-repository --repository docs": "docs holds no model: no NAME/config.pbtxt",
    "build --config nowhere.yaml": "nowhere.yaml cannot be read: No such file or directory$",
    "build --only fashion_blurr": "unknown model 'fashion_blurr'; did you mean fashion_blur\\?",
    "check --reference nowhere.onnx --model m": "--reference nowhere.onnx does not exist",
}
TARGETS = {
    "status --target localhost": "a target is HOST:PORT, such as localhost:8001, got 'localhost'",
    "status --target http://localhost:8001": "a target is HOST:PORT without http://, localhost:80",
    "status --target 127.0.0.1:1": "is a server running at 127.0.0.1:1. Start one with nyquist",
    "check --target 127.0.0.1:1": "is a server running at 127.0.0.1:1. Start one with nyquist",
    "status --target host.invalid:8001": "there is no host 'host.invalid' that could be found",
    "status --target {metrics}": "does not speak gRPC; metrics and pages have ports of their own",
    "status --target {target} --metrics {target}": "the metrics at .* cannot be read: ",
    "status --target {target} --model fashion_blurr": "did you mean fashion_blur.$",
    f"classify {PICTURE} --model fashion_blurr --target {{target}}": "did you mean fashion_blur.$",
    "check --target {target} --model fashion_blurr": "did you mean fashion_blur.$",
    "check --companion {target}": "what listens there is no companion; .* has port 8003$",
}
PICTURES = {
    "nowhere.png": "nowhere.png cannot be read: No such file or directory$",
    "proto": "proto is a folder without pictures: no .jpg, .jpeg, .png, .webp$",
    "README.md": "README.md: expected a file of format JPEG, PNG, WEBP, got one that begins with",
}


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def answer(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a command that must fail; return the last line that it wrote on standard error."""
    try:
        status: object = main(words.split())
    except SystemExit as ended:
        status = ended.code
    assert status in (1, 2)
    said = capsys.readouterr().err
    for unwanted in ("Traceback", "[Errno"):
        assert unwanted not in said
    return said.splitlines()[-1]


@pytest.mark.parametrize(("words", "line"), OPTIONS.items(), ids=list(OPTIONS))
def test_a_wrong_option_is_answered_with_the_right_one(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert re.search(line, answer(words, capsys))


@pytest.mark.parametrize(("words", "line"), FILES.items(), ids=list(FILES))
def test_a_file_that_is_not_there_or_none_is_named_in_words(
    words: str, line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    elsewhere = f" --output {tmp_path}" if words.startswith("build") else ""
    assert re.search(line, answer(words + elsewhere, capsys))


@pytest.mark.parametrize(("words", "line"), TARGETS.items(), ids=list(TARGETS))
def test_a_wrong_target_or_model_is_answered_with_what_would_be_right(
    words: str, line: str, server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = f"127.0.0.1:{server.metrics_port}"
    asked = words.replace("{target}", server.target).replace("{metrics}", metrics)
    assert re.search(line, answer(asked, capsys))


@pytest.mark.parametrize(("picture", "line"), PICTURES.items(), ids=list(PICTURES))
def test_a_picture_that_is_none_is_named_in_words(
    picture: str, line: str, server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = f"classify {picture} --model fashion_blur --target {server.target}"
    assert re.search(line, answer(asked, capsys))
