"""What a model is to be, in plain data: read without torch, compared, hashed, sent to a worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Literal

from nyquist.server.wire.framing import IMAGENET, Framing, PictureInput
from nyquist.server.wire.head import Head, HeadKind, Values

Scalar = str | int | float | bool | None
Option = Scalar | list[Scalar]
Layout = Literal["CHW", "HWC"]
Datatype = Literal["FP32", "UINT8"]
Precision = Literal["fp32", "fp16", "int8"]
Output = str
"""Of OUTPUTS, embedding, or a name that somebody gives; see Pick."""
Pick = tuple[str, str]
"""A name as served, and the place, from 0, or the name of a tensor among those a network gives."""
Stabiliser = Literal["crop", "circular", "average"]
Size = tuple[int, int]

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
OUTPUTS: tuple[Output, ...] = ("logits", "probabilities", "features")
STABILISERS: tuple[Stabiliser, ...] = ("crop", "circular", "average")
DYNAMIC = -1
INPUT = "image"
"""Name of the graph's input."""


@dataclass(frozen=True)
class Preprocessing:
    """Resize, then (x - mean) / scale, in float32, axes in the network's order.

    Attributes:
        layout: order of the axes of one input picture.
        mean: subtracted from each value, in the input's own units; one, or one for each channel.
        scale: divisor of each value, likewise.
        resize: height and width that a picture of any size is brought to, bilinear and
            anti-aliased; None leaves it as it is.

    Raises:
        ValueError: the layout is unknown, or a scale not above zero.
    """

    layout: Layout = "CHW"
    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0
    resize: Size | None = None

    def __post_init__(self) -> None:
        if self.layout not in ("CHW", "HWC"):
            raise ValueError(f"unknown layout {self.layout!r}; choose from CHW, HWC")
        scales = self.scale if isinstance(self.scale, tuple) else (self.scale,)
        for scale in scales:
            if not (isfinite(scale) and scale > 0):
                raise ValueError(f"scale must be above 0 and finite, got {scale}")

    @property
    def shift_axes(self) -> tuple[int, int]:
        """Axes of height and width in a batch of inputs."""
        return (2, 3) if self.layout == "CHW" else (1, 2)


@dataclass(frozen=True)
class Stabilisation:
    """What the graph does before all else, so that an answer stays when its picture moves.

    The score of a place is the mean of a small box less that of a large one around it, over all
    channels; the place of the highest chooses what the network sees. See nyquist.models.stabilised.

    Attributes:
        kind: crop, of a picture larger by the period, its corner at that place modulo the period;
            circular, a roll that brings the place to the middle; average, the mean of the answers
            to several crops, which chooses nothing.
        period: pixels after which a network's grids repeat: what its strides multiply to.
        boxes: sides of the two boxes, powers of two, pixels.
        corners: of the crops of `average`, row and column.

    Raises:
        ValueError: the kind is unknown.
    """

    kind: Stabiliser
    period: int = 32
    boxes: tuple[int, int] = (4, 16)
    corners: tuple[Size, ...] = ((4, 11), (13, 28), (19, 2), (30, 21))

    def __post_init__(self) -> None:
        if self.kind not in STABILISERS:
            raise ValueError(
                f"unknown stabilisation {self.kind!r}; choose from {', '.join(STABILISERS)}"
            )

    @property
    def margin(self) -> int:
        """Pixels by which a served picture is higher and wider than the network's input."""
        return 0 if self.kind == "circular" else self.period

    @property
    def runs(self) -> int:
        """How often the network runs for one picture."""
        return len(self.corners) if self.kind == "average" else 1


