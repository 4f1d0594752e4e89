"""What an artifact is: manifest.json, written by export, checked by the server.

read -> check the fields -> check the bytes of each file it names
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
)

from nyquist.server.artifact.model_files import read_model_file
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.framing import UNSTATED, Framing, Layout, picture_input
from nyquist.server.wire.head import CLASSES, Head
from nyquist.server.wire.signature import Signature, TensorSpec

MANIFEST_FILE = "manifest.json"
MODEL_FILE = "model.onnx"
CONFIG_FILE = "config.pbtxt"
LABELS_FILE = "labels.txt"
REFERENCE_FILE = "reference.safetensors"
"""The weights of a network of ours."""
PROGRAM_FILE = "reference.pt2"
"""Anyone else's network, whole: a file of torch.export.save."""
ONNX_FILE = "reference.onnx"
"""An ONNX file as it came, its weights inside: its own reference, there is none in PyTorch."""
SAMPLES_FILE = "samples.safetensors"
DEBUG_FILE = "debug.onnx"
BESIDE_A_GRAPH = (LABELS_FILE, REFERENCE_FILE, PROGRAM_FILE, ONNX_FILE, SAMPLES_FILE)
"""What the version of an artifact has, and a graph that was put there by hand has not."""

_PLAIN_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")


def _plain_path(path: str) -> str:
    if not _PLAIN_PATH.fullmatch(path):
        raise ValueError(f"{path!r} is no plain relative path")
    return path


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Preprocessing(_Frozen):
    """What the graph does to a picture first: resize, (x - mean) / scale, axes to NCHW.

    Attributes:
        layout: order of the axes of one input picture.
        mean: subtracted from each value, in the input's own units; one, or one for each channel.
        scale: divisor of each value, likewise.
        resize: height and width that a picture is brought to, bilinear and anti-aliased.
    """

    layout: Layout
    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0
    resize: tuple[int, int] | None = None


class Stabilisation(_Frozen):
    """What the graph does before all else, so that an answer stays when its picture moves.

    Attributes:
        kind: a crop at a place that the picture itself chooses, a roll to its middle, or the mean
            of the answers to several crops.
        period: the place of a crop is taken modulo this, pixels; its picture is larger by as much.
        boxes: sides of the two boxes whose difference of means is greatest at that place, pixels.
        corners: of the crops that are averaged, row and column; empty of other kinds.
    """

    kind: Literal["crop", "circular", "average"]
    period: Annotated[int, Field(gt=0)]
    boxes: tuple[int, int]
    corners: tuple[tuple[int, int], ...]


Scalar = str | int | float | bool | None
Option = Scalar | list[Scalar]


class Architecture(_Frozen):
    """What the PyTorch network is.

    Attributes:
        name: for `nyquist.models.networks.architectures.create`; or where anyone else's came
            from, a module:function or the name of a file, which the artifact has whole.
        options: of that call.
    """

    name: str
    options: dict[str, Option]


class Tolerances(_Frozen):
    """What a build, and later the companion, holds the graph to; shares are 0..1.

    Attributes:
        parity: largest difference of an output between PyTorch and onnxruntime, as a share of the
            spread of PyTorch's: their standard deviation over the classes of a picture, in the
            root mean square over the pictures.
        agreement: least share of pictures with the same answer, near-ties left out.
        accuracy: least share of right answers on the labelled samples.
        accuracy_drop: most that PyTorch's accuracy may exceed onnxruntime's by.
        confidence: least probability of the right label on each labelled sample.
        consistency: least share of circular shifts that leave the answer as it was.
        consistency_drop: most that PyTorch's consistency may exceed onnxruntime's by.
    """

    parity: float
    agreement: float
    accuracy: float
    accuracy_drop: float
    confidence: float
    consistency: float
    consistency_drop: float


class Figures(_Frozen):
    """What the build measured; shares are 0..1.

    Attributes:
        parameters: learned values of the network.
        multiply_adds: of one picture at the input's own size.
        parity: largest relative difference, over every input that was tried; see Tolerances.
        max_abs_error: largest absolute difference of an output.
        mean_abs_error: the mean over all outputs and inputs.
        agreement: share of the samples with the same answer on both sides: the same highest
            class, the same labels; of embeddings the mean cosine.
        batch_invariant: whether a picture's answer has the same bits in every batch.
        batch_error: where it has not, the largest difference from the answer alone, as parity is.
        index_margin: least relative distance of a polyphase layer's two largest norms; None for
            networks without one.
        accuracy: share of labelled samples that onnxruntime gets right; None without labels.
        torch_accuracy: the same of PyTorch.
        confidence: least probability of the right label on a labelled sample.
        labelled: number of labelled samples.
        consistency: circular shift consistency of onnxruntime; of embeddings the mean cosine.
        consistency_error: its standard error.
        torch_consistency: circular shift consistency of PyTorch on the same shifts.
        samples: number of pictures that were shifted.
        int8_share: share of the multiply-adds that are done in int8.
    """

    parameters: int
    multiply_adds: int
    parity: float
    max_abs_error: float
    mean_abs_error: float
    agreement: float
    batch_invariant: bool
    index_margin: float | None
    accuracy: float | None
    torch_accuracy: float | None
    confidence: float | None
    labelled: int
    consistency: float
    consistency_error: float
    torch_consistency: float
    samples: int
    int8_share: float = 0.0
    batch_error: float = 0.0


