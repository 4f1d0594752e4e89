"""Effective fields as pictures inside a page."""

import numpy as np
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from nyquist.companion.page.kit.pictures import png_uri
from nyquist.models.analysis.plots import FAINTEST

COLOURS = 256


def heat_uri(weights: Tensor) -> str:
    """Return an effective field, (H, W), logarithmic: black is a thousandth of the brightest."""
    decades = (weights / weights.max()).clamp(min=FAINTEST).log10().numpy() / np.log10(FAINTEST)
    steps = np.rint((1 - decades) * (COLOURS - 1)).astype(np.uint8)  # (H, W), 0..255
    image = Image.fromarray(steps, mode="P")
    palette = colormaps["magma"](np.arange(COLOURS), bytes=True)[:, :3]
    image.putpalette(palette.tobytes())
    return png_uri(image)
