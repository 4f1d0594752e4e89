"""JPEG, PNG and WebP files as what a model's input wants.

bytes -> format and size from the header -> pixels -> upright -> colours -> resized -> cropped

All but the header happens in a few threads of its own, and before a request is queued.
"""

import asyncio
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from nyquist.server.wire.errors import DeadlinePassed, InvalidRequest, QueueFull

FORMATS = ("JPEG", "PNG", "WEBP")
Image.MAX_IMAGE_PIXELS = None  # Pillow's own limit warns first; ours is an error, and stricter
MAX_PIXELS = 50_000_000
MAX_HELD_BYTES = 256 * 1024 * 1024
MAX_THREADS = 4
COLOUR_MODES = {1: "L", 3: "RGB"}
SIXTEEN_BITS = "I;16"
TURNED = 5
"""EXIF orientations from here on lay the picture on its side."""


@dataclass(frozen=True)
class Canvas:
    """What a picture has to become.

    Attributes:
        height: in pixels.
        width: in pixels.
        mode: L for one channel, RGB for three.
        layout: order of the axes, CHW or HWC.
        dtype: of the values: 0..255 for integers, 0..1 for floats.
        most: height and width up to which it may grow, where the input's axes are dynamic.
    """

    height: int
    width: int
    mode: str
    layout: str
    dtype: np.dtype[Any]
    most: tuple[int, int] | None = None

    def grown(self, height: int, width: int) -> "Canvas":
        """Return the canvas of a picture of this size: as large as that, within the bounds."""
        if self.most is None:
            return self
        return replace(
            self,
            height=min(max(height, self.height), self.most[0]),
            width=min(max(width, self.width), self.most[1]),
            most=None,
        )


