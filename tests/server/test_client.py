import csv
import json
import subprocess
import sys
from pathlib import Path
from shutil import copy
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nyquist.client.classify import Classifying, main, slide
from nyquist.client.client import Client, RankedClass, RemoteModel
from nyquist.client.picture_sources import files_of
from nyquist.models.samples import photograph_samples
from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.wire.head import CLASSES
from tests.processes import ROOT, RunningServer, start_server
from tests.tiny import write_mean_model

pytestmark = pytest.mark.usefixtures("transport")

PHOTOGRAPHS = ROOT / "models/nyquist/models/data" / "photographs"
CLOTHES = ROOT / "models/nyquist/models/data" / "fashion"
FAMILIES = ("max_pool", "avg_pool", "strided", "blur", "max_blur", "polyphase")


def test_the_client_knows_what_the_server_says_of_a_model(client: Client) -> None:
    model = client.describe("efficientnet_lite0")
    assert (model.version, model.input, model.datatype) == ("1", "image", "UINT8")
    assert model.shape == (224, 224, 3)
    assert model.outputs == {"logits": (1000,)}
    manifest = read_manifest(ROOT / "model_repository" / "efficientnet_lite0", 1)
    assert model.sha256 == manifest.files["1/model.onnx"]
    assert client.ready()
    assert client.ready("fashion_blur")
    assert not client.ready("nobody")


def test_classes_come_highest_first_and_agree_with_the_logits(client: Client) -> None:
    model = client.describe("efficientnet_lite0")
    pictures = photograph_samples().images.numpy()
    logits = client.infer(model, pictures)
    answers = client.classify(model, pictures)
    assert len(answers) == len(pictures)
    for row, ranked in zip(logits, answers, strict=True):
        assert [one.index for one in ranked[:5]] == np.argsort(-row)[:5].tolist()
        assert len(ranked) == 1000


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_names_an_ankle_boot(
    server: RunningServer, capsys: pytest.CaptureFixture[str], family: str
) -> None:
    picture = str(CLOTHES / "ankle_boot.png")
    model = f"fashion_{family}"
    assert main([picture, "--model", model, "--target", server.target]) == 0
    title, _, header, _, first, *_ = capsys.readouterr().out.splitlines()
    assert title == f"ankle_boot.png: {model} version 1"
    assert header.split() == ["label", "probability"]
    assert first.split()[:2] == ["ankle", "boot"]


