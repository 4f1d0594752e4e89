"""nyquist check-repository: what it says, and the status that it exits with."""

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree

import pytest
from google.protobuf import text_format

from nyquist.server.__main__ import main
from nyquist.server.wire.pb import model_config_pb2
from tests.artifacts import add_version, set_config
from tests.foreign import make_net, put_model

MODELS = ("fashion_blur", "fashion_strided")


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    before = logging.getLogger().handlers[:]
    yield
    for handler in logging.getLogger().handlers[:]:
        if type(handler) is logging.StreamHandler and handler not in before:
            logging.getLogger().removeHandler(handler)
    logging.getLogger("nyquist").setLevel(logging.NOTSET)


@pytest.fixture
def small(repository: Path, tmp_path: Path) -> Path:
    """A repository of two models that a test may damage."""
    for name in MODELS:
        copytree(repository / name, tmp_path / name)
    return tmp_path


def test_a_good_repository_is_a_table_and_status_0(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--repository", str(small), "--provider", "cpu"]) == 0
    told = capsys.readouterr().out
    for name in MODELS:
        (row,) = (line.split() for line in told.splitlines() if name in line)
        assert row[1:6] == ["1", "CPU", "FP32", "1x48x48", "64"]
    assert "TLS off" in told
    assert "largest request 4194304 bytes, largest answer 67108864" in told
    assert "2 of 2 models can be served" in told


def test_json_has_what_is_served_and_why_the_rest_is_not(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (small / "fashion_blur" / "1/manifest.json").write_text("{", encoding="utf-8")
    assert main(["check", "--repository", str(small), "--provider", "cpu", "--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    blur, strided = document["models"]
    assert "Invalid JSON" in blur["error"]
    assert strided["model"] == "fashion_strided"
    assert strided["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [1, 48, 48]}]
    assert strided["provider"] == "CPUExecutionProvider"
    assert document["largest_request_bytes"] == 4194304


@pytest.mark.parametrize(
    ("path", "text", "reason"),
    [
        ("1/model.onnx", "no onnx", "has sha256"),
        ("1/manifest.json", "{", "Invalid JSON"),
        ("config.pbtxt", "platform: 'x'", "platform is 'x', served is 'onnxruntime_onnx'"),
    ],
)
def test_a_model_that_cannot_be_served_is_status_2_and_named_with_its_reason(
    small: Path, capsys: pytest.CaptureFixture[str], path: str, text: str, reason: str
) -> None:
    (small / "fashion_blur" / path).write_text(text, encoding="utf-8")
    assert main(["check", "--repository", str(small), "--provider", "cpu"]) == 2
    told = " ".join(capsys.readouterr().out.split())
    assert "1 of 2 models can be served" in told
    assert re.search("fashion_blur (version 1 )?is not served: ", told)
    assert reason in told


def test_every_version_that_the_policy_asks_for_is_tried_as_at_a_start(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    set_config(small / "fashion_blur", "version_policy { specific { versions: [1, 3] } }")
    add_version(small / "fashion_blur", 2)
    set_config(small / "fashion_strided", "version_policy { specific { versions: [2] } }")
    (small / "fashion_blur" / "2").rename(small / "fashion_blur" / "010")
    assert main(["check", "--repository", str(small), "--provider", "cpu", "--json"]) == 2
    models = json.loads(capsys.readouterr().out)["models"]
    assert [(one["model"], one["version"], "error" in one) for one in models] == [
        ("fashion_blur", 1, False),
        ("fashion_blur", 3, True),
        ("fashion_strided", None, True),
    ]
    assert main(["check", "--repository", str(small), "--provider", "cpu"]) == 2
    told = capsys.readouterr().out
    assert "fashion_blur/010 is no version" in told
    assert "fashion_strided is not served: " in told
    assert "1 of 2 models can be served" in told


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--repository", "/nowhere"], "there is no model repository at /nowhere"),
        (["--port", "x"], "port: Input should be a valid integer"),
        (["--token-file", "/nowhere"], "tokens cannot be read from /nowhere"),
        (["--tls-certificate", "/nowhere", "--tls-key", "/nowhere"], "TLS: /nowhere"),
        (["--provider", "cpu", "--require-cuda"], "contradicts --provider cpu"),
    ],
)
def test_a_wrong_option_is_status_1_and_one_line(
    small: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], reason: str
) -> None:
    assert main(["check", "--repository", str(small), *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nyquist check-repository: error: ")
    assert reason in line


def test_an_empty_folder_is_no_repository(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--repository", str(tmp_path)]) == 1
    assert "holds no model" in capsys.readouterr().err


def test_a_limit_below_a_full_batch_is_said(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["check", "--repository", str(small), "--max-message-bytes", "100000"]
    assert main(arguments) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "fashion_blur: a full batch of 64 takes 589824 bytes, a request may have 100000" in told


def test_the_completed_configuration_of_a_model_without_a_manifest_is_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_model(tmp_path, "bare", make_net())
    put_model(tmp_path, "fixed", make_net(batch=2), "max_batch_size: 0")
    arguments = ["check", "--repository", str(tmp_path), "--provider", "cpu"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    (told,) = [line for line in lines if line.startswith("bare has no manifest: ")]
    config = text_format.Parse(told.partition(": ")[2], model_config_pb2.ModelConfig())
    assert (config.name, config.max_batch_size) == ("bare", 4)
    assert [list(one.dims) for one in config.input] == [[3, 8, 8]]
    assert [list(one.dims) for one in config.output] == [[5]]
    (row,) = [line.split() for line in lines if line.split()[:1] == ["fixed"] and "CPU" in line]
    assert row[5] == "2"
    assert main([*arguments, "--json"]) == 0
    fixed = json.loads(capsys.readouterr().out)["models"][1]
    assert (fixed["model"], fixed["max_batch_size"]) == ("fixed", 0)
    assert fixed["config"]["input"][0]["dims"] == ["2", "3", "8", "8"]
