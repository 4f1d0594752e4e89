from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nyquist.models import fashion
from nyquist.models.fashion import LABELS
from nyquist.models.samples import (
    ESPRESSO,
    TRIPOD,
    UNLABELLED,
    Samples,
    fashion_calibration,
    fashion_samples,
    photograph_calibration,
    photograph_samples,
    read_samples,
)
from nyquist.models.spec import Datatype, Layout, ModelSpec, Preprocessing
from nyquist.server.wire.framing import IMAGENET, ON_CANVAS, Framing

ORIENTATION, TURN_CLOCKWISE = 0x0112, 6  # of Exif
WHOLE = Framing("bilinear", crop_share=1.0)


def numbered(count: int) -> Samples:
    """Return samples that carry their own number."""
    return Samples(torch.arange(float(count)).view(count, 1, 1, 1), torch.arange(count))


def test_fashion_samples_are_five_hundred_centred_canvases_all_labelled() -> None:
    samples = fashion_samples()

    assert len(samples) == 500
    assert samples.images.shape == (500, 1, 48, 48)
    assert samples.images.dtype == torch.float32
    assert samples.images.min() == 0
    assert 0.9 < samples.images.max() <= 1
    assert samples.labels.bincount(minlength=len(LABELS)).tolist() == [50] * 10
    assert not samples.images[:, :, :10].any()
    assert not samples.images[:, :, :, 38:].any()


def test_fashion_calibration_is_none_of_the_pictures_that_are_judged() -> None:
    calibration = fashion_calibration()
    assert calibration.shape == (100, 1, 48, 48)
    assert calibration.equal(fashion_calibration())
    judged = fashion.load_sample().images
    photographs = fashion.load_calibration()
    assert photographs.shape == (100, 28, 28)
    assert not any((judged == photograph).all(dim=(1, 2)).any() for photograph in photographs)


def test_photograph_calibration_is_none_of_the_crops_that_are_judged() -> None:
    calibration = photograph_calibration()
    assert calibration.shape == (40, 224, 224, 3)
    assert calibration.dtype == torch.uint8
    judged = photograph_samples().images
    assert not any((judged == crop).all(dim=(1, 2, 3)).any() for crop in calibration)
    assert calibration[1].equal(calibration[0].flip(1))


def test_photograph_samples_are_five_colour_crops() -> None:
    samples = photograph_samples()

    assert len(samples) == 5
    assert samples.images.shape == (5, 224, 224, 3)
    assert samples.images.dtype == torch.uint8
    assert len(samples.images)
    assert all(image.unique().numel() > 100 for image in samples.images)


def test_only_the_espresso_and_the_tripod_carry_a_label() -> None:
    # in the order of their names: astronaut, camera, chelsea, coffee, rocket
    expected = [UNLABELLED, TRIPOD, UNLABELLED, ESPRESSO, UNLABELLED]

    assert photograph_samples().labels.tolist() == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (2, [0, 10]), (3, [0, 5, 10]), (6, [0, 2, 4, 6, 8, 10]), (0, [])],
)
def test_a_spread_is_at_equal_distances_from_the_first_to_the_last(
    count: int, expected: list[int]
) -> None:
    spread = numbered(11).spread(count)

    assert len(spread) == len(expected)
    assert spread.labels.tolist() == expected
    assert spread.images.flatten().tolist() == expected


@pytest.mark.parametrize("count", [11, 12, 1000])
def test_a_spread_over_all_is_all_of_them_once(count: int) -> None:
    assert numbered(11).spread(count).labels.tolist() == list(range(11))


def test_a_spread_of_sixty_four_fashion_samples_shows_every_class() -> None:
    spread = fashion_samples().spread(64)

    assert spread.images.shape == (64, 1, 48, 48)
    assert spread.images.is_contiguous()
    assert spread.labels.unique().numel() == len(LABELS)


