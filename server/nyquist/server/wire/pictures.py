"""JPEG, PNG and WebP files as what a model's input wants: the one reader of all of Nyquist.

bytes -> format and size from the header -> pixels, of a large JPEG at 1/2, 1/4 or 1/8
      -> resized, of that the centre -> upright -> colours

The client, the companion, the build and the server all read with it, so one file has one answer.
"""

import asyncio
import io
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from nyquist.server.wire.errors import (
    DeadlinePassed,
    InvalidRequest,
    NyquistError,
    QueueFull,
    Stopping,
)
from nyquist.server.wire.framing import PictureInput
from nyquist.server.wire.tensors import DTYPES

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_PIXELS = 50_000_000
MAX_HELD_BYTES = 256 * 1024 * 1024
MAX_THREADS = 4

MAX_SCANS = 100
"""Of a JPEG; encoders write some 10, those that look for the smallest file up to 64."""
SCANNED = 20
"""Times that as many pixels as may be decoded may be gone through; one scan takes a few bytes."""
MAX_READS = 100_000
"""Of one file: a chunk or a marker takes up to four, and a file may be made of nothing else."""
STEP_BYTES = 4096
"""Of a JPEG in several scans that are decoded between two looks at whether to go on."""

LEAST_OVERSAMPLING = 4
"""Pixels decoded for one of the input's, along each axis, where a JPEG is decoded reduced."""

