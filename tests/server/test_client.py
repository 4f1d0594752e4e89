from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nyquist.client.classify import main, slide, softmax
from nyquist.client.client import Client
from nyquist.client.pictures import read_picture
from nyquist.models import fashion
from nyquist.models.samples import photograph_samples
from nyquist.server.artifact.manifest import read_manifest
from tests.processes import ROOT, RunningServer

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
    assert main(["classify", picture, "--model", model, "--target", server.target]) == 0
    title, _, header, _, first, *_ = capsys.readouterr().out.splitlines()
    assert title == f"ankle_boot.png: {model} version 1"
    assert header.split() == ["label", "probability"]
    assert first.split()[:2] == ["ankle", "boot"]


def test_a_cup_of_espresso_is_one_with_more_than_nine_tenths(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(PHOTOGRAPHS / "coffee.png")
    command = ["classify", picture, "--model", "efficientnet_lite0", "--target", server.target]
    assert main(command) == 0
    label, probability = capsys.readouterr().out.splitlines()[4].split()
    assert label == "espresso"
    assert float(probability) > 0.9


def test_sliding_a_picture_shows_where_the_answer_changes(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(PHOTOGRAPHS / "chelsea.png")
    command = ["classify", picture, "--model", "efficientnet_lite0", "--target", server.target]
    assert main([*command, "--shift", "6"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if " px " in line]
    assert [row[0] for row in rows] == list("0123456")
    changed = sum(row[-1] == "changed" for row in rows)
    assert changed >= 1
    assert lines[-1] == f"{6 - changed} of 6 shifts leave the answer as it was"


def test_a_polyphase_network_keeps_its_answer_at_every_shift(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = str(CLOTHES / "shirt.png")
    command = ["classify", picture, "--model", "fashion_polyphase", "--target", server.target]
    assert main([*command, "--shift", "47"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "47 of 47 shifts leave the answer as it was"


@pytest.mark.parametrize(
    ("picture", "model", "message"),
    [
        (CLOTHES / "bag.png", "nobody", "NOT_FOUND: Request for unknown model: 'nobody'"),
        (CLOTHES / "none.png", "fashion_blur", "No such file or directory"),
        (ROOT / "README.md", "fashion_blur", "cannot identify image file"),
    ],
)
def test_what_goes_wrong_is_one_line(
    server: RunningServer,
    capsys: pytest.CaptureFixture[str],
    picture: Path,
    model: str,
    message: str,
) -> None:
    assert main(["classify", str(picture), "--model", model, "--target", server.target]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nyquist-client: error: ")
    assert message in line


def test_a_server_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["classify", str(CLOTHES / "bag.png"), "--model", "m", "--target", "127.0.0.1:1"]
    assert main(command) == 1
    assert "127.0.0.1:1: UNAVAILABLE" in capsys.readouterr().err


def test_a_photograph_is_cropped_from_its_centre(tmp_path: Path) -> None:
    wide = np.zeros((256, 512, 3), np.uint8)
    wide[:, 144:368] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_picture(tmp_path / "wide.png", "UINT8", (224, 224, 3)) == 255).all()


def test_a_photograph_of_256_pixels_is_cropped_and_not_resampled() -> None:
    path = PHOTOGRAPHS / "coffee.png"
    with Image.open(path) as picture:
        crop = np.asarray(picture)[16:240, 16:240]
    assert (read_picture(path, "UINT8", (224, 224, 3)) == crop).all()


def test_a_small_picture_is_centred_on_black_and_scaled_to_one(tmp_path: Path) -> None:
    photo = fashion.load_sample().images[:1]
    Image.fromarray(photo[0].numpy()).save(tmp_path / "photo.png")
    read = read_picture(tmp_path / "photo.png", "FP32", (1, 48, 48))
    assert (read == fashion.place_centred(photo)[0].numpy()).all()


def test_a_large_picture_is_shrunk_to_the_canvas(tmp_path: Path) -> None:
    Image.new("L", (200, 100), 255).save(tmp_path / "large.png")
    read = read_picture(tmp_path / "large.png", "FP32", (1, 48, 48))
    assert read.shape == (1, 48, 48)
    assert (read[0, 12:36] == 1).all()
    assert (read[0, :11] == 0).all()


def test_an_input_that_takes_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the model takes FP32 \(4, 8, 8\)"):
        read_picture(CLOTHES / "bag.png", "FP32", (4, 8, 8))


def test_sliding_rolls_around_the_edge() -> None:
    row = np.array([[[1, 2, 3, 4]]])
    moved = slide(row, 2, width_axis=2)
    assert moved[:, 0, 0].tolist() == [[1, 2, 3, 4], [4, 1, 2, 3], [3, 4, 1, 2]]


def test_softmax_is_what_it_is_by_hand_and_does_not_overflow() -> None:
    probabilities = softmax(np.array([1000.0, 1000.0 + np.log(3.0)]))
    assert probabilities.tolist() == pytest.approx([0.25, 0.75])


def test_a_float_input_in_colour_gets_the_same_crop_in_0_to_1(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    read = read_picture(tmp_path / "colour.png", "FP32", (3, 32, 32))
    crop = read_picture(tmp_path / "colour.png", "UINT8", (32, 32, 3))
    assert read.dtype == np.float32
    assert np.array_equal(read, crop.transpose(2, 0, 1).astype(np.float32) / np.float32(255))


def test_an_input_of_any_size_gets_the_picture_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "colour.png")
    assert np.array_equal(read_picture(tmp_path / "colour.png", "UINT8", (-1, -1, 3)), pixels)
    assert read_picture(tmp_path / "colour.png", "FP32", (1, -1, -1)).shape == (1, 50, 80)
