"""What an artifact says of picture files, and what a client makes of what a server says."""

from pathlib import Path

import pytest

from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.framing import (
    IMAGENET,
    ON_CANVAS,
    UNSTATED,
    Framing,
    PictureInput,
    picture_input,
    told_picture_input,
)
from tests.artifacts import copy_model, edit_manifest

DYNAMIC = PictureInput(3, 32, 64, "HWC", "UINT8", Framing("lanczos", 0.9), most=(320, 640))
CHW = PictureInput(1, 28, 30, "CHW", "FP16", UNSTATED)


@pytest.mark.parametrize(
    ("wanted", "shape"),
    [
        (DYNAMIC, (-1, -1, 3)),
        (CHW, (1, 28, 30)),
        (PictureInput(3, 8, 9, "HWC", "FP32", ON_CANVAS), (8, 9, 3)),
        (PictureInput(3, 3, 3, "CHW", "UINT8"), (3, 3, 3)),
        (PictureInput(3, 8, 9, "CHW", "FP32", IMAGENET, most=(8, 90)), (3, 8, -1)),
    ],
)
def test_a_client_that_is_told_reads_as_the_server_does(
    wanted: PictureInput, shape: tuple[int, ...]
) -> None:
    assert told_picture_input(wanted.datatype, shape, wanted.parameters()) == wanted


@pytest.mark.parametrize(
    ("datatype", "shape", "expected"),
    [
        ("UINT8", (224, 200, 3), PictureInput(3, 224, 200, "HWC", "UINT8", IMAGENET)),
        ("FP32", (3, 224, 200), PictureInput(3, 224, 200, "CHW", "FP32", IMAGENET)),
        ("FP32", (1, 48, 40), PictureInput(1, 48, 40, "CHW", "FP32", ON_CANVAS)),
        ("UINT8", (48, 40, 1), PictureInput(1, 48, 40, "HWC", "UINT8", ON_CANVAS)),
        ("FP32", (3, -1, -1), PictureInput(3, 1, 1, "CHW", "FP32", IMAGENET, (65535, 65535))),
        ("FP32", (4, 8, 8), None),
        ("FP32", (1, 3, 224, 224), None),
        ("INT64", (3, 224, 224), None),
        ("FP32", (), None),
    ],
)
def test_a_server_that_says_nothing_gets_the_usual_conventions(
    datatype: str, shape: tuple[int, ...], expected: PictureInput | None
) -> None:
    assert told_picture_input(datatype, shape, {"execution_provider": "CPU"}) == expected


@pytest.mark.parametrize(
    ("parameter", "value", "message"),
    [
        ("image_layout", "NHWC", "unknown layout 'NHWC'; choose from CHW, HWC"),
        (
            "image_interpolation",
            "cubic",
            "unknown interpolation 'cubic'; choose from bilinear, bic",
        ),
        ("image_crop_share", "0", "crop_share must be above 0 and at most 1, got 0.0"),
        ("image_fit", "squash", "unknown fit 'squash'; choose from crop, canvas"),
        ("image_least_size", "32", "a size is written HEIGHTxWIDTH, got '32'"),
    ],
)
def test_what_a_client_does_not_understand_is_an_error_and_no_guess(
    parameter: str, value: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        told_picture_input("UINT8", (-1, -1, 3), DYNAMIC.parameters() | {parameter: value})


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.1, float("nan")])
def test_a_crop_share_is_above_0_and_at_most_1(share: float) -> None:
    with pytest.raises(ValueError, match="crop_share must be above 0 and at most 1"):
        Framing(crop_share=share)


def test_nothing_is_cut_off_on_a_canvas() -> None:
    with pytest.raises(ValueError, match=r"crop_share must be 1, got 0\.875"):
        Framing(fit="canvas")


def test_an_input_of_grey_or_colour_as_one_likes_takes_no_files() -> None:
    assert picture_input("FP32", (1, 8, 8), (3, 8, 8), "CHW", IMAGENET) is None
    assert picture_input("FP32", (3, 8, 8), (3, 8, 8), "CHW", IMAGENET) is not None


def test_an_input_grows_to_the_whole_picture_within_its_bounds() -> None:
    grown = DYNAMIC.grown(100, 1000)
    assert grown == PictureInput(3, 100, 640, "HWC", "UINT8", Framing("lanczos", 1.0))
    assert grown.grown(200, 200) is grown


def test_the_zoo_s_manifests_say_how_its_pictures_are_read(repository: Path) -> None:
    assert read_manifest(repository / "efficientnet_lite0", 1).picture == IMAGENET
    assert read_manifest(repository / "fashion_blur", 1).picture == ON_CANVAS


def test_a_manifest_from_before_is_read_as_servers_did_then(
    repository: Path, tmp_path: Path
) -> None:
    folder = copy_model(repository, tmp_path, "efficientnet_lite0")
    edit_manifest(folder, lambda manifest: manifest.pop("picture"))
    signature = read_manifest(folder, 1).signature
    assert signature.picture == PictureInput(
        3, 224, 224, "HWC", "UINT8", Framing("bilinear", 1.0, "crop")
    )


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        ({"interpolation": "cubic"}, "picture.interpolation"),
        ({"crop_share": 2}, "crop_share must be above 0 and at most 1, got 2"),
        ({"crop": 1}, "picture.crop"),
    ],
)
def test_a_manifest_with_another_way_of_reading_is_refused(
    repository: Path, tmp_path: Path, picture: dict[str, object], message: str
) -> None:
    folder = copy_model(repository, tmp_path, "efficientnet_lite0")
    edit_manifest(folder, lambda manifest: manifest.update(picture=picture))
    with pytest.raises(ArtifactError, match=message):
        read_manifest(folder, 1)