_REDUCTIONS = (8, 4, 2)
_COLOUR_MODES = {1: "L", 3: "RGB"}
_RESAMPLING = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What sets a picture of each EXIF orientation upright."""
_TURNED = 5
"""EXIF orientations from here on lay the picture on its side."""

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_SCAN = b"\xff\xda"
"""Begins a scan; what is coded has no such bytes (ITU-T T.81, B.1.1.5)."""

_FILL = b"\xff"
_END = b"\xff\xd9"


def _ending(seed: int) -> bytes:
    """Return codes of no meaning, with and without each restart marker (ITU-T T.81, B.1.1.3)."""
    noise = [bytes((seed * at * at + at) % 255 for at in range(1, 65)) for seed in (seed, seed + 1)]
    return noise[0] + b"".join(b"\xff%c" % (0xD0 + at) + noise[1] for at in range(8)) + _END


_ENDINGS = (_END, _ending(166), _ending(91), _ending(213))
"""Of a JPEG: nothing more, and codes that begin with other bits each."""

Size = tuple[int, int]
Box = tuple[float, float, float, float]


class PictureFile(Protocol):
    """What a picture is read from: a path, or whatever else has bytes, and a name for errors."""

    def read_bytes(self) -> bytes:
        """Return the whole file.

        Raises:
            OSError: it cannot be read.
        """


def read_picture_files(paths: Sequence[PictureFile], wanted: PictureInput) -> NDArray[Any]:
    """Read files as one batch. B paths -> (B, H, W, C) or (B, C, H, W).

    Raises:
        OSError: one cannot be read.
        InvalidRequest: as read_picture; it names the file.
    """
    rows = []
    for path in paths:
        file = path.read_bytes()
        with _named(str(path)):
            wanted = sized(file, wanted)
            rows.append(read_picture(file, wanted))
    return np.stack(rows)


def read_picture(
    file: bytes,
    wanted: PictureInput,
    max_pixels: int = MAX_PIXELS,
    stopped: Callable[[], bool] = lambda: False,
) -> NDArray[Any]:
    """Read one picture. bytes -> (H, W, C) or (C, H, W).

    EXIF orientation is heeded, transparency dropped; of an animation the first picture counts, of
    16 bits the upper eight. A JPEG in one scan may lack its end marker, and nothing else.

    Args:
        file: of any of FORMATS.
        wanted: what to make of it; where that may grow, it grows to this picture.
        max_pixels: that may be decoded. A JPEG counts as reduced as it is decoded, unless it is
            progressive or comes in several scans: then all of it is held at once. A WebP counts
            twice, since its decoder holds it so.
        stopped: whether nobody waits any more; asked again and again.

    Raises:
        InvalidRequest: it is none of FORMATS, is damaged, or has too many pixels, scans or parts.
        Stopping: `stopped` said so.
    """
    try:
        return _read_file(file, wanted, max_pixels, stopped)
    except NyquistError:
        raise
    except Exception as error:  # a parser fed with hostile bytes raises what it likes
        if (ended := _read_ended(file, wanted, max_pixels, stopped)) is not None:
            return ended
        raise InvalidRequest("the picture is damaged") from error


def sized(
    file: bytes,
    wanted: PictureInput,
    max_pixels: int = MAX_PIXELS,
    stopped: Callable[[], bool] = lambda: False,
) -> PictureInput:
    """Return the input as large as this picture is when upright, where it may grow.

    Raises:
        NyquistError: as read_picture.
    """
    if wanted.most is None:
        return wanted
    try:
        with _opened(_Supply(file, stopped), max_pixels) as picture:
            return _grown(wanted, picture, _orientation(picture))
    except NyquistError:
        raise
    except Exception as error:  # likewise
        raise InvalidRequest("the picture is damaged") from error


def _read_file(
    file: bytes, wanted: PictureInput, max_pixels: int, stopped: Callable[[], bool]
) -> NDArray[Any]:
    with _opened(_Supply(file, stopped), max_pixels) as picture:
        return _read(picture, wanted, max_pixels)


def _read_ended(
    file: bytes, wanted: PictureInput, max_pixels: int, stopped: Callable[[], bool]
) -> NDArray[Any] | None:
    """Read a JPEG that lacks its end marker alone; None of any other, and of one that lacks more.

    libjpeg goes on with grey, or with what follows, where coded data are missing: so the picture is
    whole if all endings show the same. Of several scans whole ones may be missing.
    """
    if not file.startswith(_JPEG):
        return None
    coded = file.rstrip(_FILL)
    try:
        with JpegImageFile(io.BytesIO(file)) as picture:
            if not _in_one_scan(picture, file):
                return None
        first, *others = (
            _read_file(coded + ending, wanted, max_pixels, stopped) for ending in _ENDINGS
        )
    except NyquistError:
        raise
    except Exception:  # noqa: BLE001 # it is damaged elsewhere
        return None
    return first if all(np.array_equal(first, other) for other in others) else None


class _Supply(io.BytesIO):
    """A file that is given to a decoder as long as somebody waits for the picture.

    Every decoder comes back for more, so that what it does ends where its supply does.
    """

    def __init__(self, file: bytes, stopped: Callable[[], bool]) -> None:
        super().__init__(file)
        self.file, self._stopped, self._reads = file, stopped, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Read on.

        Raises:
            InvalidRequest: it has been read too often.
            Stopping: nobody waits any more.
        """
        self._reads += 1
        if self._reads > MAX_READS:
            raise InvalidRequest(f"the picture takes more than {MAX_READS} steps to be read")
        if self._stopped():
            raise Stopping("the picture is not wanted any more")
        return super().read(size)


