"""Numerical parity: how far two answers to the same pictures lie apart."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[Any]], NDArray[Any]]
"""(B, *input shape) -> logits (B, C)."""


@dataclass(frozen=True)
class Parity:
    """Two paths compared.

    Attributes:
        max_abs_error: largest absolute difference of a logit.
        mean_abs_error: the mean over all logits.
        spread: standard deviation of the reference's logits: what an error is small against.
        agreement: share of the pictures with the same highest class, 0..1.
        pictures: how many were compared.
    """

    max_abs_error: float
    mean_abs_error: float
    spread: float
    agreement: float
    pictures: int

    @property
    def relative_error(self) -> float:
        """Largest difference as a multiple of the spread; infinite where only that is 0."""
        if self.max_abs_error == 0:
            return 0.0
        return self.max_abs_error / self.spread if self.spread > 0 else inf


def compare(reference: NDArray[Any], served: NDArray[Any]) -> Parity:
    """Compare logits of the same pictures, both (N, C). A NaN on either side is an infinite error.

    Raises:
        ValueError: the shapes differ, or there is no picture.
    """
    if reference.shape != served.shape or not len(reference):
        raise ValueError(f"cannot compare logits of shapes {reference.shape} and {served.shape}")
    difference = np.abs(reference.astype(np.float64) - served)
    difference = np.where(np.isnan(difference), np.inf, difference)
    agreeing = reference.argmax(axis=1) == served.argmax(axis=1)
    return Parity(
        max_abs_error=float(difference.max()),
        mean_abs_error=float(difference.mean()),
        spread=float(reference.std(dtype=np.float64)),
        agreement=float(agreeing.mean()),
        pictures=len(reference),
    )


def measure_parity(reference: Predict, served: Predict, batches: Iterable[NDArray[Any]]) -> Parity:
    """Send every batch through both paths, as it is, and compare all the answers."""
    answers = [(reference(batch), served(batch)) for batch in batches]
    return compare(
        np.concatenate([ours for ours, _ in answers]),
        np.concatenate([theirs for _, theirs in answers]),
    )
