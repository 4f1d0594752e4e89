import gzip
import hashlib
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nyquist.models.fashion import (
    CANVAS_SIZE,
    DEBIAN_PACKAGE,
    LABELS,
    MARGIN,
    PHOTO_SIZE,
    load_sample,
    load_split,
    place,
    place_centred,
    place_randomly,
    read_idx,
    sha256_of,
    write_calibration,
)

WriteIdx = Callable[[Path, Tensor], None]


def photographs(count: int) -> Tensor:
    """Return random photographs without a black pixel, so that each shows where it lies."""
    generator = torch.Generator().manual_seed(0)
    shape = (count, PHOTO_SIZE, PHOTO_SIZE)
    return torch.randint(1, 256, shape, generator=generator, dtype=torch.uint8)


def corners(canvases: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows and columns of the upper left corners of what is not black."""
    bright = canvases[:, 0] > 0
    return bright.any(dim=2).int().argmax(dim=1), bright.any(dim=1).int().argmax(dim=1)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4)])
def test_an_idx_file_is_read_in_the_shape_of_its_header(
    shape: tuple[int, ...], tmp_path: Path, write_idx: WriteIdx
) -> None:
    values = torch.arange(250, 250 - torch.Size(shape).numel(), -1, dtype=torch.uint8).view(shape)
    write_idx(tmp_path / "good.gz", values)

    found = read_idx(tmp_path / "good.gz")

    assert found.dtype == torch.uint8
    assert torch.equal(found, values)


def test_the_header_of_an_idx_file_is_big_endian(tmp_path: Path) -> None:
    path = tmp_path / "by_hand.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9])))

    assert read_idx(path).tolist() == [[7, 8, 9]]


@pytest.mark.parametrize("start", [b"\0\0\x0d\x01", b"\x01\0\x08\x01", b"\0\x01\x08\x01"])
def test_a_wrong_magic_is_refused_and_shown(start: bytes, tmp_path: Path) -> None:
    path = tmp_path / "wrong.gz"
    path.write_bytes(gzip.compress(start + struct.pack(">I", 2) + b"ab"))

    with pytest.raises(ValueError, match=rf"wrong\.gz is no IDX file.*{start.hex()}"):
        read_idx(path)


@pytest.mark.parametrize("body", [b"", b"abc", b"abcde"])
def test_a_body_of_another_length_than_promised_is_refused(body: bytes, tmp_path: Path) -> None:
    path = tmp_path / "truncated.gz"
    path.write_bytes(gzip.compress(struct.pack(">2xBBI", 8, 1, 4) + body))

    with pytest.raises(ValueError, match=rf"truncated\.gz promises .*4.* and holds {len(body)}"):
        read_idx(path)


@pytest.mark.parametrize("split", ["train", "t10k"])
def test_a_split_is_its_photographs_and_labels(
    split: str, tmp_path: Path, write_idx: WriteIdx
) -> None:
    images = photographs(3)
    write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / f"{split}-labels-idx1-ubyte.gz", torch.tensor([9, 0, 4]).byte())

    found = load_split(tmp_path, split)

    assert torch.equal(found.images, images)
    assert found.labels.dtype == torch.int64
    assert found.labels.tolist() == [9, 0, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no gzip at all", "no whole gzip file"),
        (gzip.compress(bytes(2000))[:20], "no whole gzip file"),
        (gzip.compress(b""), "no IDX file"),
        (gzip.compress(bytes([0, 0, 8, 3, 0, 0])), "promises a header"),
    ],
    ids=["no gzip", "cut gzip", "empty", "cut header"],
)
def test_a_file_that_is_cut_short_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"cut.gz .*{message.split()[-1]}"):
        read_idx(path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [([1, 2], "3 images.* 2 labels"), ([1, 2, 10], "holds label 10, the last one is 9")],
)
def test_images_and_labels_that_do_not_belong_together_are_refused(
    tmp_path: Path, write_idx: WriteIdx, labels: list[int], message: str
) -> None:
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", photographs(3))
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", torch.tensor(labels, dtype=torch.uint8))
    with pytest.raises(ValueError, match=message):
        load_split(tmp_path, "train")


@pytest.mark.parametrize("edge", [-1, MARGIN + 1])
def test_a_photograph_does_not_leave_its_canvas(edge: int) -> None:
    inside, outside = torch.tensor([0]), torch.tensor([edge])
    with pytest.raises(ValueError, match=rf"edges must be in 0\.\.20, got {edge}"):
        place(photographs(1), inside, outside)


def test_missing_data_is_named_with_the_debian_package_that_has_it(
    tmp_path: Path, write_idx: WriteIdx
) -> None:
    with pytest.raises(FileNotFoundError, match=r"t10k-images-idx3-ubyte\.gz is missing") as caught:
        load_split(tmp_path, "t10k")
    assert f"apt-get install {DEBIAN_PACKAGE}" in str(caught.value)

    write_idx(tmp_path / "t10k-images-idx3-ubyte.gz", photographs(1))
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte\.gz is missing"):
        load_split(tmp_path, "t10k")


def test_the_committed_sample_has_fifty_photographs_of_each_class() -> None:
    sample = load_sample()

    assert sample.images.shape == (500, PHOTO_SIZE, PHOTO_SIZE)
    assert sample.images.dtype == torch.uint8
    assert sample.labels.dtype == torch.int64
    assert sample.labels.bincount(minlength=len(LABELS)).tolist() == [50] * 10
    assert (sample.images.flatten(1).max(dim=1).values > 100).all()


def test_checksums_are_those_of_the_data_files_alone(tmp_path: Path) -> None:
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"train")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"test")
    (tmp_path / "README").write_bytes(b"no data")

    assert sha256_of(tmp_path) == {
        "t10k-labels-idx1-ubyte.gz": hashlib.sha256(b"test").hexdigest(),
        "train-labels-idx1-ubyte.gz": hashlib.sha256(b"train").hexdigest(),
    }


def test_a_photograph_lies_where_it_was_put_and_nowhere_else() -> None:
    images = photographs(3)
    rows, columns = torch.tensor([0, 7, MARGIN]), torch.tensor([MARGIN, 0, 3])

    canvases = place(images, rows, columns)

    assert canvases.shape == (3, 1, CANVAS_SIZE, CANVAS_SIZE)
    assert canvases.dtype == torch.float32
    for canvas, image, row, column in zip(
        canvases[:, 0], images, rows.tolist(), columns.tolist(), strict=True
    ):
        window = canvas[row : row + PHOTO_SIZE, column : column + PHOTO_SIZE]
        assert torch.equal(window, image / 255)
        assert canvas.count_nonzero() == PHOTO_SIZE * PHOTO_SIZE


def test_values_are_scaled_from_black_to_one() -> None:
    white = torch.full((1, PHOTO_SIZE, PHOTO_SIZE), 255, dtype=torch.uint8)

    assert place_centred(white).unique().tolist() == [0, 1]


def test_a_centred_photograph_has_the_same_margin_on_every_side() -> None:
    canvases = place_centred(photographs(2))

    assert canvases.shape == (2, 1, 48, 48)
    assert (canvases[:, :, 10:38, 10:38] > 0).all()
    canvases[:, :, 10:38, 10:38] = 0
    assert not canvases.any()


def test_random_places_reach_every_edge_of_the_canvas_and_are_independent() -> None:
    canvases = place_randomly(photographs(600), torch.Generator().manual_seed(0))

    rows, columns = corners(canvases)
    assert rows.unique().tolist() == list(range(MARGIN + 1))
    assert columns.unique().tolist() == list(range(MARGIN + 1))
    assert abs(torch.corrcoef(torch.stack([rows, columns]).float())[0, 1]) < 0.2
    assert torch.equal(canvases.count_nonzero(dim=(1, 2, 3)), torch.full((600,), PHOTO_SIZE**2))


def test_the_same_generator_seed_gives_the_same_places() -> None:
    def placed(seed: int) -> Tensor:
        return place_randomly(photographs(4), torch.Generator().manual_seed(seed))

    assert torch.equal(placed(0), placed(0))
    assert not torch.equal(placed(0), placed(1))


def test_the_calibration_photographs_are_the_first_of_each_class(
    tmp_path: Path, write_idx: WriteIdx
) -> None:
    labels = torch.arange(30, dtype=torch.uint8) % len(LABELS)
    images = torch.arange(30, dtype=torch.uint8)[:, None, None].expand(-1, 28, 28).contiguous()
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels)

    write_calibration(tmp_path, tmp_path / "calibration.npz", count=2)

    with np.load(tmp_path / "calibration.npz") as written:
        assert written["images"].tolist() == images[:20].tolist()
