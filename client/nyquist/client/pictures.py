"""A picture file as the array that a model's input wants."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

CROP_SHARE = 0.875
"""Side of the centre crop as a share of the shorter side: 224 of 256, the ImageNet convention."""
ANY = -1


def read_picture(path: Path, datatype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Read a picture for an input of this datatype and shape; -1 is any height and width.

    UINT8 (H, W, 3) gets RGB bytes, FP32 (3, H, W) the same in 0..1: the shorter side resized to 8/7
    of the input's, then a centre crop; of any size, the picture as it is. FP32 (1, H, W) gets grey
    values in 0..1 on a black canvas: smaller pictures are centred as they are, larger ones are
    first shrunk to fit.

    Raises:
        OSError: the file cannot be read as a picture.
        ValueError: the input is of neither kind.
    """
    with Image.open(path) as picture:
        if datatype == "UINT8" and len(shape) == 3 and shape[2] == 3:
            return _cropped(picture.convert("RGB"), height=shape[0], width=shape[1])
        if datatype == "FP32" and len(shape) == 3 and shape[0] == 3:
            pixels = _cropped(picture.convert("RGB"), height=shape[1], width=shape[2])
            return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32) / np.float32(255)
        if datatype == "FP32" and len(shape) == 3 and shape[0] == 1:
            return _on_canvas(picture.convert("L"), height=shape[1], width=shape[2])[None]
    raise ValueError(
        "a picture fits UINT8 (H, W, 3), FP32 (3, H, W) or FP32 (1, H, W), "
        f"the model takes {datatype} {shape}"
    )


def _cropped(picture: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    if ANY in (height, width):
        return np.asarray(picture)
    scale = max(height / picture.height, width / picture.width) / CROP_SHARE
    size = (round(picture.width * scale), round(picture.height * scale))
    resized = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return np.asarray(resized.crop((left, top, left + width, top + height)))


def _on_canvas(picture: Image.Image, height: int, width: int) -> NDArray[np.float32]:
    if ANY in (height, width):
        height, width = picture.height, picture.width
    if picture.height > height or picture.width > width:
        picture.thumbnail((width, height))
    canvas = Image.new("L", (width, height))
    canvas.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return np.asarray(canvas, np.float32) / np.float32(255)
