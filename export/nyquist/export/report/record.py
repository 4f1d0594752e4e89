"""What was measured of one model for its page: report/<name>.json in the model repository."""

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from nyquist.companion.page.kit import report_folder

Unit = Literal["share", "count"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Unmeasured(_Frozen):
    """A part that could not be measured.

    Attributes:
        reason: in words, for the page.
    """

    reason: str


class Parity(_Frozen):
    """How far the logits of onnxruntime lie from PyTorch's, one by one.

    Attributes:
        edges: of the bins of absolute differences, ascending.
        counts: logits in each bin; one fewer than edges.
        equal: logits without any difference, which no bin holds.
        unbounded: logits that are NaN or infinite on either side, likewise.
        largest: absolute difference; None if one is unbounded.
        mean: likewise.
        spread: standard deviation of PyTorch's logits.
        agreement: share of the inputs with the same answer, 0..1.
        pictures: real inputs that were compared.
        noise: inputs of noise that were compared.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    equal: int
    unbounded: int
    largest: float | None
    mean: float | None
    spread: float
    agreement: float
    pictures: int
    noise: int


class Share(_Frozen):
    """A mean over pictures; a share, 0..1, or a count.

    Attributes:
        value: the mean.
        standard_error: of the mean, over pictures.
    """

    value: float
    standard_error: float


class ShiftLine(_Frozen):
    """One figure of what a shift does to the answers, on both paths.

    Attributes:
        name: of the protocol or figure.
        how: the pictures move, or what is counted, in words.
        unit: what the values are.
        served: of onnxruntime.
        reference: of PyTorch, on the same shifts.
        reason: why it was not measured; empty if it was.
    """

    name: str
    how: str
    unit: Unit = "share"
    served: Share | None = None
    reference: Share | None = None
    reason: str = ""


class SlidePicture(_Frozen):
    """One picture and the answers to it while it moves around, down and right, pixel by pixel.

    Attributes:
        sha256: of its bytes as served; models that share it can be compared.
        size: height and width as served, pixels.
        png: a data URI.
        label: what it shows; None if that is not known.
        answers: the highest class at each position, by name, the first one unmoved.
        probabilities: of that class at each position.
    """

    sha256: str
    size: tuple[int, int]
    png: str
    label: str | None
    answers: tuple[str, ...]
    probabilities: tuple[float, ...]


class Shifts(_Frozen):
    """What shifts do to the answers.

    Attributes:
        pictures: how many were moved.
        consistency: shares of answers that stay, a line a protocol.
        stability: how far answers and probabilities move, a line a figure; less is steadier.
        slides: a few pictures followed one by one, in onnxruntime.
    """

    pictures: int
    consistency: tuple[ShiftLine, ...]
    stability: tuple[ShiftLine, ...]
    slides: tuple[SlidePicture, ...]


class Flips(_Frozen):
    """How often something happened.

    Attributes:
        count: of the pairs.
        share: mean over photographs of the share of their pairs, 0..1.
        standard_error: of that mean, over photographs.
    """

    count: int
    share: float
    standard_error: float


class MoveLine(_Frozen):
    """What one protocol changes.

    Attributes:
        name: of the protocol.
        how: the second picture of a pair comes from the first.
        pairs: of pictures.
        plain: answers of the network alone that differ within a pair.
        stable: answers of the stabilised one.
    """

    name: str
    how: str
    pairs: int
    plain: Flips
    stable: Flips


class Moves(_Frozen):
    """A stabilised model beside the plain one, in onnxruntime, on the same pictures.

    Attributes:
        photographs: that frames were taken out of.
        lines: a line a protocol.
        agreement: frames to which both answer alike.
        pairs: frames.
        sure_agreement: the same of those whose plain answer has a probability of 0.8 or more.
        sure_pairs: how many these are.
        cpu_ratio: processor time of a stabilised answer, by that of a plain one.
    """

    photographs: int
    lines: tuple[MoveLine, ...]
    agreement: Flips
    pairs: int
    sure_agreement: Flips
    sure_pairs: int
    cpu_ratio: float


class FieldLine(_Frozen):
    """The theoretical receptive field where it grows; rows then columns, pixels.

    Attributes:
        layer: name of the module.
        op: its last operator.
        grid: positions.
        size: pixels that each of them sees.
        jump: pixels between two neighbours.
        drift: of the grid against the picture.
        aligned: whether all paths to it have one centre.
        whole: whether each position also sees all of the picture, through a gate or a statistic.
    """

    layer: str
    op: str
    grid: tuple[int, int]
    size: tuple[int, int]
    jump: tuple[int, int]
    drift: tuple[float, float]
    aligned: bool
    whole: bool


class ReceptiveField(_Frozen):
    """The theoretical box over the effective field of one position of the last map.

    Attributes:
        layer: that was looked through.
        position: its row and column.
        picture: height and width, pixels.
        box: first row, first column, height and width of the theoretical field.
        whole: whether the position also sees all of the picture, through a gate or a statistic.
        heat_png: the effective field, one pixel each, a data URI.
        side: of the square that holds 95 % of it.
        centroid: row and column of its centre.
        deviation: of the round Gaussian of the same area, pixels.
        inputs: noise pictures averaged over.
        lines: every layer at which the theoretical field changes.
    """

    layer: str
    position: tuple[int, int]
    picture: tuple[int, int]
    box: tuple[int, int, int, int]
    whole: bool
    heat_png: str
    side: int
    centroid: tuple[float, float]
    deviation: float
    inputs: int
    lines: tuple[FieldLine, ...]


class GradientLine(_Frozen):
    """The gradient at the output of one layer.

    Attributes:
        layer: name of the module.
        kind: its class.
        magnitude: mean absolute gradient of an element.
        deviation: standard deviation of an element.
        zeros: share of the elements whose gradient is exactly zero, 0..1.
        strides: whether the layer drops positions.
    """

    layer: str
    kind: str
    magnitude: float
    deviation: float
    zeros: float
    strides: bool


class Gradients(_Frozen):
    """The gradient flow of a network, from the picture to the answer.

    Attributes:
        lines: a line a layer, in the order of the forward pass.
        pictures: whose cross entropy, of the network's own answers, was sent back.
    """

    lines: tuple[GradientLine, ...]
    pictures: int


class StrideLine(_Frozen):
    """What one stride folds: shares of the energy above its Nyquist limit, mean removed, 0..1.

    Attributes:
        layer: name of the module.
        kind: its class, or the function that a module calls.
        stride: along the height.
        entering: of the input of the layer.
        sampled: of what the layer computes before it drops samples; None where that cannot be told.
        taps: of its binomial low-pass filter; None if it is no blur.
    """

    layer: str
    kind: str
    stride: int
    entering: float
    sampled: float | None
    taps: int | None


class Spectra(_Frozen):
    """Every stride of a network.

    Attributes:
        lines: a line a stride, in the order of the forward pass; empty if there is none.
        pictures: averaged over.
    """

    lines: tuple[StrideLine, ...]
    pictures: int


class CostLine(_Frozen):
    """What one layer costs for one picture.

    Attributes:
        layer: name of the module.
        kind: its class.
        parameters: learned values.
        multiply_adds: for one picture.
    """

    layer: str
    kind: str
    parameters: int
    multiply_adds: int


class Cost(_Frozen):
    """What a network costs for one picture.

    Attributes:
        parameters: learned values.
        multiply_adds: of convolutions and matrix products.
        lines: the layers that have parameters or multiply, in the order of the network.
    """

    parameters: int
    multiply_adds: int
    lines: tuple[CostLine, ...]


class LatencyLine(_Frozen):
    """Time of one call of onnxruntime, milliseconds.

    Attributes:
        batch: pictures in the call.
        runs: calls that were timed.
        median: of them.
        low: a quarter of them took less.
        high: a quarter of them took more.
    """

    batch: int
    runs: int
    median: float
    low: float
    high: float


class Latency(_Frozen):
    """Measured latency.

    Attributes:
        processor: that ran it.
        lines: a line a batch size, ascending.
    """

    processor: str
    lines: tuple[LatencyLine, ...]


class ModelReport(_Frozen):
    """All that was measured of one graph for its page.

    Attributes:
        name: of the model.
        graph_sha256: of the model.onnx that was measured.
        moves: of a stabilised model; None of others.
    """

    format: Literal[1] = 1
    name: str
    graph_sha256: str
    parity: Parity | Unmeasured
    shifts: Shifts | Unmeasured
    field: ReceptiveField | Unmeasured
    gradients: Gradients | Unmeasured
    spectra: Spectra | Unmeasured
    cost: Cost | Unmeasured
    latency: Latency | Unmeasured
    moves: Moves | Unmeasured | None = None

    def write(self, repository: Path) -> Path:
        """Write model_report/<name>.json beside the repository, whole, and return its path.

        Raises:
            OSError: it cannot be written; what was there before is untouched.
        """
        path = report_folder(repository) / f"{self.name}.json"
        write_whole(path, self.model_dump_json(indent=1) + "\n")
        return path


def read_report(repository: Path, name: str) -> ModelReport:
    """Read model_report/<name>.json.

    Raises:
        ValueError: it is missing, or is no report of that model; the message says which.
    """
    path = report_folder(repository) / f"{name}.json"
    place = f"{path.parent.name}/{path.name}"
    try:
        report = ModelReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{place} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"{place} is no report: {field}: {first['msg']}") from error
    if report.name != name:
        raise ValueError(f"{place} is the report of {report.name!r}")
    return report


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new, never a part.

    Raises:
        OSError: it cannot be written; what was there before is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