@dataclass(frozen=True)
class Limits:
    """What a build holds a graph to; a miss is not published. Shares are 0..1.

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

    parity: float = 1e-3
    agreement: float = 1.0
    accuracy: float = 0.0
    accuracy_drop: float = 0.0
    confidence: float = 0.0
    consistency: float = 0.0
    consistency_drop: float = 0.0


@dataclass(frozen=True)
class ModelSpec:
    """One model to build.

    Attributes:
        name: as served.
        architecture: a name of models.list(), module:function, which returns an nn.Module, or the
            name of the file of `program` or `onnx`.
        program: a file of torch.export.save, in place of an architecture; has its own weights.
        onnx: an ONNX file, likewise; its reference is itself, there is none in PyTorch.
        stabilisation: what chooses a part of the picture before all else; None: nothing does.
        options: of the architecture.
        weights: a checkpoint; None for seeded fresh weights, which only cost and speed are of.
        weights_sha256: what its bytes must have; empty for any.
        weights_key: the entry of the checkpoint that has them; empty for the usual one.
        labels: names of the classes, in the order of the logits; empty if they have none.
        samples: pictures that the build is judged on; what samples.read_samples takes.
        calibration: pictures that int8 ranges are taken from, likewise; empty for the samples.
        input: channels, height and width that the network takes.
        datatype: of the served picture: FP32 in (C, H, W), or UINT8 in (H, W, C).
        preprocessing: what the graph does to it.
        picture: how a picture file is brought to the input, before the graph.
        sizes: other heights and widths that it takes and is proved at; empty for its input's only.
        outputs: of the graph: logits first; probabilities where the network ends in them, and an
            embedding where it is one.
        picks: where the outputs are among several tensors; of `logits` the one that is judged as
            the answer, whatever it is called then.
        head: how the first of them is read; None for what the network shows.
        values: of the network's answers; logits until it shows that it ends in probabilities.
        threshold: probability above which a label of a binary or multi-label head applies.
        max_batch_size: largest batch that is served.
        precision: of the graph's arithmetic.
        limits: what it must hold.

    Raises:
        ValueError: two fields contradict each other.
    """

    name: str
    architecture: str
    options: Mapping[str, Option]
    weights: Path | None
    labels: tuple[str, ...]
    samples: str
    input: tuple[int, int, int]
    datatype: Datatype = "FP32"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    sizes: tuple[Size, ...] = ()
    outputs: tuple[Output, ...] = ("logits",)
    max_batch_size: int = 16
    precision: Precision = "fp32"
    limits: Limits = field(default_factory=Limits)
    weights_sha256: str = ""
    weights_key: str = ""
    calibration: str = ""
    picture: Framing = IMAGENET
    head: HeadKind | None = None
    values: Values = "logits"
    threshold: float = Head.threshold
    program: Path | None = None
    onnx: Path | None = None
    picks: tuple[Pick, ...] = ()
    stabilisation: Stabilisation | None = None

    def __post_init__(self) -> None:
        expected = "CHW" if self.datatype == "FP32" else "HWC"
        if self.preprocessing.layout != expected:
            raise ValueError(
                f"{self.datatype} pictures have layout {expected}, got {self.preprocessing.layout}"
            )
        if self.outputs[:1] != (self.answers.output,):
            raise ValueError(
                f"outputs begin with {self.answers.output}, got {', '.join(self.outputs)}"
            )

    @property
    def answers(self) -> Head:
        """How the first output is read."""
        return Head(self.head or "classes", self.values, self.threshold)

    @property
    def plain(self) -> "ModelSpec":
        """The same without stabilisation, with the answer alone where several are averaged."""
        given = self.stabilisation
        outputs = self.outputs[:1] if given and given.runs > 1 else self.outputs
        return replace(self, stabilisation=None, outputs=outputs)

    @property
    def served(self) -> tuple[int, int, int]:
        """Channels, height and width of the picture that clients send."""
        margin = self.stabilisation.margin if self.stabilisation else 0
        channels, height, width = self.input
        return channels, height + margin, width + margin

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one served picture; -1 where any of its sizes will do."""
        return self.picture_shape((DYNAMIC, DYNAMIC) if self.sizes else self.served[1:])

    @property
    def served_sizes(self) -> tuple[Size, ...]:
        """Heights and widths that are proved: the network's own first."""
        return tuple(dict.fromkeys((self.served[1:], *self.sizes)))

    def picture_input(self, channels: int) -> PictureInput:
        """Return how picture files are read for it, grey (1) or RGB (3), at the input's size."""
        _, height, width = self.served
        layout, datatype = self.preprocessing.layout, self.datatype
        fixed = PictureInput(channels, height, width, layout, datatype, self.picture)
        return replace(fixed, most=(height, width)).grown(height, width) if self.sizes else fixed

    def picture_shape(self, size: Size) -> tuple[int, ...]:
        """Return the shape of one served picture of this height and width."""
        if self.preprocessing.layout == "CHW":
            return (self.input[0], *size)
        return (*size, self.input[0])