class ImageDecoder:
    """A few threads that decode, for all models. Close it.

    Args:
        max_pixels: of one picture.
        max_held_bytes: of encoded pictures that wait or are decoded, all requests together.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_pixels, self._max_held_bytes = max_pixels, max_held_bytes
        self._held_bytes = 0
        threads = min(MAX_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="image")

    async def decode(
        self, files: Sequence[bytes], canvas: Canvas, deadline: float | None
    ) -> NDArray[Any]:
        """Decode the pictures of one request. B files -> (B, H, W, C) or (B, C, H, W).

        Where the canvas may grow, the first picture says how far, for all of the request.

        Args:
            files: of any of FORMATS, mixed as they like.
            canvas: what to make of each.
            deadline: on the clock of the event loop; None waits for ever.

        Raises:
            InvalidRequest: one is no such file, is damaged or too large; it says which.
            QueueFull: too many bytes of pictures wait already.
            DeadlinePassed: they were not decoded in time.
        """
        size = sum(map(len, files))
        if self._held_bytes + size > self._max_held_bytes:
            raise QueueFull(
                f"Exceeds maximum of {self._max_held_bytes} bytes of pictures to be decoded"
            )
        loop = asyncio.get_running_loop()
        self._held_bytes += size
        try:
            async with asyncio.timeout_at(deadline):
                if canvas.most is not None:
                    upright = loop.run_in_executor(self._pool, self._upright_size, files[0])
                    canvas = canvas.grown(*await upright)
                rows = await asyncio.gather(
                    *(
                        loop.run_in_executor(self._pool, self._decoded, index, file, canvas)
                        for index, file in enumerate(files)
                    )
                )
        except TimeoutError as error:
            raise DeadlinePassed("Request timeout expired") from error
        finally:
            self._held_bytes -= size
        return np.stack(rows)

    def close(self) -> None:
        """Give the threads back."""
        self._pool.shutdown()

    def _upright_size(self, file: bytes) -> tuple[int, int]:
        """Return height and width of the first picture as it will be seen."""
        try:
            with _opened(file, self._max_pixels) as picture:
                turned = picture.getexif().get(ExifTags.Base.Orientation, 1) >= TURNED
                size = picture.width, picture.height
                return size if turned else size[::-1]
        except InvalidRequest as error:
            raise InvalidRequest(f"image 0: {error}") from error
        except Exception as error:  # as in decode_image
            raise InvalidRequest("image 0: the picture is damaged") from error

    def _decoded(self, index: int, file: bytes, canvas: Canvas) -> NDArray[Any]:
        try:
            return decode_image(file, canvas, self._max_pixels)
        except InvalidRequest as error:
            raise InvalidRequest(f"image {index}: {error}") from error


def decode_image(file: bytes, canvas: Canvas, max_pixels: int = MAX_PIXELS) -> NDArray[Any]:
    """Decode one picture onto a canvas. bytes -> (H, W, C) or (C, H, W).

    The shorter side is resized to the canvas, bilinear and anti-aliased, then the centre is cut
    out. EXIF orientation is heeded, transparency dropped; of an animation the first picture counts.

    Raises:
        InvalidRequest: it is none of FORMATS, is damaged, or has more than max_pixels.
    """
    try:
        with _opened(file, max_pixels) as picture:
            upright = ImageOps.exif_transpose(_in_colours(picture, canvas.mode))
            return _as_array(_fitted(upright, canvas, max_pixels), canvas)
    except InvalidRequest:
        raise
    except Exception as error:  # a parser fed with hostile bytes raises what it likes
        raise InvalidRequest("the picture is damaged") from error


def _opened(file: bytes, max_pixels: int) -> Image.Image:
    """Read the header, and nothing else, of a picture that is not too large."""
    if size := _webp_size(file):  # Pillow makes room for all of a WebP when it opens it
        _check_size(*size, max_pixels)
    try:
        picture = Image.open(io.BytesIO(file), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise InvalidRequest(f"expected a file of format {', '.join(FORMATS)}") from error
    _check_size(picture.width, picture.height, max_pixels)
    return picture


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise InvalidRequest(f"the picture has {width} x {height} pixels, most are {max_pixels}")


def _webp_size(file: bytes) -> tuple[int, int] | None:
    """Return width and height from the header of a WebP file (RFC 9649, section 2)."""
    if len(file) < 30 or file[:4] != b"RIFF" or file[8:12] != b"WEBP":
        return None
    kind = file[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(file[24:27], "little"), 1 + int.from_bytes(file[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(file[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    width, height = (int.from_bytes(file[at : at + 2], "little") for at in (26, 28))
    return width & 0x3FFF, height & 0x3FFF


def _in_colours(picture: Image.Image, mode: str) -> Image.Image:
    if picture.mode.startswith(SIXTEEN_BITS):
        eight_bits = (np.asarray(picture) >> 8).astype(np.uint8)
        narrowed = Image.fromarray(eight_bits)
        narrowed.info = picture.info
        return narrowed.convert(mode)
    return picture.convert(mode)


def _fitted(picture: Image.Image, canvas: Canvas, max_pixels: int) -> Image.Image:
    height, width = canvas.height, canvas.width
    if width * picture.height >= height * picture.width:
        size = (width, max(height, width * picture.height // picture.width))
    else:
        size = (max(width, height * picture.width // picture.height), height)
    if size[0] * size[1] > max_pixels:
        raise InvalidRequest(
            f"the picture has {picture.width} x {picture.height} pixels: too long and narrow"
        )
    resized = picture.resize(size, Image.Resampling.BILINEAR)
    left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
    return resized.crop((left, top, left + width, top + height))


def _as_array(picture: Image.Image, canvas: Canvas) -> NDArray[Any]:
    """Return the values on the input's scale and in its layout. (H, W[, C]) -> 3 axes."""
    pixels = np.asarray(picture).reshape(canvas.height, canvas.width, -1)
    if canvas.layout == "CHW":
        pixels = pixels.transpose(2, 0, 1)
    if canvas.dtype.kind == "f":
        return (pixels / np.float32(255)).astype(canvas.dtype)
    return np.ascontiguousarray(pixels, canvas.dtype)