class Origin(_Frozen):
    """What an artifact was made from, and how to make it again.

    Attributes:
        command: arguments of `python export/build.py`, with file names instead of paths.
        inputs_sha256: of all that the build reads: code, versions, weights, samples, settings.
        weights_sha256: of the checkpoint; None for seeded fresh weights.
        built_with: versions of the packages that made it.
    """

    command: tuple[str, ...]
    inputs_sha256: str
    weights_sha256: str | None
    built_with: dict[str, str]


PYTORCH = "PyTorch"
NO_PYTORCH = "ONNX file as it came, run without optimisation: no PyTorch reference"


class Manifest(_Frozen):
    """One version of one model.

    Attributes:
        name: of the model, as clients ask for it.
        version: of the model; the name of its folder.
        input: the picture; an image classifier has one input.
        outputs: what a request may ask for, each (batch, *shape).
        stabilisation: what stands before preprocessing; None where nothing does.
        head: how the first output is read; artifacts that are older have classes.
        picture: how picture files are brought to the input, before the graph sees them; artifacts
            that are older than this field get what servers did then.
        precision: of the graph's arithmetic.
        recipe: which layers an int8 graph quantises; empty for other precisions.
        reference: what its answers are held against: PYTORCH or NO_PYTORCH. Where there is none,
            the figures and tolerances "of PyTorch" are those of that file.
        files: sha256 of every other file of the artifact, by path below the model's folder. Those
            in the folder of the version never change; config.pbtxt is the operator's to edit.
    """

    format: Literal[2] = 2
    name: Annotated[str, AfterValidator(_plain_path)]
    version: Annotated[int, Field(gt=0)]
    input: TensorSpec
    outputs: Annotated[tuple[TensorSpec, ...], Field(min_length=1)]
    preprocessing: Preprocessing
    stabilisation: Stabilisation | None = None
    head: Head = CLASSES
    picture: Framing = UNSTATED
    opset: int
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    recipe: str = ""
    architecture: Architecture
    tolerances: Tolerances
    figures: Figures
    origin: Origin
    reference: str = PYTORCH
    files: dict[Annotated[str, AfterValidator(_plain_path)], str]

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The one input, as other models may have several."""
        return (self.input,)

    @property
    def graph_sha256(self) -> str:
        """Checksum of the graph, hexadecimal: what tells one build of a version from another."""
        return self.files[f"{self.version}/{MODEL_FILE}"]

    @property
    def signature(self) -> Signature:
        """What requests and answers may name."""
        layout, (least, most) = self.preprocessing.layout, self.input.bounds
        picture = picture_input(self.input.datatype, least, most, layout, self.picture)
        return Signature(self.name, str(self.version), self.inputs, self.outputs, picture)

    def read_file(self, folder: Path, path: str, allowed: Sequence[Path] = ()) -> bytes:
        """Return the bytes of one file of the artifact, once they fit their checksum.

        Args:
            folder: of the model, the one that holds config.pbtxt.
            path: a key of `files`.
            allowed: folders in which links may end; see `read_model_file`.

        Raises:
            ArtifactError: the file is not listed, cannot be read, or has changed.
        """
        if path not in self.files:
            raise ArtifactError(f"{folder / path} is not listed in the manifest of {self.name!r}")
        content = read_model_file(folder, path, allowed)
        found = hashlib.sha256(content).hexdigest()
        if found != self.files[path]:
            raise ArtifactError(
                f"{folder / path} has sha256 {found}, its manifest says {self.files[path]}"
            )
        return content

    def to_json(self) -> str:
        """Return the text of manifest.json."""
        return self.model_dump_json(indent=2) + "\n"


def read_manifest(folder: Path, version: int, allowed: Sequence[Path] = ()) -> Manifest:
    """Read the manifest of one version of the model in `folder`.

    Args:
        folder: of the model.
        version: its folder below.
        allowed: folders in which links may end; see `read_model_file`.

    Raises:
        ArtifactError: it is missing, is no manifest, or is that of another model or version.
    """
    path = folder / str(version) / MANIFEST_FILE
    content = read_model_file(folder, f"{version}/{MANIFEST_FILE}", allowed)
    try:
        manifest = Manifest.model_validate_json(content)
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