def _opened(supply: _Supply, max_pixels: int) -> ImageFile:
    """Read the header of a picture, and nothing else of one that is too large to be decoded.

    Each format's own parser is called: `Image.open` has a limit of its own, for the whole process.
    """
    file = supply.file
    if file.startswith(_JPEG):
        jpeg = JpegImageFile(supply)
        if not _in_one_scan(jpeg, file):
            _check_size(jpeg.size, max_pixels)
            _check_scans(jpeg.size, file.count(_SCAN), max_pixels)
            jpeg.decodermaxblock = STEP_BYTES
        return jpeg
    if file.startswith(_PNG):
        png = PngImageFile(supply)
        _check_size(png.size, max_pixels)
        png.load()  # EXIF may stand behind the pixels; damaged pixels are not broken EXIF
        return png
    if file.startswith(b"RIFF") and file[8:12] == b"WEBP":
        # Pillow makes room in the next line: for canvas, frame and copy, twice what others take.
        _check_size(_webp_size(file), max_pixels // 2)
        return WebPImageFile(supply)
    raise InvalidRequest(
        f"expected a file of format {', '.join(FORMATS)}, got one that begins with {file[:8]!r}"
    )


def _check_size(size: Size, max_pixels: int, of: str = "") -> None:
    width, height = size
    if width * height > max_pixels:
        raise InvalidRequest(
            f"the picture has {width} x {height} pixels{of}, most are {max_pixels}"
        )


def _check_scans(size: Size, scans: int, max_pixels: int) -> None:
    """Refuse what would take long: each scan goes through the whole picture, or may."""
    most = min(MAX_SCANS, SCANNED * max_pixels // max(1, size[0] * size[1]))
    if scans > most:
        width, height = size
        raise InvalidRequest(
            f"the picture has {scans} scans, most are {most} of {width} x {height} pixels"
        )


def _in_one_scan(picture: JpegImageFile, file: bytes) -> bool:
    """Say whether libjpeg needs a few rows at a time, and not every coefficient of the picture.

    The header of a scan (ITU-T T.81, B.2.3), behind which Pillow stops, has all layers then.
    """
    if "progressive" in picture.info or picture.fp is None:
        return False
    layers, end = picture.layers, picture.fp.tell()
    marker = _SCAN + (6 + 2 * layers).to_bytes(2, "big") + bytes([layers])
    return file[: end - 3 - 2 * layers].endswith(marker)


def _webp_size(file: bytes) -> Size:
    """Return width and height from the header of a WebP file (RFC 9649, section 2)."""
    kind, body = file[12:16], file[20:30]
    if kind == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if kind == b"VP8 ":
        width, height = (int.from_bytes(body[at : at + 2], "little") for at in (6, 8))
        return width & 0x3FFF, height & 0x3FFF
    raise InvalidRequest("the picture is damaged")


def _orientation(picture: ImageFile) -> int:
    """Return the EXIF orientation, 1 to 8; 1, upright, where there is none or it is broken."""
    try:
        found = picture.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # noqa: BLE001 # a sound picture is none the worse for broken EXIF
        return 1
    return found if isinstance(found, int) and found in _UPRIGHT else 1


def _grown(wanted: PictureInput, picture: ImageFile, turn: int) -> PictureInput:
    width, height = picture.size[::-1] if turn >= _TURNED else picture.size
    return wanted.grown(height, width)


def _read(picture: ImageFile, wanted: PictureInput, max_pixels: int) -> NDArray[Any]:
    turn = _orientation(picture)
    wanted = _grown(wanted, picture, turn)
    size, box = _part(picture.size, wanted, turned=turn >= _TURNED)
    box = _reduced(picture, size, box, max_pixels)
    resized = _eight_bits(picture).resize(size, _RESAMPLING[wanted.framing.interpolation], box)
    if turn in _UPRIGHT:
        resized = resized.transpose(_UPRIGHT[turn])
    return _as_array(_on_canvas(resized.convert(_COLOUR_MODES[wanted.channels]), wanted), wanted)


def _part(stored: Size, wanted: PictureInput, *, turned: bool) -> tuple[Size, Box]:
    """Return what of a picture is resized, and to which width and height.

    Both are as the file has it, before it is set upright.
    """
    width, height = (wanted.height, wanted.width) if turned else (wanted.width, wanted.height)
    if wanted.framing.fit == "canvas":
        scale = min(width / stored[0], height / stored[1], 1)
        size = (max(1, round(stored[0] * scale)), max(1, round(stored[1] * scale)))
        return size, (0, 0, *stored)
    share = wanted.framing.crop_share
    step = min(stored[0] * share / width, stored[1] * share / height)
    across, down = min(width * step, stored[0]), min(height * step, stored[1])
    left, top = (stored[0] - across) / 2, (stored[1] - down) / 2
    return (width, height), (left, top, left + across, top + down)


def _reduced(picture: ImageFile, size: Size, box: Box, max_pixels: int) -> Box:
    """Have a large JPEG decoded reduced, which costs less of everything, and return its new box.

    libjpeg leaves out the frequencies that resizing would; at least LEAST_OVERSAMPLING stays.
    """
    if not isinstance(picture, JpegImageFile):
        return box
    spare = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) / LEAST_OVERSAMPLING
    by = next((reduction for reduction in _REDUCTIONS if reduction <= spare), 1)
    if by > 1:
        picture.draft(None, (picture.width // by, picture.height // by))
    _check_size(picture.size, max_pixels, f" at 1/{by} of its size" if by > 1 else "")
    return (box[0] / by, box[1] / by, box[2] / by, box[3] / by)


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Return the pixels as grey or RGB, without a copy where they are."""
    picture.load()
    if picture.mode in _COLOUR_MODES.values():
        return picture
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")


def _on_canvas(picture: Image.Image, wanted: PictureInput) -> Image.Image:
    """Return the picture in the middle of black ground of the wanted size."""
    width, height = wanted.width, wanted.height
    if picture.size == (width, height):
        return picture
    canvas = Image.new(picture.mode, (width, height))
    canvas.paste(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return canvas


def _as_array(picture: Image.Image, wanted: PictureInput) -> NDArray[Any]:
    """Return the values on the input's scale and in its layout. (H, W[, C]) -> 3 axes."""
    dtype = DTYPES[wanted.datatype]
    pixels = np.asarray(picture).reshape(wanted.height, wanted.width, -1)
    if wanted.layout == "CHW":
        pixels = pixels.transpose(2, 0, 1)
    if dtype.kind == "f":
        return np.ascontiguousarray(pixels / np.float32(255), dtype)
    return np.ascontiguousarray(pixels, dtype)


class _Waiting:
    """Whether somebody still waits for the pictures of one request."""

    def __init__(self) -> None:
        self.over = False

    def is_over(self) -> bool:
        return self.over


class ImageDecoder:
    """A few threads that decode, for all models. Close it.

    What nobody waits for any more, since the caller has gone, a deadline has passed or the decoder
    is closed, is given up where it stands.

    Args:
        max_pixels: of one picture; see read_picture.
        max_held_bytes: of encoded pictures that wait or are decoded, all requests together.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS, max_held_bytes: int = MAX_HELD_BYTES) -> None:
        self._max_pixels, self._max_held_bytes = max_pixels, max_held_bytes
        self._held_bytes = 0
        self._waiting: set[_Waiting] = set()
        threads = min(MAX_THREADS, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="image")

    async def decode(
        self, files: Sequence[bytes], wanted: PictureInput, deadline: float | None
    ) -> NDArray[Any]:
        """Decode the pictures of one request. B files -> (B, H, W, C) or (B, C, H, W).

        Where the input may grow, the first picture says how far, for all of the request.

        Args:
            files: of any of FORMATS, mixed as they like.
            wanted: what to make of each.
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
        run, waiting = asyncio.get_running_loop().run_in_executor, _Waiting()
        self._held_bytes += size
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout_at(deadline):
                if wanted.most is not None:
                    wanted = await run(self._pool, self._sized, files[0], wanted, waiting)
                rows = await asyncio.gather(
                    *(
                        run(self._pool, self._decoded, index, file, wanted, waiting)
                        for index, file in enumerate(files)
                    )
                )
        except TimeoutError as error:
            raise DeadlinePassed("Request timeout expired") from error
        finally:
            waiting.over = True
            self._waiting.discard(waiting)
            self._held_bytes -= size
        return np.stack(rows)

    def close(self) -> None:
        """Give the threads back; what they still decode is given up."""
        for waiting in self._waiting:
            waiting.over = True
        self._pool.shutdown()

    def _sized(self, file: bytes, wanted: PictureInput, waiting: _Waiting) -> PictureInput:
        with _named("image 0"):
            return sized(file, wanted, self._max_pixels, waiting.is_over)

    def _decoded(
        self, index: int, file: bytes, wanted: PictureInput, waiting: _Waiting
    ) -> NDArray[Any]:
        with _named(f"image {index}"):
            return read_picture(file, wanted, self._max_pixels, waiting.is_over)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Say which of several pictures an error is about."""
    try:
        yield
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error}") from error
