"""Real pictures, as a served model takes them: what builds and probes are judged on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from nyquist.models import fashion
from nyquist.models.choices import SOURCES, nearest
from nyquist.models.pictures import UNLABELLED as UNLABELLED
from nyquist.models.pictures import Picture, find_pictures
from nyquist.models.spec import Layout, ModelSpec
from nyquist.server.wire.errors import InvalidRequest
from nyquist.server.wire.framing import COLOURS, Framing, PictureInput
from nyquist.server.wire.pictures import read_picture_files

PHOTOGRAPHS = Path(__file__).parent / "data" / "photographs"
CROP, WHOLE = 224, 256
MOST_PICTURES = 500
ESPRESSO, TRIPOD = 967, 872
PHOTOGRAPH_LABELS = {"coffee": ESPRESSO, "camera": TRIPOD}


@dataclass(frozen=True)
class Samples:
    """Pictures and what they show.

    Attributes:
        images: (N, ...), each as the served model's input wants it.
        labels: int64 (N,), the right class, or UNLABELLED.
    """

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def spread(self, count: int) -> "Samples":
        """Return at most `count` of them, at equal distances."""
        chosen = torch.linspace(0, len(self) - 1, min(count, len(self))).long()
        return Samples(self.images[chosen].contiguous(), self.labels[chosen])


def read_samples(spec: ModelSpec, source: str) -> Samples:
    """Return pictures as the served model takes them, at the size of its input.

    Args:
        spec: of the model.
        source: fashion (500 photographs of Fashion-MNIST, labelled), photographs (five in colour,
            without labels), imagenet (the same, two of them with their ImageNet classes), or a
            folder of pictures (see nyquist.models.pictures), of which at most 500 are taken, evenly
            spread.

    Raises:
        ValueError: the source is none of these, or a picture cannot be read.
    """
    if source == "fashion":
        samples = fashion_samples()
        images = fitted(samples.images, spec.plain)
        margin = spec.stabilisation.margin if spec.stabilisation else 0
        return Samples(on_ground(images, margin, spec.preprocessing.layout), samples.labels)
    if source == "photographs":
        return file_samples(spec, [replace(one, label=UNLABELLED) for one in photographs()])
    if source == "imagenet":
        return file_samples(spec, photographs())
    if Path(source).is_dir():
        return file_samples(spec, find_pictures(Path(source), spec.labels))
    raise ValueError(f"there are no samples {source!r}; {nearest(source, SOURCES)}, or a folder")


def read_calibration(spec: ModelSpec) -> Tensor:
    """Return the pictures that int8 ranges are taken from, as the served model takes them.

    Those that the spec names; else others than its samples where there are any, and its samples
    where not. Raises ValueError as read_samples does.
    """
    if spec.calibration:
        return read_samples(spec, spec.calibration).images
    if spec.samples == "fashion":
        return fitted(fashion_calibration(), spec)
    if spec.samples in ("photographs", "imagenet"):
        return fitted(photograph_calibration(), spec)
    return read_samples(spec, spec.samples).images


def fitted(images: Tensor, spec: ModelSpec) -> Tensor:
    """Bring pictures to the channels, size and type of a served input.

    Args:
        images: float32 (N, C, H, W) in 0..1, or uint8 (N, H, W, C).
        spec: of the model.
    """
    channels, *size = spec.served
    pixels = images.dtype == torch.uint8
    if pixels and spec.datatype == "UINT8" and images.shape[1:] == (*size, channels):
        return images
    x = images.permute(0, 3, 1, 2).float() / 255 if pixels else images
    if x.shape[1] != channels:
        x = x.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    if list(x.shape[2:]) != size:
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
    if spec.datatype == "UINT8":
        return (x * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()
    return x.contiguous()


def on_ground(images: Tensor, margin: int, layout: Layout) -> Tensor:
    """Continue pictures on black ground, half of the margin on each side."""
    sides = (margin // 2, margin - margin // 2) * 2
    return F.pad(images, sides if layout == "CHW" else (0, 0, *sides))


def read_scenes(spec: ModelSpec, reach: int) -> Tensor:
    """Return the samples of a model larger by `reach` pixels, to take frames of its input out of.

    Things in them have the size that they have in samples, as far as there is picture beyond those;
    where not, they are larger.

    Raises:
        ValueError: as read_samples does.
    """
    layout = spec.preprocessing.layout
    if spec.samples == "fashion":
        return on_ground(read_samples(spec, spec.samples).images, reach, layout)
    channels, height, width = spec.input
    share = spec.picture.crop_share * (1 + reach / min(spec.served[1:]))
    fit = spec.picture.fit
    wider = replace(
        spec,
        input=(channels, height + reach, width + reach),
        picture=replace(spec.picture, crop_share=min(1.0, share) if fit == "crop" else 1.0),
    )
    return read_samples(wider, wider.samples).images


def file_samples(spec: ModelSpec, pictures: Sequence[Picture]) -> Samples:
    """Return files as a server would read them; those of more channels get the grey one in each.

    Raises:
        ValueError: one is no picture.
    """
    count = min(MOST_PICTURES, len(pictures))
    places = np.linspace(0, len(pictures) - 1, count).round().astype(int)
    chosen = [pictures[place] for place in places]
    channels = spec.input[0] if spec.input[0] in COLOURS else 1
    try:
        images = read_picture_files([one.path for one in chosen], spec.picture_input(channels))
    except InvalidRequest as error:
        raise ValueError(str(error)) from error
    labels = torch.tensor([one.label for one in chosen])
    return Samples(fitted(torch.from_numpy(images), spec), labels)


def fashion_samples() -> Samples:
    """Return 500 photographs of Fashion-MNIST, centred: float32 (500, 1, 48, 48), all labelled."""
    sample = fashion.load_sample()
    return Samples(fashion.place_centred(sample.images), sample.labels)


def fashion_calibration() -> Tensor:
    """Return 100 photographs that no model is judged on, each placed anywhere, from a seed.

    float32 (100, 1, 48, 48). They are of the training split.
    """
    generator = torch.Generator().manual_seed(0)
    return fashion.place_randomly(fashion.load_calibration(), generator)


def photograph_calibration() -> Tensor:
    """Return the four corners of each photograph of models/data, and their mirror images.

    uint8 (40, 224, 224, 3). The crops are others than those of `photograph_samples`, the
    photographs are not: no more colour photographs are at hand.
    """
    crops = []
    for pixels in _photographs_of(WHOLE, Framing(crop_share=1.0)):
        corners = (
            pixels[rows, columns]
            for rows in (slice(CROP), slice(-CROP, None))
            for columns in (slice(CROP), slice(-CROP, None))
        )
        crops += [view for corner in corners for view in (corner, corner[:, ::-1])]
    return torch.from_numpy(np.stack(crops))


def wider_photographs(spec: ModelSpec) -> Tensor | None:
    """Return the photographs of models/data whole, uint8 (5, 256, 256, 3), to take crops of.

    None for a model that takes pictures of another size or type.
    """
    if spec.samples not in ("photographs", "imagenet") or spec.shape != (CROP, CROP, 3):
        return None
    return torch.from_numpy(_photographs_of(WHOLE, Framing(crop_share=1.0)))


def photograph_samples() -> Samples:
    """Return the colour photographs of models/data, centre crops: uint8 (5, 224, 224, 3).

    Only those carry a label that show an ImageNet class beyond doubt.
    """
    labels = torch.tensor([one.label for one in photographs()])
    return Samples(torch.from_numpy(_photographs_of(CROP, Framing())), labels)


def photographs() -> list[Picture]:
    """Return the photographs of models/data by name, two of them with their ImageNet classes."""
    return [
        Picture(path, PHOTOGRAPH_LABELS.get(path.stem, UNLABELLED))
        for path in sorted(PHOTOGRAPHS.glob("*.png"))
    ]


def _photographs_of(side: int, framing: Framing) -> NDArray[np.uint8]:
    """Read the photographs as squares. -> (5, side, side, 3)."""
    wanted = PictureInput(3, side, side, "HWC", "UINT8", framing)
    return read_picture_files([one.path for one in photographs()], wanted)
