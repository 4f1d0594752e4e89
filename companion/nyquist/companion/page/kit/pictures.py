"""Arrays as pictures inside a page: data URIs of PNG."""

import base64
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGEST_SIDE = 112


def picture_uri(picture: NDArray[Any], layout: str) -> str:
    """Return one served picture, scaled down if it is large.

    Bytes are shown as they are, floats from their least to their greatest value.

    Args:
        picture: (C, H, W) or (H, W, C); one channel or three are shown, of others the mean.
        layout: order of its axes, CHW or HWC.
    """
    values = picture.transpose(1, 2, 0) if layout == "CHW" else picture  # (H, W, C)
    if np.issubdtype(values.dtype, np.floating):
        values = np.nan_to_num(values.astype(np.float32), posinf=0, neginf=0)
        low, high = values.min(), values.max()
        values = (values - low) / max(high - low, np.float32(1e-9)) * 255
    if values.shape[2] != 3:
        values = values.mean(axis=2, dtype=np.float32)
    image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return png_uri(image)


def png_uri(image: Image.Image) -> str:
    """Return a picture as a data URI."""
    stream = io.BytesIO()
    image.save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