def test_a_cup_of_espresso_is_one_with_more_than_nine_tenths(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(PHOTOGRAPHS / "coffee.png")
    command = [picture, "--model", "efficientnet_lite0", "--target", server.target]
    assert main(command) == 0
    label, probability = capsys.readouterr().out.splitlines()[4].split()
    assert label == "espresso"
    assert float(probability) > 0.9


def test_sliding_a_picture_shows_where_the_answer_changes(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(PHOTOGRAPHS / "chelsea.png")
    command = [picture, "--model", "efficientnet_lite0", "--target", server.target]
    assert main([*command, "--shift", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if " px " in line]
    assert [row[0] for row in rows] == list("0123456")
    changed = sum(row[-1] == "changed" for row in rows)
    assert changed >= 1
    assert lines[-1] == f"{6 - changed} of 6 shifts leave the answer as it was"


def test_json_has_the_highest_classes_at_every_shift(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(PHOTOGRAPHS / "coffee.png")
    command = [picture, "--model", "efficientnet_lite0", "--target", server.target]
    assert main([*command, "--shift", "2", "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    assert (answer["model"], answer["version"]) == ("efficientnet_lite0", "1")
    assert [one["shift"] for one in answer["shifts"]] == [0, 1, 2]
    highest = answer["shifts"][0]["classes"][0]
    assert (highest["label"], highest["probability"] > 0.9) == ("espresso", True)


def test_a_polyphase_network_keeps_its_answer_at_every_shift(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(CLOTHES / "shirt.png")
    command = [picture, "--model", "fashion_polyphase", "--target", server.target]
    assert main([*command, "--shift", "47"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "47 of 47 shifts leave the answer as it was"


def test_folders_and_several_pictures_are_one_table_with_the_highest_label_of_each(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(CLOTHES), "--model", "fashion_blur", "--target", server.target]
    assert main(command) == 0
    told = capsys.readouterr()
    rows = [line.split() for line in told.out.splitlines() if ".png" in line]
    files = sorted(CLOTHES.rglob("*.png"))
    assert len(rows) == len(files) > 5
    assert told.err == "", "a bar at a terminal alone"
    assert main([*command, "--top", "2", "--csv"]) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    assert [line["picture"] for line in lines[::2]] == [str(file) for file in files]
    assert [line["rank"] for line in lines] == ["1", "2"] * len(files)
    assert all(line["label"] and 0 <= float(line["probability"]) <= 1 for line in lines)
    boot = str(CLOTHES / "ankle_boot.png")
    first = next(line for line in lines if line["picture"] == boot)
    assert first["label"] == "ankle boot"


def test_several_pictures_ride_in_one_request(server: RunningServer) -> None:
    with Client(server.target) as client:
        counted = _Counting(client)
        asking = Classifying(counted, client.describe("fashion_blur"))
        answers = [one for some in asking.answers(files_of([CLOTHES])) for one in some]
        alone = [
            client.classify(answer.model, answer.model.read_pictures([Path(answer.picture)]))[0]
            for answer in answers
        ]
    assert counted.batches == [len(answers)]
    assert [answer.shifts[0] for answer in answers] == alone


class _Counting(Client):
    """Asks as another client does, and notes how many pictures each request has."""

    def __init__(self, client: Client) -> None:
        self._client, self.batches = client, list[int]()

    def classify(
        self, model: RemoteModel, pictures: NDArray[Any], output: str = ""
    ) -> list[list[RankedClass]]:
        self.batches.append(len(pictures))
        return self._client.classify(model, pictures, output)


def test_a_picture_that_cannot_be_read_is_told_and_the_others_are_answered(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "half.png").write_bytes((CLOTHES / "bag.png").read_bytes()[:200])
    copy(CLOTHES / "shirt.png", tmp_path)
    command = [str(tmp_path), "--model", "fashion_blur", "--target", server.target, "--json"]
    assert main(command) == 1
    told = capsys.readouterr()
    (answer,) = json.loads(told.out)
    assert answer["picture"] == str(tmp_path / "shirt.png")
    (line,) = told.err.splitlines()
    assert line.startswith(f"nyquist classify: error: {tmp_path / 'half.png'}: ")


def test_a_picture_comes_from_standard_input(server: RunningServer) -> None:
    command = [sys.executable, "-m", "nyquist", "classify", "-", "--model", "fashion_blur"]
    with (CLOTHES / "ankle_boot.png").open("rb") as picture:
        ended = subprocess.run(
            [*command, "--target", server.target, "--top", "1", "--csv"],
            stdin=picture, capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    (line,) = csv.DictReader(ended.stdout.splitlines())
    assert (line["picture"], line["label"]) == ("-", "ankle boot")


@pytest.mark.parametrize(
    ("picture", "model", "message"),
    [
        (CLOTHES / "bag.png", "nobody", "no model 'nobody' at 127.0.0.1"),
        (CLOTHES / "none.png", "fashion_blur", "none.png cannot be read: No such file"),
        (ROOT / "proto", "fashion_blur", "proto is a folder without pictures: no .jpg"),
        (
            ROOT / "README.md",
            "fashion_blur",
            "README.md: expected a file of format JPEG, PNG, WEBP",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: RunningServer,
    capsys: pytest.CaptureFixture[str],
    picture: Path,
    model: str,
    message: str,
) -> None:
    assert main([str(picture), "--model", model, "--target", server.target]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nyquist classify: error: ")
    assert message in line


def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    command = [str(CLOTHES / "bag.png"), "--model", "m", "--target", "127.0.0.1:1"]
    assert main(command) == 1
    assert "127.0.0.1:1: UNAVAILABLE" in capsys.readouterr().err


def test_an_input_that_takes_no_picture_is_refused(repository: Path, tmp_path: Path) -> None:
    write_mean_model(repository, tmp_path, "five", "FP32", "CHW", (5, 8, 8), (5, 8, 8))
    running = start_server(tmp_path)
    with Client(running.target) as client:
        model = client.describe("five")
    assert running.stop() == 0
    with pytest.raises(ValueError, match=r"of 1 or 3 channels.*; five takes FP32 \(5, 8, 8\)"):
        model.read_pictures([CLOTHES / "bag.png"])


def test_sliding_rolls_around_the_edge() -> None:
    row = np.array([[[1, 2, 3, 4]]])
    moved = slide(row, 2, width_axis=2)
    assert moved[:, 0, 0].tolist() == [[1, 2, 3, 4], [4, 1, 2, 3], [3, 4, 1, 2]]


def test_sliding_diagonally_moves_down_too() -> None:
    picture = np.array([[[1, 2], [3, 4]]])
    moved = slide(picture, 1, width_axis=2, diagonal=True)
    assert moved[1, 0].tolist() == [[4, 3], [2, 1]]


def test_softmax_is_what_it_is_by_hand_and_does_not_overflow() -> None:
    probabilities = CLASSES.probabilities(np.array([1000.0, 1000.0 + np.log(3.0)]))
    assert probabilities.tolist() == pytest.approx([0.25, 0.75])
