"""A server that is held against a file: a program of torch.export, or an ONNX file."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from nyquist.companion.__main__ import main
from nyquist.models.programs import write_program
from tests.companion.processes import FAST, start_companion
from tests.foreign import SHAPE, WEIGHTS, make_net, put_model
from tests.processes import RunningServer, start_server


class Net(nn.Module):
    """What tests.foreign has as a graph, in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.from_numpy(WEIGHTS))

    def forward(self, image: Tensor) -> Tensor:
        return image.mean((2, 3)) @ self.weight


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both kinds, a graph of other weights, and a program of another size."""
    folder = tmp_path_factory.mktemp("references")
    onnx.save(make_net(), folder / "net.onnx")
    wrong = make_net()
    wrong.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.abs(WEIGHTS), "w"))
    onnx.save(wrong, folder / "wrong.onnx")
    (folder / "net.pt2").write_bytes(write_program(Net().eval(), torch.zeros(2, *SHAPE)))
    (folder / "larger.pt2").write_bytes(write_program(Net().eval(), torch.zeros(2, 3, 16, 16)))
    (folder / "folder.onnx").mkdir()
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "empty.pt2").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    repository = tmp_path_factory.mktemp("foreign")
    put_model(repository, "net", make_net())  # without a configuration: batches of 4
    server = start_server(repository)
    yield server
    assert server.stop() == 0


def command(server: RunningServer, reference: Path, *options: str) -> list[str]:
    way = ("--target", server.target, "--repository", "/nowhere", "--reference", str(reference))
    return ["check", *way, *(options or ("--model", "net"))]


@pytest.mark.parametrize(
    ("file", "words"), [("net.pt2", "PyTorch"), ("net.onnx", "ONNX file, not PyTorch")]
)
def test_a_file_holds_a_server_to_its_answers(
    foreign: RunningServer, files: Path, capsys: pytest.CaptureFixture[str], file: str, words: str
) -> None:
    assert main([*command(foreign, files / file), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["parity"]["holds"]
    assert row["parity"]["graph"]["reference"] == words
    assert main(command(foreign, files / file)) == 0
    assert ("net: held against an ONNX file" in capsys.readouterr().out) is (file == "net.onnx")


def test_pictures_are_normalised_for_the_file_as_for_the_server(
    foreign: RunningServer, files: Path
) -> None:
    normalised = ("--model", "net", "--mean", "0.5", "--std", "0.01")
    assert main(command(foreign, files / "net.onnx", *normalised)) == 0


def test_a_file_of_other_weights_is_a_miss(
    foreign: RunningServer, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(foreign, files / "wrong.onnx")) == 1
    assert "net: parity: answers differ by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "options", "message"),
    [
        ("none.onnx", (), "none.onnx does not exist"),
        ("folder.onnx", (), "folder.onnx is a folder, not a file"),
        ("net.pth", (), "--reference is a .pt2 or an .onnx file, got"),
        ("empty.onnx", (), "empty.onnx: "),
        ("empty.pt2", (), "empty.pt2 is no file of torch.export.save"),
        ("larger.pt2", (), "the reference does not take FP32 (1, 3, 8, 8): "),
        ("net.onnx", ("--json",), "--reference is of one model: name it with --model, got 0"),
        ("net.onnx", ("--companion", "127.0.0.1:1"), "--reference is read here, where --companion"),
    ],
)
def test_a_file_that_cannot_be_held_against_is_exit_status_2(
    foreign: RunningServer,
    files: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    assert main(command(foreign, files / file, *options)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_onnx_file_alone_needs_onnxruntime(
    foreign: RunningServer,
    files: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "nyquist.models.onnx_network", raising=False)
    assert main(command(foreign, files / "net.onnx")) == 2
    assert "net.onnx needs onnxruntime: install nyquist-serving[cpu]" in capsys.readouterr().err
    assert main(command(foreign, files / "net.pt2")) == 0


def test_a_companion_says_that_its_reference_is_not_pytorch(
    foreign: RunningServer, files: Path, tmp_path: Path
) -> None:
    options = ("--model", "net", "--reference", str(files / "net.onnx"))
    companion = start_companion(foreign.target, tmp_path, (*FAST, *options))
    try:
        companion.wait_for(lambda: companion.verdict("net") == "healthy")
        assert "held against an ONNX file, not PyTorch" in companion.get("/models/net")
    finally:
        assert companion.stop() == 0
