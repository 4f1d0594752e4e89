"""Picture files as inputs: what becomes of them, and what is refused."""

import asyncio
import io
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from nyquist.server.wire.errors import DeadlinePassed, InvalidRequest, QueueFull
from nyquist.server.wire.images import Canvas, ImageDecoder, decode_image

COLOUR = Canvas(8, 8, "RGB", "HWC", np.dtype("u1"))
GREY = Canvas(8, 8, "L", "CHW", np.dtype("<f4"))


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def picture_of(pixels: NDArray[Any]) -> Image.Image:
    return Image.fromarray(pixels)


def ramp(height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    """A colour picture in which no two pixels are the same. (H, W, 3)."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows * 7, columns * 7, rows + columns], axis=-1).astype(np.uint8)


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises this size, and which has next to no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(64))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def webp_of_size(width: int, height: int) -> bytes:
    """A WebP whose extended header promises this size, and nothing behind it."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + size
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_a_picture_of_the_canvas_size_arrives_as_it_is() -> None:
    file = encoded(picture_of(ramp()))
    assert np.array_equal(decode_image(file, COLOUR), ramp())
    assert np.array_equal(
        decode_image(encoded(picture_of(ramp()), "WEBP", lossless=True), COLOUR), ramp()
    )


def test_the_layout_is_that_of_the_input() -> None:
    file = encoded(picture_of(ramp()))
    chw = decode_image(file, Canvas(8, 8, "RGB", "CHW", np.dtype("u1")))
    assert np.array_equal(chw, ramp().transpose(2, 0, 1))


def test_a_float_input_gets_values_from_0_to_1_and_a_grey_one_one_channel() -> None:
    white = picture_of(np.full((8, 8, 3), 255, np.uint8))
    picture = decode_image(encoded(white), GREY)
    assert picture.shape == (1, 8, 8)
    assert picture.dtype == np.float32
    assert picture.min() == picture.max() == 1.0
    half = decode_image(encoded(white), Canvas(8, 8, "L", "CHW", np.dtype("<f2")))
    assert half.dtype == np.float16


def test_a_jpeg_is_close_to_what_it_was_made_from() -> None:
    smooth = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    decoded = decode_image(encoded(picture_of(smooth), "JPEG", quality=95), COLOUR)
    assert np.abs(decoded.astype(int) - smooth).max() <= 4


def test_the_shorter_side_is_resized_and_the_centre_cut_out() -> None:
    """At half the size each pixel is 1/8, 3/8, 3/8, 1/8 of four: the edges see 1/8 of black."""
    pixels = np.zeros((16, 40, 3), np.uint8)
    pixels[:, 12:28] = 255
    for turned in (pixels, np.ascontiguousarray(pixels.transpose(1, 0, 2))):
        across = decode_image(encoded(picture_of(turned)), COLOUR)[:, :, 0]
        if turned is not pixels:
            across = across.T
        assert across.tolist() == [[223, *[255] * 6, 223]] * 8


def test_shrinking_is_anti_aliased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inside = decode_image(encoded(picture_of(stripes)), COLOUR)[:, 1:-1]
    assert 120 <= inside.min() <= inside.max() <= 135


@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (1, ramp()),
        (2, ramp()[:, ::-1]),
        (3, ramp()[::-1, ::-1]),
        (6, np.rot90(ramp(), -1)),
        (8, np.rot90(ramp())),
    ],
)
def test_exif_orientation_is_heeded(orientation: int, expected: NDArray[np.uint8]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encoded(picture_of(ramp()), exif=exif)
    assert np.array_equal(decode_image(file, COLOUR), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_colour_mode_of_the_formats_is_read(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    else:
        picture = picture_of(np.full((8, 8, 3), 255, np.uint8)).convert(mode)
    file = encoded(picture, "JPEG" if mode == "CMYK" else "PNG")
    assert decode_image(file, COLOUR).min() >= 254
    assert decode_image(file, GREY).min() >= 0.99


@pytest.mark.parametrize("make", [png_of_size, webp_of_size])
def test_a_bomb_is_refused_by_its_header(make: Any) -> None:
    with pytest.raises(InvalidRequest, match="16000 x 16000 pixels, most are 50000000"):
        decode_image(make(16000, 16000), COLOUR)


def test_a_picture_that_would_be_blown_up_without_bound_is_refused() -> None:
    thread = encoded(picture_of(np.zeros((1, 60_000, 3), np.uint8)))
    canvas = Canvas(224, 224, "RGB", "HWC", np.dtype("u1"))
    with pytest.raises(InvalidRequest, match="too long and narrow"):
        decode_image(thread, canvas)


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM"])
def test_other_formats_are_refused_though_pillow_reads_them(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="expected a file of format JPEG, PNG, WEBP"):
        decode_image(encoded(picture_of(ramp()), kind), COLOUR)


@pytest.mark.parametrize("file", [b"", b"\x00" * 100, b"RIFF", b"RIFF\0\0\0\0WEBPVP8X" + bytes(40)])
def test_bytes_that_are_no_picture_are_refused(file: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode_image(file, COLOUR)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_damaged_file_is_refused_or_read_but_never_another_error(kind: str) -> None:
    """Cut off anywhere, or with any one byte changed."""
    noise = np.random.default_rng(5).integers(0, 256, (16, 16, 3), np.uint8)
    file = encoded(picture_of(noise), kind)
    refused = 0
    for at in range(len(file)):
        changed = bytearray(file)
        changed[at] ^= 0xFF
        for damaged in (file[:at], bytes(changed)):
            try:
                assert decode_image(damaged, COLOUR).shape == (8, 8, 3)
            except InvalidRequest:
                refused += 1
    assert refused > len(file) // 4


def test_a_request_says_which_of_its_pictures_is_bad() -> None:
    good = encoded(picture_of(ramp()))

    async def decode() -> None:
        await ImageDecoder().decode([good, b"bad"], COLOUR, None)

    with pytest.raises(InvalidRequest, match=r"^image 1: expected a file of format"):
        asyncio.run(decode())


def test_pictures_keep_their_order() -> None:
    shades = [np.full((8, 8, 3), shade, np.uint8) for shade in range(0, 250, 10)]

    async def decode() -> NDArray[Any]:
        return await ImageDecoder().decode(
            [encoded(picture_of(one)) for one in shades], COLOUR, None
        )

    assert np.array_equal(asyncio.run(decode()), np.stack(shades))


def test_bytes_that_wait_are_bounded_and_given_back() -> None:
    file = encoded(picture_of(ramp()))
    decoder = ImageDecoder(max_held_bytes=len(file))

    async def decode() -> None:
        with pytest.raises(QueueFull):
            await decoder.decode([file, file], COLOUR, None)
        await decoder.decode([file], COLOUR, None)
        await decoder.decode([file], COLOUR, None)

    asyncio.run(decode())


def test_a_deadline_ends_the_wait_for_pictures() -> None:
    file = encoded(picture_of(ramp()))

    async def decode() -> None:
        past = asyncio.get_running_loop().time() - 1
        with pytest.raises(DeadlinePassed):
            await ImageDecoder().decode([file], COLOUR, past)

    asyncio.run(decode())


@pytest.mark.parametrize(
    ("size", "orientation", "expected"),
    [((6, 40), 1, (8, 32)), ((16, 24), 1, (16, 24)), ((16, 24), 6, (24, 16))],
)
def test_a_dynamic_input_takes_the_size_of_the_first_picture_within_its_bounds(
    size: tuple[int, int], orientation: int, expected: tuple[int, int]
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    first = encoded(picture_of(ramp(*size)), exif=exif)
    flexible = replace(COLOUR, most=(24, 32))

    async def decode() -> NDArray[Any]:
        return await ImageDecoder().decode([first, encoded(picture_of(ramp()))], flexible, None)

    assert asyncio.run(decode()).shape == (2, *expected, 3)
