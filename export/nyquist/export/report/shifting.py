"""What shifts do to the answers of onnxruntime and PyTorch: every protocol, on the same shifts.

pictures -> protocols -> pairs, every shift of a set, a slide -> Shifts
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from nyquist.companion.measures.parity import Predict
from nyquist.companion.measures.shift_consistency import (
    PADDED_REACH,
    ZHANG_REACH,
    Consistency,
    ShiftProtocol,
    WorstCase,
    circular_shifts,
    fractional_shifts,
    one_pixel_consistency,
    pair_consistency,
    random_crops,
    worst_case,
    zero_padded_shifts,
)
from nyquist.companion.measures.shifts import Pictures, diagonal, grid, shift_circularly
from nyquist.companion.measures.stability import (
    JUMP,
    Estimate,
    Slide,
    Stability,
    measure_stability,
    slide_along,
    slide_one_pixel,
)
from nyquist.companion.page.kit.pictures import picture_uri
from nyquist.export.report.effort import Effort
from nyquist.export.report.record import Share, ShiftLine, Shifts, SlidePicture, Unit
from nyquist.models.samples import UNLABELLED, Samples
from nyquist.models.spec import Layout
from nyquist.server.wire.head import CLASSES, Head

Measured = Consistency | Estimate
Result = TypeVar("Result")

SHOWN_SLIDES = 12
SIDES_PER_MARGIN = 5
"""A picture on plain ground grows by at most a fifth of its side on each side, for crops."""


@dataclass(frozen=True)
class ShiftedNetwork:
    """Two paths of one model, and the pictures that are moved.

    Attributes:
        served: onnxruntime.
        reference: PyTorch.
        samples: pictures as served, with labels.
        layout: of the pictures.
        axes: of height and width in a batch.
        names: of the classes; empty if they have none.
        head: how answers are read.
        batch: pictures sent at once.
        effort: how much is measured.
    """

    served: Predict
    reference: Predict
    samples: Samples
    layout: Layout
    axes: tuple[int, int]
    names: Sequence[str]
    batch: int
    effort: Effort
    head: Head = CLASSES

    @property
    def pictures(self) -> Pictures:
        """The samples as an array, (N, ...)."""
        return self.samples.images.numpy()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the pictures."""
        shape = self.samples.images.shape
        return shape[self.axes[0]], shape[self.axes[1]]

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The right class of each picture; None unless all are known."""
        labels: NDArray[np.int64] = self.samples.labels.numpy()
        return None if (labels == UNLABELLED).any() else labels

    def classes(self, predict: Predict) -> Predict:
        """Return the same path with logits of classes."""
        return lambda pictures: self.head.class_logits(predict(pictures))

    def name_of(self, index: int) -> str:
        """Return the name of a class."""
        return self.names[index] if index < len(self.names) else f"class {index}"


def measure_shifts(subject: ShiftedNetwork, wider: Tensor | None = None) -> Shifts:
    """Measure every protocol on both paths, with the same shifts.

    What follows one class as it moves is measured of heads that have classes, a binary one's being
    its label and the absence of it.

    Args:
        subject: what is measured.
        wider: pictures larger than the input, for random crops; without them the samples grow
            where they stand on plain ground, and crops are not measured where they do not.

    Raises:
        ValueError: there is no picture, or a label is not one of the network's.
    """
    pairs = tuple(_pairs(subject, wider))
    if not subject.head.has_classes:
        return Shifts(pictures=len(subject.samples), consistency=pairs, stability=(), slides=())
    classified = replace(
        subject,
        served=subject.classes(subject.served),
        reference=subject.classes(subject.reference),
    )
    slides = _both(classified, lambda predict: _slide(classified, predict))
    return Shifts(
        pictures=len(subject.samples),
        consistency=(*pairs, *_worst_cases(classified)),
        stability=tuple(_stability(classified, slides)),
        slides=tuple(followed_pictures(classified, slides[0])),
    )


def followed_pictures(subject: ShiftedNetwork, slide: Slide) -> Iterator[SlidePicture]:
    """Follow the first pictures of a slide one by one."""
    chosen = range(min(SHOWN_SLIDES, len(subject.samples)))
    for at in chosen:
        picture = subject.samples.images[at]
        label = int(subject.samples.labels[at])
        yield SlidePicture(
            sha256=sha256(picture.contiguous().numpy().tobytes()).hexdigest(),
            size=subject.size,
            png=picture_uri(picture.numpy(), subject.layout),
            label=None if label == UNLABELLED else subject.name_of(label),
            answers=tuple(subject.name_of(int(answer)) for answer in slide.answers[:, at]),
            probabilities=tuple(slide.probabilities[:, at].max(axis=1).round(4).tolist()),
        )


def grown(pictures: Pictures, axes: tuple[int, int], margin: int) -> Pictures | None:
    """Continue pictures beyond their edges where they stand on plain ground; None where not.

    (N, ... H, W ...) -> (N, ... H + 2 margin, W + 2 margin ...), if along the whole edge of each
    picture each channel has one value.
    """
    maps = np.moveaxis(pictures, axes, (-2, -1))
    edge = np.concatenate(
        [maps[..., 0, :], maps[..., -1, :], maps[..., :, 0], maps[..., :, -1]], axis=-1
    )
    if not (edge == edge[..., :1]).all():
        return None
    widths = [(margin, margin) if axis in axes else (0, 0) for axis in range(pictures.ndim)]
    return np.pad(pictures, widths, mode="edge")


def _pairs(subject: ShiftedNetwork, wider: Tensor | None) -> Iterator[ShiftLine]:
    size, axes = subject.size, subject.axes
    between = "around the frame, one of the two by half a pixel more along both axes"
    zeros = f"within the frame, by up to {PADDED_REACH} pixels; zeros enter"
    yield from _crop_lines(subject, wider)
    yield _pair_line(subject, "half a pixel", between, fractional_shifts(size, axes))
    yield _pair_line(subject, "zero padded", zeros, zero_padded_shifts(axes))


def _pair_line(
    subject: ShiftedNetwork,
    name: str,
    how: str,
    protocol: ShiftProtocol,
    pictures: Pictures | None = None,
) -> ShiftLine:
    moved = subject.pictures if pictures is None else pictures

    def measure(predict: Predict) -> Consistency:
        pairs, batch = subject.effort.pairs, subject.batch
        same = subject.head.same
        return pair_consistency(predict, moved, protocol, pairs=pairs, batch=batch, same=same)

    return _line(name, how, _both(subject, measure))


def _crop_lines(subject: ShiftedNetwork, wider: Tensor | None) -> Iterator[ShiftLine]:
    margin = min(ZHANG_REACH // 2, min(subject.size) // SIDES_PER_MARGIN)
    if wider is None:
        pictures = grown(subject.pictures, subject.axes, margin)
        source = f"out of the pictures, their plain ground continued by {margin} pixels"
    else:
        pictures = wider[: subject.effort.pictures].numpy()
        source = "out of larger pictures"
    if pictures is None:
        reason = "the samples fill the input, and what lies beyond their edges is not known"
        for name in ("one pixel", "random crops"):
            yield ShiftLine(name=name, how="out of larger pictures", reason=reason)
        return
    room = min(
        pictures.shape[axis] - length
        for axis, length in zip(subject.axes, subject.size, strict=True)
    )
    reach = min(ZHANG_REACH, room + 1)
    crops = random_crops(subject.size, subject.axes, reach=reach)
    yield _one_pixel_line(subject, f"windows one pixel apart {source}", crops, pictures)
    how = f"{source}, corners in 0..{reach - 1}"
    yield _pair_line(subject, "random crops", how, crops, pictures)


def _one_pixel_line(
    subject: ShiftedNetwork, how: str, crops: ShiftProtocol, pictures: Pictures
) -> ShiftLine:
    def measure(predict: Predict) -> Consistency:
        pairs, batch = subject.effort.pairs, subject.batch
        same = subject.head.same
        return one_pixel_consistency(predict, pictures, crops, pairs=pairs, batch=batch, same=same)

    return _line("one pixel", how, _both(subject, measure))


def _worst_cases(subject: ShiftedNetwork) -> Iterator[ShiftLine]:
    reach, labels = subject.effort.reach, subject.labels
    shift = partial(shift_circularly, axes=subject.axes)
    offsets = grid(range(reach), range(reach))

    def every(predict: Predict) -> WorstCase:
        pictures, batch = subject.pictures, subject.batch
        return worst_case(predict, pictures, shift, offsets, labels=labels, batch=batch)

    served, reference = _both(subject, every)
    shifts = f"at each of {len(offsets)} circular shifts, 0..{reach - 1} along both axes"
    one, right = f"one answer {shifts}", f"right {shifts}"
    yield _line("worst case, unchanged", one, (served.unchanged, reference.unchanged))
    yield _line("worst case, correct", right, (served.correct, reference.correct))


def _slide(subject: ShiftedNetwork, predict: Predict) -> Slide:
    shift = partial(shift_circularly, axes=subject.axes)
    path = diagonal(subject.effort.positions)
    return slide_along(predict, subject.pictures, shift, path, batch=subject.batch)


def _stability(subject: ShiftedNetwork, slides: tuple[Slide, Slide]) -> Iterator[ShiftLine]:
    protocol = circular_shifts(subject.size, subject.axes)

    def beside(predict: Predict) -> Stability:
        slide = slide_one_pixel(predict, subject.pictures, protocol, batch=subject.batch)
        return measure_stability(slide)

    aside = _both(subject, beside)
    down = (
        measure_stability(slides[0], subject.labels),
        measure_stability(slides[1], subject.labels),
    )
    steps = subject.effort.positions - 1
    how = "answers that differ one pixel beside a random place"
    yield _line("changed by one pixel", how, (aside[0].top1_change, aside[1].top1_change))
    how = "mean change of the first answer's probability there"
    moved = (aside[0].mean_absolute_change, aside[1].mean_absolute_change)
    yield _line("moved by one pixel", how, moved)
    how = f"of {steps} steps down the diagonal, those that change the answer"
    yield _line("flips", how, (down[0].flip_probability, down[1].flip_probability))
    how = f"of these steps, those that move its probability by more than {JUMP:g}"
    yield _line("jumps", how, (down[0].jumps, down[1].jumps), unit="count")
    how = "standard deviation of the right class's probability on the way"
    deviations = (down[0].true_class_deviation, down[1].true_class_deviation)
    yield _line("deviation", how, deviations)
    how = "pictures whose answer changes somewhere on the way"
    yield _line("changed on the way", how, (_complement(down[0]), _complement(down[1])))


def _complement(stability: Stability) -> Consistency:
    kept = stability.unchanged
    return Consistency(1 - kept.value, kept.standard_error, kept.pictures)


def _both(subject: ShiftedNetwork, measure: Callable[[Predict], Result]) -> tuple[Result, Result]:
    return measure(subject.served), measure(subject.reference)


def _line(
    name: str,
    how: str,
    measured: tuple[Measured | None, Measured | None],
    *,
    unit: Unit = "share",
) -> ShiftLine:
    served, reference = measured
    if served is None or reference is None:
        return ShiftLine(name=name, how=how, reason="not every sample is labelled")
    return ShiftLine(
        name=name,
        how=how,
        unit=unit,
        served=_share(served),
        reference=_share(reference),
    )


def _share(measured: Measured) -> Share:
    value = measured.share if isinstance(measured, Consistency) else measured.value
    return Share(value=value, standard_error=measured.standard_error)