def spec(
    labels: tuple[str, ...] = (),
    channels: int = 3,
    datatype: Datatype = "UINT8",
    picture: Framing = WHOLE,
) -> ModelSpec:
    layout: Layout = "HWC" if datatype == "UINT8" else "CHW"
    return ModelSpec(
        name="products",
        architecture="resnet18",
        options={},
        weights=None,
        labels=labels,
        samples="",
        input=(channels, 8, 12),
        datatype=datatype,
        preprocessing=Preprocessing(layout),
        picture=picture,
    )


def save(path: Path, width: int, height: int, colour: tuple[int, int, int] = (200, 30, 10)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), colour).save(path)
    return path


def test_pictures_of_every_kind_of_file_are_read_in_the_order_of_their_names(
    tmp_path: Path,
) -> None:
    for number, name in enumerate(("a.jpg", "b.PNG", "c.webp", "d.jpeg")):
        save(tmp_path / name, 30, 20, (60 * number, 0, 0))
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_text("nor this")

    samples = read_samples(spec(), str(tmp_path))

    assert samples.images.shape == (4, 8, 12, 3)
    assert samples.images.dtype == torch.uint8
    reds = samples.images[:, 4, 6, 0].int()
    assert (reds - torch.arange(4) * 60).abs().max() <= 3  # JPEG and WebP are lossy
    assert samples.labels.tolist() == [UNLABELLED] * 4


def test_the_folder_of_a_picture_is_its_class_by_name_or_by_index(tmp_path: Path) -> None:
    for folder in ("dog", "0", "bird"):
        save(tmp_path / folder / "x.png", 12, 8)

    samples = read_samples(spec(("cat", "dog", "bird")), str(tmp_path))

    assert samples.labels.tolist() == [0, 2, 1]  # folders 0, bird, dog


def test_the_middle_of_a_picture_is_what_is_kept(tmp_path: Path) -> None:
    # of 16 rows, 12:8 keeps the middle 24 of 100 columns, and antialiasing sees two more
    wide = np.zeros((16, 100, 3), np.uint8)
    wide[:, 36:64] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    tall = np.zeros((100, 12, 3), np.uint8)
    tall[46:54] = 255
    Image.fromarray(tall).save(tmp_path / "tall.png")

    assert (read_samples(spec(), str(tmp_path)).images == 255).all()


def test_pictures_are_brought_to_the_input_as_the_model_wants_it(tmp_path: Path) -> None:
    framed = np.zeros((64, 96, 3), np.uint8)
    framed[4:60, 6:90] = 255  # 7/8 of each side
    Image.fromarray(framed).save(tmp_path / "framed.png")
    Image.new("RGB", (12, 4), (255, 255, 255)).save(tmp_path / "low.png")

    (framed_of_8_7, low) = read_samples(spec(picture=IMAGENET), str(tmp_path)).images
    (framed_whole, low_on_black) = read_samples(spec(picture=ON_CANVAS), str(tmp_path)).images

    assert (framed_of_8_7[1:-1, 1:-1] == 255).all()
    assert framed_whole[0].float().mean() < 160
    assert (low == 255).all()
    assert (low_on_black[2:6] == 255).all()
    assert low_on_black.sum() == 255 * 3 * 4 * 12


def test_a_model_of_open_size_gets_whole_pictures_as_its_server_gives_it(tmp_path: Path) -> None:
    framed = np.zeros((64, 96, 3), np.uint8)
    framed[:, 48:] = 255
    framed[:8] = 255
    Image.fromarray(framed).save(tmp_path / "framed.png")
    dynamic = replace(spec(picture=IMAGENET), sizes=((4, 4), (16, 16)))
    (picture,) = read_samples(dynamic, str(tmp_path)).images
    (whole,) = read_samples(spec(picture=Framing(crop_share=1.0)), str(tmp_path)).images
    assert picture.equal(whole)


