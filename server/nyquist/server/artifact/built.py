"""The shift consistency that a build measured: the figures that every page and table quotes.

manifest -> Built, of one pixel and around the frame
"""

from typing import NamedTuple

from nyquist.server.artifact.manifest import Manifest


class Built(NamedTuple):
    """A share that a build measured, once.

    Attributes:
        share: 0..1.
        standard_error: of it, over pictures.
        pictures: test pictures of the build.
        pairs: yes or no of each picture; 0 of embeddings, whose shares are cosines.
    """

    share: float
    standard_error: float
    pictures: int
    pairs: int


def one_pixel_of(manifest: Manifest) -> Built | None:
    """Return the figure of windows one pixel apart; None where the build has none."""
    figures = manifest.figures
    if figures.one_pixel is None:
        return None
    error, pictures = figures.one_pixel_error, figures.one_pixel_samples
    return Built(figures.one_pixel, error, pictures, pairs_of(manifest, figures.one_pixel_pairs))


def circular_of(manifest: Manifest) -> Built:
    """Return the figure of places around the frame, which the limit of the build is of."""
    figures = manifest.figures
    error, pictures = figures.consistency_error, figures.samples
    return Built(figures.consistency, error, pictures, pairs_of(manifest, figures.pairs))


def pairs_of(manifest: Manifest, pairs: int) -> int:
    """Return how many yes or no a share of so many pairs is the mean of."""
    return 0 if manifest.head.kind == "embedding" else pairs
