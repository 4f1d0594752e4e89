"""Tensors as pictures inside a page: data URIs of PNG."""

import base64
import io

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image
from torch import Tensor

from models.analysis.plots import FAINTEST
from models.spec import Layout

LONGEST_SIDE = 112
COLOURS = 256


def picture_uri(picture: Tensor, layout: Layout) -> str:
    """Return one served picture, scaled down if it is large.

    Bytes are shown as they are, floats from their least to their greatest value.

    Args:
        picture: (C, H, W) or (H, W, C); one channel or three are shown, of others the mean.
        layout: order of its axes.
    """
    values = picture.permute(1, 2, 0) if layout == "CHW" else picture  # (H, W, C)
    if picture.is_floating_point():
        low, high = values.min(), values.max()
        values = (values - low) / (high - low).clamp(min=1e-9) * 255
    if values.shape[2] != 3:
        values = values.float().mean(dim=2, keepdim=True)
    pixels = values.round().clamp(0, 255).to(torch.uint8)
    image = Image.fromarray(np.ascontiguousarray(pixels.squeeze(2).numpy()))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return _uri(image)


def heat_uri(weights: Tensor) -> str:
    """Return an effective field, (H, W), logarithmic: black is a thousandth of the brightest."""
    decades = (weights / weights.max()).clamp(min=FAINTEST).log10().numpy() / np.log10(FAINTEST)
    steps = np.rint((1 - decades) * (COLOURS - 1)).astype(np.uint8)  # (H, W), 0..255
    image = Image.fromarray(steps, mode="P")
    palette = colormaps["magma"](np.arange(COLOURS), bytes=True)[:, :3]
    image.putpalette(palette.tobytes())
    return _uri(image)


def _uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
