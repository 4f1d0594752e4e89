"""What an artifact is: manifest.json, written by export, checked by the server.

read -> check the fields -> check the bytes of each file it names
"""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from server.errors import ArtifactError

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
CONFIG_FILE = "config.pbtxt"
REFERENCE_FILE = "reference.safetensors"
SAMPLES_FILE = "samples.safetensors"

_PLAIN_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")

Datatype = Literal["FP32", "FP16", "UINT8"]


def _plain_path(path: str) -> str:
    if not _PLAIN_PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no plain relative path")
    return path


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tensor(_Frozen):
    """One input or output of the graph.

    Attributes:
        name: as in the graph and on the wire.
        datatype: as the protocol spells it.
        shape: without the batch, which stands in front of it and is dynamic.
    """

    name: str
    datatype: Datatype
    shape: tuple[Annotated[int, Field(gt=0)], ...]


class Preprocessing(_Frozen):
    """What the graph does to its input before the network sees it: (x - mean) / scale, to NCHW.

    Attributes:
        layout: order of the axes of one input picture.
        mean: subtracted from each value, in the input's own units.
        scale: divisor of each value, in the input's own units.
    """

    layout: Literal["CHW", "HWC"]
    mean: float = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0


class Architecture(_Frozen):
    """How to build the PyTorch network again: `models.architectures.create(name, **options)`."""

    name: str
    options: dict[str, str | int | float]


class Tolerances(_Frozen):
    """What a build, and later the companion, holds the graph to.

    Attributes:
        parity: largest absolute difference of a logit between PyTorch and onnxruntime.
        consistency: least share of circular shifts that leave the answer as it was, 0..1.
        accuracy: least share of right answers on the labelled samples, 0..1.
        confidence: least probability of the right label on each labelled sample, 0..1.
    """

    parity: float
    consistency: float
    accuracy: float
    confidence: float = 0.0


class Figures(_Frozen):
    """What the build measured; shares are 0..1.

    Attributes:
        parameters: learned values of the network.
        parity: largest absolute difference of a logit, over every input that was tried.
        agreement: share of those inputs with the same highest class on both sides.
        accuracy: share of labelled samples that onnxruntime gets right.
        torch_accuracy: the same of PyTorch.
        confidence: least probability of the right label on a labelled sample.
        labelled: number of labelled samples.
        consistency: circular shift consistency of onnxruntime.
        consistency_error: its standard error.
        torch_consistency: circular shift consistency of PyTorch on the same shifts.
        samples: number of pictures that were shifted.
    """

    parameters: int
    parity: float
    agreement: float
    accuracy: float
    torch_accuracy: float
    confidence: float
    labelled: int
    consistency: float
    consistency_error: float
    torch_consistency: float
    samples: int


class Manifest(_Frozen):
    """One version of one model.

    Attributes:
        name: of the model, as clients ask for it.
        version: of the model; the name of its folder.
        input: the picture; an image classifier has one input.
        outputs: what a request may ask for, each (batch, *shape).
        files: sha256 of every other file of the artifact, by path below the model's folder.
        built_with: versions of the packages that made it.
    """

    format: Literal[1] = 1
    name: Annotated[str, AfterValidator(_plain_path)]
    version: Annotated[int, Field(gt=0)]
    input: Tensor
    outputs: Annotated[tuple[Tensor, ...], Field(min_length=1)]
    preprocessing: Preprocessing
    opset: int
    architecture: Architecture
    tolerances: Tolerances
    figures: Figures
    files: dict[Annotated[str, AfterValidator(_plain_path)], str]
    built_with: dict[str, str]

    def read_file(self, folder: Path, path: str) -> bytes:
        """Return the bytes of one file of the artifact, once they fit their checksum.

        Args:
            folder: of the model, the one that holds config.pbtxt.
            path: a key of `files`.

        Raises:
            ArtifactError: the file is not listed, cannot be read, or has changed.
        """
        if path not in self.files:
            raise ArtifactError(f"{folder / path} is not listed in the manifest of {self.name!r}")
        try:
            content = (folder / path).read_bytes()
        except OSError as error:
            raise ArtifactError(f"{folder / path} cannot be read: {error.strerror}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != self.files[path]:
            raise ArtifactError(
                f"{folder / path} has sha256 {found}, its manifest says {self.files[path]}"
            )
        return content

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        return self.model_dump_json(indent=2) + "\n"


def read_manifest(folder: Path, version: int) -> Manifest:
    """Read the manifest of one version of the model in `folder`.

    Raises:
        ArtifactError: it is missing, is no manifest, or is that of another model or version.
    """
    path = folder / str(version) / MANIFEST_FILE
    try:
        manifest = Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ArtifactError(f"{path}: {field}: {first['msg']}") from error
    if (manifest.name, manifest.version) != (folder.name, version):
        raise ArtifactError(
            f"{path} describes {manifest.name!r} version {manifest.version}, "
            f"its place is that of {folder.name!r} version {version}"
        )
    return manifest
