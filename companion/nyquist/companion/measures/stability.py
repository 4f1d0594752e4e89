"""Stability: how much the probabilities move while the picture slides.

    pictures, a path of offsets -> Slide -> figures of each picture -> Stability

Consistency counts answers that change; these figures also say how far the network was from it.

>>> slide = Slide(np.array([[[0.9, 0.1]], [[0.6, 0.4]], [[0.3, 0.7]]]))  # 3 positions, 1 picture
>>> flips(slide).tolist(), jumps(slide).tolist()
([0.5], [2.0])
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.companion.measures.parity import Predict
from nyquist.companion.measures.shift_consistency import (
    DEFAULT_BATCH,
    ShiftProtocol,
    draw_neighbours,
    evaluate,
    standard_error,
)
from nyquist.companion.measures.shifts import Offsets, Pictures, Shift

JUMP = 0.2
"""A change of probability that counts as a jump. No published value is agreed on: state yours."""


@dataclass(frozen=True)
class Estimate:
    """A mean over pictures.

    Attributes:
        value: the mean.
        standard_error: of the mean, over pictures.
        pictures: how many there are.
    """

    value: float
    standard_error: float
    pictures: int


@dataclass(frozen=True)
class Slide:
    """What a network makes of pictures, position by position.

    Attributes:
        probabilities: (K positions, N pictures, C classes).

    Raises:
        ValueError: there are fewer than two positions, or no picture.
    """

    probabilities: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = self.probabilities.shape
        if len(shape) != 3 or shape[0] < 2 or not shape[1]:
            raise ValueError(f"a slide is (positions >= 2, pictures >= 1, classes), got {shape}")

    @property
    def answers(self) -> NDArray[np.intp]:
        """The class with the highest probability, (K, N)."""
        return self.probabilities.argmax(axis=2)

    def probability_of(self, classes: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Follow one class of each picture, (N,), along the slide. -> (K, N).

        Raises:
            ValueError: a class is not one of the network's.
        """
        _, pictures, count = self.probabilities.shape
        if len(classes) != pictures or ((classes < 0) | (classes >= count)).any():
            raise ValueError(f"{pictures} pictures need a class in 0..{count - 1}, got {classes}")
        return self.probabilities[:, np.arange(pictures), classes]


@dataclass(frozen=True)
class Stability:
    """The figures of a slide, each a mean over pictures.

    Attributes:
        top1_change: share of the later positions with another answer than the first, 0..1.
        mean_absolute_change: of the first answer's probability, between there and later, 0..1.
        flip_probability: share of the steps that change the answer, 0..1.
        jumps: steps that move the first answer's probability by more than a threshold, 0..K - 1.
        unchanged: share of the pictures with one answer all along, 0..1.
        true_class_deviation: standard deviation along the slide of the right class's probability,
            0..0.5; None without labels.
    """

    top1_change: Estimate
    mean_absolute_change: Estimate
    flip_probability: Estimate
    jumps: Estimate
    unchanged: Estimate
    true_class_deviation: Estimate | None


def slide_along(
    predict: Predict,
    pictures: Pictures,
    shift: Shift,
    path: Iterable[Offsets],
    *,
    batch: int = DEFAULT_BATCH,
) -> Slide:
    """Move the pictures along a path.

    Args:
        predict: the path that is measured.
        pictures: (N, ...).
        shift: how they move.
        path: offsets for all pictures, (K, 2), or for each, (K, N, 2).
        batch: pictures sent at once.

    Raises:
        ValueError: there is no picture, or fewer than two positions.
    """
    if not len(pictures):
        raise ValueError("a slide needs at least one picture")
    logits = [
        evaluate(predict, shift(pictures, np.broadcast_to(offsets, (len(pictures), 2))), batch)
        for offsets in path
    ]
    if not logits:
        raise ValueError("a slide needs at least two positions, got none")
    return Slide(_softmax(np.stack(logits).astype(np.float64)))


def slide_one_pixel(
    predict: Predict,
    pictures: Pictures,
    protocol: ShiftProtocol,
    *,
    seed: int = 0,
    batch: int = DEFAULT_BATCH,
) -> Slide:
    """Put each picture at a random place, then one pixel beside it, down or right or back.

    Its `top1_change` and `mean_absolute_change` are P(top-1 change) and MAC of Azulay and Weiss,
    "Why do deep convolutional networks generalize so poorly to small image transformations?", 2019.

    Args:
        predict: the path that is measured.
        pictures: (N, ...).
        protocol: how they move, by its first shift; its offsets are the places.
        seed: of the places and directions.
        batch: pictures sent at once.

    Raises:
        ValueError: there is no picture, or no room for a step along both axes.
    """
    places = draw_neighbours(protocol, len(pictures), np.random.default_rng(seed))
    return slide_along(predict, pictures, protocol.first, places, batch=batch)


def changes_from_start(slide: Slide) -> NDArray[np.float64]:
    """Return the share of later positions with another answer than the first. -> (N,)."""
    return (slide.answers[1:] != slide.answers[0]).mean(axis=0)


def absolute_changes(slide: Slide) -> NDArray[np.float64]:
    """Return mean over k >= 1 of |p_c(k) - p_c(0)|, c the answer at position 0. -> (N,)."""
    followed = slide.probability_of(slide.answers[0])
    return np.abs(followed[1:] - followed[0]).mean(axis=0)


def flips(slide: Slide) -> NDArray[np.float64]:
    """Return the share of steps that change the answer. -> (N,).

    Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and
    Perturbations", 2019 (ImageNet-P), without its division by AlexNet's.
    """
    return (slide.answers[1:] != slide.answers[:-1]).mean(axis=0)


def jumps(slide: Slide, *, threshold: float = JUMP) -> NDArray[np.float64]:
    """Count the steps with |p_c(k) - p_c(k - 1)| > threshold, c the answer at position 0. -> (N,).

    The jaggedness of the curve of p_c: a smooth one has 0, however far it falls.
    """
    followed = slide.probability_of(slide.answers[0])
    return (np.abs(np.diff(followed, axis=0)) > threshold).sum(axis=0).astype(np.float64)


def true_class_deviations(slide: Slide, labels: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
    """Return the standard deviation over positions (divisor K) of p_label. -> (N,).

    Zhang, 2019, section 4, along the diagonal.

    Raises:
        ValueError: a label is not a class of the network.
    """
    return slide.probability_of(labels).std(axis=0)


def measure_stability(
    slide: Slide,
    labels: NDArray[np.integer[Any]] | None = None,
    *,
    threshold: float = JUMP,
) -> Stability:
    """Average all figures over the pictures.

    Args:
        slide: what was seen.
        labels: the right class of each picture, (N,).
        threshold: of a jump, a difference of probabilities.

    Raises:
        ValueError: a label is not a class of the network.
    """
    return Stability(
        top1_change=_estimate(changes_from_start(slide)),
        mean_absolute_change=_estimate(absolute_changes(slide)),
        flip_probability=_estimate(flips(slide)),
        jumps=_estimate(jumps(slide, threshold=threshold)),
        unchanged=_estimate((slide.answers == slide.answers[0]).all(axis=0)),
        true_class_deviation=(
            None if labels is None else _estimate(true_class_deviations(slide, labels))
        ),
    )


def _estimate(of_each: NDArray[Any]) -> Estimate:
    return Estimate(float(of_each.mean()), standard_error(of_each), len(of_each))


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
