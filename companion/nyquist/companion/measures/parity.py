"""Numerical parity: how far two answers to the same pictures lie apart.

>>> compare(np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[0.0, 1.5], [2.0, 0.0]])).max_abs_error
0.5
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

Predict = Callable[[NDArray[Any]], NDArray[Any]]
"""(B, *input shape) -> logits (B, C)."""
Same = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
"""Two answers to the same pictures, both (N, C) -> how far each is the same, (N,), 0..1."""


def same_highest(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """Say of each picture whether its highest class is the same. -> (N,)."""
    alike: NDArray[Any] = first.argmax(axis=1) == second.argmax(axis=1)
    return alike


@dataclass(frozen=True)
class Parity:
    """Two paths compared.

    Attributes:
        max_abs_error: largest absolute difference of a logit.
        mean_abs_error: the mean over all logits.
        agreement: share of the pictures with the same answer, 0..1.
        pictures: how many were compared.
        spread: standard deviation of the reference's logits over the classes of a picture, in the
            root mean square over the pictures: what an error is small or large beside. A single
            logit stands beside a 0, the logit of what it is not. 0 if a logit of the reference is
            infinite or NaN.
    """

    max_abs_error: float
    mean_abs_error: float
    agreement: float
    pictures: int
    spread: float

    @property
    def relative_error(self) -> float:
        """Largest absolute difference, as a share of the spread; infinite if only that is 0."""
        if not self.max_abs_error:
            return 0.0
        return self.max_abs_error / self.spread if self.spread else inf

    def bounded(self, limit: float) -> "Parity":
        """Return the same with logits so small that neither spread nor errors exceed a limit.

        Args:
            limit: in units of the logits; 0 sets none.
        """
        if not limit:
            return self
        scale = min(1.0, limit / self.spread) if self.spread else 1.0
        return replace(
            self,
            max_abs_error=min(scale * self.max_abs_error, limit),
            mean_abs_error=min(scale * self.mean_abs_error, limit),
            spread=scale * self.spread,
        )


def compare(reference: NDArray[Any], served: NDArray[Any], same: Same = same_highest) -> Parity:
    """Compare logits of the same pictures, both (N, C). A NaN on either side is an infinite error.

    Args:
        reference: the truth.
        served: beside it.
        same: what the agreement is the mean of.

    Raises:
        ValueError: the shapes differ, or there is no picture.
    """
    if reference.shape != served.shape or not len(reference):
        raise ValueError(f"cannot compare logits of shapes {reference.shape} and {served.shape}")
    with np.errstate(invalid="ignore"):  # an infinity less an infinity is a NaN
        difference = np.abs(reference.astype(np.float64) - served)
        beside = np.pad(reference, ((0, 0), (0, 1))) if reference.shape[1:] == (1,) else reference
        spread = np.sqrt(beside.astype(np.float64).var(axis=1).mean())
    difference = np.where(np.isnan(difference), np.inf, difference)
    return Parity(
        max_abs_error=float(difference.max()),
        mean_abs_error=float(difference.mean()),
        agreement=float(same(reference, served).mean()),
        pictures=len(reference),
        spread=float(spread) if np.isfinite(spread) else 0.0,
    )


def pooled(parities: Collection[Parity]) -> Parity | None:
    """Return what comparing all the pictures at once would have given; None of none."""
    pictures = sum(parity.pictures for parity in parities)
    if not pictures:
        return None
    weights = [parity.pictures / pictures for parity in parities]
    weighed = list(zip(weights, parities, strict=True))
    return Parity(
        max_abs_error=max(parity.max_abs_error for parity in parities),
        mean_abs_error=sum(weight * parity.mean_abs_error for weight, parity in weighed),
        agreement=sum(round(one.agreement * one.pictures, 6) for one in parities) / pictures,
        pictures=pictures,
        spread=sqrt(sum(weight * parity.spread**2 for weight, parity in weighed)),
    )


def measure_parity(reference: Predict, served: Predict, batches: Iterable[NDArray[Any]]) -> Parity:
    """Send every batch through both paths, as it is, and compare all the answers."""
    answers = [(reference(batch), served(batch)) for batch in batches]
    return compare(
        np.concatenate([ours for ours, _ in answers]),
        np.concatenate([theirs for _, theirs in answers]),
    )