def test_a_network_of_other_channels_gets_the_grey_picture_in_each(tmp_path: Path) -> None:
    save(tmp_path / "red.png", 12, 8, (255, 0, 0))
    (picture,) = read_samples(spec(channels=4, datatype="FP32"), str(tmp_path)).images
    assert picture.shape == (4, 8, 12)
    assert picture.unique().tolist() == pytest.approx([76 / 255])


def test_the_photographs_are_read_at_the_size_of_the_input() -> None:
    samples = read_samples(spec(picture=IMAGENET), "imagenet")
    assert samples.images.shape == (5, 8, 12, 3)
    assert samples.labels.tolist() == photograph_samples().labels.tolist()
    assert read_samples(spec(), "photographs").labels.unique().tolist() == [UNLABELLED]


def test_a_photograph_that_lies_on_its_side_is_set_upright(tmp_path: Path) -> None:
    lying = np.zeros((12, 8, 3), np.uint8)
    lying[:6] = 255  # the upper half, which is the right one when turned clockwise
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_CLOCKWISE
    Image.fromarray(lying).save(tmp_path / "lying.png", exif=exif)

    (upright,) = read_samples(spec(), str(tmp_path)).images

    assert upright.shape == (8, 12, 3)
    assert (upright[:, 6:] == 255).all()
    assert (upright[:, :6] == 0).all()


def test_pictures_become_grey_or_coloured_as_the_network_wants_them(tmp_path: Path) -> None:
    save(tmp_path / "red.png", 12, 8, (255, 0, 0))
    Image.new("L", (12, 8), 7).save(tmp_path / "grey.png")
    Image.new("P", (12, 8), 0).save(tmp_path / "palette.png")

    grey = read_samples(spec(channels=1, datatype="FP32"), str(tmp_path)).images
    coloured = read_samples(spec(), str(tmp_path)).images

    assert grey.shape == (3, 1, 8, 12)
    assert grey.dtype == torch.float32
    assert grey[2].unique().tolist() == pytest.approx([76 / 255])  # ITU-R 601: 0.299 of red
    assert coloured[0].unique().tolist() == [7]


def test_of_many_pictures_five_hundred_are_taken_evenly(tmp_path: Path) -> None:
    for number in range(999):
        Image.new("L", (1, 1), number // 4).save(tmp_path / f"{number:03}.png")

    samples = read_samples(spec(channels=1), str(tmp_path))

    assert len(samples) == 500
    values = samples.images[:, 0, 0, 0]
    assert values.tolist() == [number // 4 for number in range(0, 999, 2)]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"holds no pictures: no \.jpg"),
        (("cat/readme.txt",), "holds no pictures"),
        (("dgo/x.png",), r"dgo: 'dgo' is none of the 2 labels, nor an index; did you mean 'dog'\?"),
        (("zebra/x.png",), "'zebra' is none of the 2 labels, nor an index; they begin cat, dog"),
        (("2/x.png",), "'2' is none of the 2 labels, nor an index"),
        (("x.png", "cat/y.png"), r"holds pictures \(x\.png\) beside folders \(cat\)"),
    ],
)
def test_a_folder_without_pictures_of_known_classes_is_refused(
    tmp_path: Path, files: tuple[str, ...], message: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()

    with pytest.raises(ValueError, match=message):
        read_samples(spec(("cat", "dog")), str(tmp_path))


def test_classes_without_labels_are_refused(tmp_path: Path) -> None:
    save(tmp_path / "dog" / "x.png", 4, 4)

    with pytest.raises(ValueError, match="dog names a class, and the model has no labels"):
        read_samples(spec(), str(tmp_path))


def test_a_picture_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.png", 64, 64).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(ValueError, match=r"b\.png: the picture is damaged"):
        read_samples(spec(), str(tmp_path))

    (tmp_path / "b.png").write_bytes(b"GIF of another kind")
    with pytest.raises(ValueError, match=r"b\.png: expected a file of format JPEG, PNG, WEBP"):
        read_samples(spec(), str(tmp_path))


def test_unknown_samples_are_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="no samples 'fashon'; did you mean fashion"):
        read_samples(spec(), "fashon")
