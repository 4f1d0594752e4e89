"""How much is measured of a model, so that a large network does not hold up the build."""

from dataclasses import dataclass
from math import inf


@dataclass(frozen=True)
class Effort:
    """Counts for one model; the page says them.

    Attributes:
        pictures: that are compared and moved.
        pairs: of shifts for each picture and protocol.
        reach: the worst case is over circular shifts of 0..reach - 1 along both axes.
        positions: of a slide.
        places: frames of each picture that a stabilised model is compared on.
        analysed: pictures for gradients and spectra, and noise for the effective field.
    """

    pictures: int
    pairs: int
    reach: int
    positions: int
    places: int
    analysed: int


EFFORTS = (
    (50e6, Effort(pictures=40, pairs=2, reach=4, positions=13, places=4, analysed=16)),
    (1e9, Effort(pictures=5, pairs=2, reach=2, positions=9, places=16, analysed=4)),
    (inf, Effort(pictures=2, pairs=1, reach=2, positions=5, places=4, analysed=2)),
)
"""By multiply-adds of one picture, at most. The last took ResNet-50 at 224 34 s of a busy core."""


def effort_for(multiply_adds: float) -> Effort:
    """Return what is measured of a network that costs so much."""
    return next(effort for most, effort in EFFORTS if multiply_adds <= most)
