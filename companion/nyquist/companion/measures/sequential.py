"""How sure a mean is, however often one looks: a confidence sequence of a bounded mean.

values, as they come -> bets against every mean that it might be -> the means not ruled out yet

An interval of a fixed sample may be looked at once: who looks after each value, and stops when he
likes what he sees, is wrong far more often than it says. These hold at all times together (Howard,
Ramdas, McAuliffe, Sekhon: "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals
of Statistics 49(2), 2021).

Against each mean m a gambler bets on the next value, with a stake that only the values before it
say. If m is the mean the game is fair, and by Ville's inequality the capital ever reaches 2 / alpha
with a chance of alpha / 2 at most; where it does, m is ruled out for good. The stakes are those of
the hedged capital of Waudby-Smith and Ramdas: "Estimating means of bounded random variables by
betting", Journal of the Royal Statistical Society B 86(1), 2024, section 4.
"""

from math import log

import numpy as np
from numpy.typing import NDArray

POINTS = 401
"""Means that are bet against; between two of them the outer one counts."""

MOST_AT_STAKE = 0.75
"""Share of the capital that one value can take: never all of it."""

CHUNK = 256


class ConfidenceSequence:
    """The means that are not ruled out yet, of values between two bounds.

    No distribution is assumed, nor that values are alike: where each, given those before it, is
    expected at m or below, m is ruled out from below with a chance of alpha / 2 at most, ever.

    Args:
        alpha: chance, at most, that the mean is ever ruled out, above 0 and below 1.
        bounds: of the values.
        around: mean near which the points lie densest.
        points: means that are bet against besides, such as a limit.

    Attributes:
        count: of values so far.

    Raises:
        ValueError: alpha is not between 0 and 1.
    """

    def __init__(
        self,
        alpha: float,
        bounds: tuple[float, float] = (0.0, 1.0),
        around: float = 0.0,
        points: tuple[float, ...] = (),
    ) -> None:
        if not 0 < alpha < 1:
            raise ValueError(f"alpha lies between 0 and 1, got {alpha}")
        self._least, self._span = bounds[0], bounds[1] - bounds[0]
        self._means = self._grid(around, points)
        self._log_enough = log(2 / alpha)
        self._log_capital = np.zeros((2, len(self._means)))
        self._sum, self._squares = 0.0, 0.0
        self.count = 0
        self._bounds = self._low, self._high = bounds

    @property
    def low(self) -> float:
        """The mean is more than this, or at least the bound.

        Where the mean so far is not above it, the mean has moved: what was ruled out may hold now.
        """
        moved = self.mean is not None and self.mean < self._low
        return self._bounds[0] if moved else self._low

    @property
    def high(self) -> float:
        """The mean is less than this, or at most the bound; likewise."""
        moved = self.mean is not None and self.mean > self._high
        return self._bounds[1] if moved else self._high

    @property
    def mean(self) -> float | None:
        """Of the values so far; None before the first."""
        return self._least + self._span * self._sum / self.count if self.count else None

    def add(self, values: NDArray[np.float64]) -> None:
        """Take the next values in, in their order, (N,).

        Raises:
            ValueError: one lies outside the bounds, or is not a number.
        """
        scaled = (np.asarray(values, np.float64) - self._least) / self._span
        if not ((scaled >= 0) & (scaled <= 1)).all():
            raise ValueError(f"values lie outside {self._least}..{self._least + self._span}")
        for start in range(0, len(scaled), CHUNK):
            self._bet(scaled[start : start + CHUNK])

    def _bet(self, values: NDArray[np.float64]) -> None:
        stakes = self._stakes(values)[:, np.newaxis]
        means, apart = self._means, values[:, np.newaxis] - self._means  # (N, points)
        with np.errstate(divide="ignore"):  # nothing is lost against a mean of 0: any stake will do
            above = np.minimum(stakes, MOST_AT_STAKE / means)
            below = np.minimum(stakes, MOST_AT_STAKE / (1 - means))
        for side, gains in enumerate((above * apart, -below * apart)):
            capital = self._log_capital[side] + np.log1p(gains).cumsum(axis=0)
            self._log_capital[side] = capital[-1]
            ruled_out = means[(capital >= self._log_enough).any(axis=0)]
            if len(ruled_out):
                self._narrow(side, ruled_out)

    def _narrow(self, side: int, ruled_out: NDArray[np.float64]) -> None:
        if side == 0:
            self._low = max(self._low, self._least + self._span * float(ruled_out.max()))
        else:
            self._high = min(self._high, self._least + self._span * float(ruled_out.min()))

    def _stakes(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return what is staked on each value, from those before it alone: (N,) -> (N,)."""
        counts = self.count + np.arange(1, len(values) + 1)
        means = (0.5 + self._sum + values.cumsum()) / (counts + 1)
        squares = self._squares + ((values - means) ** 2).cumsum()
        before = np.concatenate([[self._squares], squares[:-1]])
        variance = (0.25 + before) / counts
        self.count += len(values)
        self._sum += float(values.sum())
        self._squares = float(squares[-1])
        return np.sqrt(2 * self._log_enough / (variance * counts * np.log1p(counts)))

    def _grid(self, around: float, points: tuple[float, ...]) -> NDArray[np.float64]:
        """Return means of 0..1, ascending: the closer to one of them, the denser."""
        along = np.linspace(-1, 1, POINTS)
        centre = (around - self._least) / self._span
        reach = np.where(along < 0, centre, 1 - centre)
        named = [(point - self._least) / self._span for point in points]
        return np.unique(np.concatenate([centre + reach * along * np.abs(along), named]).clip(0, 1))
