"""Fashion-MNIST: photographs of clothes, 28x28, placed on a 48x48 black canvas.

The data set is Xiao, Rasul and Vollgraf, "Fashion-MNIST: a novel image dataset for benchmarking
machine learning algorithms", 2017 (MIT). A sample of its test split lies in models/data.
"""

import gzip
import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

DEBIAN_PACKAGE = "dataset-fashion-mnist"
DEFAULT_DIRECTORY = Path("/usr/share/datasets/fashion-mnist")
DATA = Path(__file__).parent / "data"
SAMPLE_FILE = DATA / "fashion_sample.npz"
CALIBRATION_FILE = DATA / "fashion_calibration.npz"
WEIGHTS = Path(__file__).parent / "weights"
FIGURES_FILE = "fashion.json"
"""Beside the weights: how each family was trained, and how good it is."""

PHOTO_SIZE = 28
CANVAS_SIZE = 48
MARGIN = CANVAS_SIZE - PHOTO_SIZE

LABELS = tuple((DATA / "fashion_labels.txt").read_text().splitlines())

_IDX_UINT8 = 0x08  # the type byte of the IDX format


@dataclass(frozen=True)
class Photographs:
    """Pictures and what they show: images uint8 (N, 28, 28), labels int64 (N,) in 0..9."""

    images: Tensor
    labels: Tensor


def read_idx(path: Path) -> Tensor:
    """Read one gzipped IDX file of unsigned bytes. Returns uint8, shape as the header says.

    Raises:
        ValueError: it is no such file, or is cut short.
    """
    try:
        with gzip.open(path, "rb") as file:
            content = file.read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}") from error
    if content[:3] != bytes((0, 0, _IDX_UINT8)) or len(content) < 4:
        raise ValueError(f"{path} is no IDX file of unsigned bytes: it starts {content[:4].hex()}")
    rank = content[3]
    header = 4 + 4 * rank
    shape = struct.unpack_from(f">{rank}I", content, 4) if len(content) >= header else ()
    body = content[header:]
    if not shape or len(body) != math.prod(shape):
        raise ValueError(f"{path} promises {shape or 'a header'} and holds {len(body)} bytes")
    return torch.frombuffer(bytearray(body), dtype=torch.uint8).reshape(shape)


def load_split(directory: Path, split: str) -> Photographs:
    """Load `train` (60,000 photographs) or `t10k` (10,000) from a folder of IDX files.

    Raises:
        FileNotFoundError: the data is not there; the message says how to get it.
        ValueError: a file is damaged, or images and labels do not belong together.
    """
    images, labels = (
        directory / f"{split}-{part}-ubyte.gz" for part in ("images-idx3", "labels-idx1")
    )
    for path in (images, labels):
        if not path.exists():
            raise FileNotFoundError(
                f"{path} is missing. Fashion-MNIST comes as the Debian package {DEBIAN_PACKAGE}:\n"
                f"  apt-get install {DEBIAN_PACKAGE}\n"
                f"or, without root, apt-get download {DEBIAN_PACKAGE} and dpkg -x *.deb DIR, "
                "then --data DIR/usr/share/datasets/fashion-mnist"
            )
    loaded = Photographs(read_idx(images), read_idx(labels).long())
    if len(loaded.images) != len(loaded.labels):
        raise ValueError(
            f"{images} holds {len(loaded.images)} images, {labels} {len(loaded.labels)} labels"
        )
    if int(loaded.labels.max()) >= len(LABELS):
        raise ValueError(f"{labels} holds label {int(loaded.labels.max())}, the last one is 9")
    return loaded


def load_sample() -> Photographs:
    """Load the committed sample: the first 50 photographs of each class of the test split."""
    with np.load(SAMPLE_FILE, allow_pickle=False) as sample:
        images, labels = sample["images"], sample["labels"]
    return Photographs(torch.from_numpy(images), torch.from_numpy(labels).long())


def write_calibration(directory: Path, path: Path = CALIBRATION_FILE, count: int = 10) -> None:
    """Write the first `count` photographs of each class of the training split.

    Raises:
        FileNotFoundError: the directory lacks the files of that split.
    """
    photographs = load_split(directory, "train")
    shown = torch.nn.functional.one_hot(photographs.labels, len(LABELS))  # (N, 10)
    early = ((shown.cumsum(0) <= count) & (shown == 1)).any(dim=1)
    np.savez_compressed(path, images=photographs.images[early].numpy())


def load_calibration() -> Tensor:
    """Load the committed photographs of the training split: the first 10 of each class."""
    with np.load(CALIBRATION_FILE, allow_pickle=False) as sample:
        return torch.from_numpy(sample["images"])


def sha256_of(directory: Path) -> dict[str, str]:
    """Return the checksum of each of the four files of the data set, by file name."""
    files = sorted(directory.glob("*-ubyte.gz"))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def place(images: Tensor, rows: Tensor, columns: Tensor, size: int = CANVAS_SIZE) -> Tensor:
    """Put each photograph on a black canvas, values scaled to 0..1.

    Args:
        images: uint8 (N, 28, 28).
        rows: top edge of each photograph on the canvas, int64 (N,) in 0..size - 28.
        columns: left edge, likewise.
        size: height and width of the canvas, pixels.

    Returns:
        float32 (N, 1, size, size).

    Raises:
        ValueError: a photograph would leave its canvas.
    """
    margin = size - PHOTO_SIZE
    for edges in (rows, columns):
        if len(edges) and not 0 <= int(edges.min()) <= int(edges.max()) <= margin:
            raise ValueError(f"edges must be in 0..{margin}, got {edges.min()}..{edges.max()}")
    canvas = images.new_zeros(len(images), size, size)
    extent = torch.arange(PHOTO_SIZE)
    y = (rows[:, None] + extent)[:, :, None]  # (N, 28, 1)
    x = (columns[:, None] + extent)[:, None, :]  # (N, 1, 28)
    canvas[torch.arange(len(images))[:, None, None], y, x] = images
    return canvas.unsqueeze(1).float() / 255


def place_centred(images: Tensor) -> Tensor:
    """Put each photograph in the middle of its canvas. -> float32 (N, 1, 48, 48)."""
    middle = torch.full((len(images),), MARGIN // 2)
    return place(images, middle, middle)


def place_randomly(images: Tensor, generator: torch.Generator) -> Tensor:
    """Put each photograph anywhere on its canvas, uniformly. -> float32 (N, 1, 48, 48)."""
    rows, columns = torch.randint(0, MARGIN + 1, (2, len(images)), generator=generator)
    return place(images, rows, columns)
