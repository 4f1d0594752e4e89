"""Picture files as inputs: what becomes of them, and what is refused."""

import asyncio
import io
import logging
import struct
import subprocess
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from nyquist.server.telemetry.logs import configure_logs
from nyquist.server.wire.errors import DeadlinePassed, InvalidRequest, QueueFull, Stopping
from nyquist.server.wire.framing import (
    IMAGENET,
    INTERPOLATIONS,
    ON_CANVAS,
    Framing,
    PictureInput,
)
from nyquist.server.wire.pictures import ImageDecoder, read_picture

WHOLE = Framing("bilinear", crop_share=1.0)
COLOUR = PictureInput(3, 8, 8, "HWC", "UINT8", WHOLE)
GREY = PictureInput(1, 8, 8, "CHW", "FP32", WHOLE)
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()


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


def png(header: bytes, rows: bytes) -> bytes:
    """A PNG of the body of its IHDR chunk and rows, each behind the number of its filter."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises this size, and which has next to no data."""
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), bytes(64))


def webp_of_size(width: int, height: int, kind: str = "VP8X") -> bytes:
    """A WebP whose header (RFC 9649, section 2) promises this size, and nothing behind it.

    The bits beside the size are set.
    """
    if kind == "VP8X":
        body = bytes([255] * 4) + b"".join(
            (side - 1).to_bytes(3, "little") for side in (width, height)
        )
    elif kind == "VP8L":
        body = b"\x2f" + (width - 1 | height - 1 << 14 | 0b1111 << 28).to_bytes(4, "little")
    else:
        body = (
            bytes([255] * 3) + b"\x9d\x01\x2a" + struct.pack("<HH", width | 0xC000, height | 0xC000)
        )
    chunk = kind.encode() + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def scene(width: int = 1024, height: int = 768) -> Image.Image:
    """Waves of several lengths in colour: nothing finer than 16 pixels, nothing symmetric."""
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    waves = (np.sin(columns / 40 + rows / 90), np.cos(rows / 25), np.sin((columns - rows) / 60))
    return picture_of(np.stack([127 + 120 * wave for wave in waves], axis=-1).astype(np.uint8))


def in_three_scans(picture: Image.Image) -> bytes:
    """A baseline JPEG with a scan for each layer: each is coded like a grey picture's only one."""
    grey = [encoded(layer, "JPEG", quality=95) for layer in picture.convert("YCbCr").split()]
    frame, scan = grey[0].index(b"\xff\xc0"), grey[0].index(b"\xff\xda")
    size = grey[0][frame + 5 : frame + 9]
    layers = b"".join(bytes([1 + at, 0x11, 0]) for at in range(3))
    header = grey[0][:frame] + b"\xff\xc0\x00\x11\x08" + size + b"\x03" + layers
    tables = grey[0][frame + 13 : scan]
    scans = (
        b"\xff\xda\x00\x08\x01" + bytes([1 + at, 0]) + b"\x00\x3f\x00" + file[scan + 10 : -2]
        for at, file in enumerate(grey)
    )
    return header + tables + b"".join(scans) + b"\xff\xd9"


def test_a_picture_of_the_input_s_size_arrives_as_it_is() -> None:
    file = encoded(picture_of(ramp()))
    assert np.array_equal(read_picture(file, COLOUR), ramp())
    assert np.array_equal(
        read_picture(encoded(picture_of(ramp()), "WEBP", lossless=True), COLOUR), ramp()
    )


def test_the_layout_is_that_of_the_input() -> None:
    file = encoded(picture_of(ramp()))
    chw = read_picture(file, replace(COLOUR, layout="CHW"))
    assert np.array_equal(chw, ramp().transpose(2, 0, 1))


def test_a_float_input_gets_values_from_0_to_1_and_a_grey_one_one_channel() -> None:
    white = picture_of(np.full((8, 8, 3), 255, np.uint8))
    picture = read_picture(encoded(white), GREY)
    assert picture.shape == (1, 8, 8)
    assert picture.dtype == np.float32
    assert picture.min() == picture.max() == 1.0
    half = read_picture(encoded(white), replace(GREY, datatype="FP16"))
    assert half.dtype == np.float16


def test_a_float_input_in_colour_gets_the_same_picture_in_0_to_1() -> None:
    file = encoded(scene(50, 80))
    floats = read_picture(file, replace(COLOUR, layout="CHW", datatype="FP32"))
    assert floats.dtype == np.float32
    pixels = read_picture(file, COLOUR).transpose(2, 0, 1)
    assert np.array_equal(floats, pixels.astype(np.float32) / np.float32(255))


def test_a_jpeg_is_close_to_what_it_was_made_from() -> None:
    smooth = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    decoded = read_picture(encoded(picture_of(smooth), "JPEG", quality=95), COLOUR)
    assert np.abs(decoded.astype(int) - smooth).max() <= 4


def test_the_shorter_side_is_resized_and_the_centre_cut_out() -> None:
    """At half the size each pixel is 1/8, 3/8, 3/8, 1/8 of four: the edges see 1/8 of black."""
    pixels = np.zeros((16, 40, 3), np.uint8)
    pixels[:, 12:28] = 255
    for turned in (pixels, np.ascontiguousarray(pixels.transpose(1, 0, 2))):
        across = read_picture(encoded(picture_of(turned)), COLOUR)[:, :, 0]
        if turned is not pixels:
            across = across.T
        assert across.tolist() == [[223, *[255] * 6, 223]] * 8


def test_shrinking_is_anti_aliased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    inside = read_picture(encoded(picture_of(stripes)), COLOUR)[:, 1:-1]
    assert 120 <= inside.min() <= inside.max() <= 135


def test_the_margin_is_cut_off_and_what_is_left_not_resampled() -> None:
    """224 of 256: neither bicubic nor Lanczos interpolation changes a pixel that stays in place."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 512, 3), np.uint8)
    for framing in (IMAGENET, Framing("lanczos")):
        wanted = PictureInput(3, 224, 224, "HWC", "UINT8", framing)
        read = read_picture(encoded(picture_of(pixels)), wanted)
        assert np.array_equal(read, pixels[16:240, 144:368])


def test_the_interpolation_is_the_model_s() -> None:
    """An edge overshoots in bicubic interpolation, more in Lanczos'; in bilinear it does not."""
    pixels = np.full((32, 32, 3), 60, np.uint8)
    pixels[:, 16:] = 240
    file = encoded(picture_of(pixels))
    reads = {
        kind: read_picture(file, replace(COLOUR, framing=Framing(kind, crop_share=1.0)))[0, :, 0]
        for kind in INTERPOLATIONS
    }
    assert reads["lanczos"].min() < reads["bicubic"].min() < reads["bilinear"].min() == 60


def test_a_small_picture_is_laid_on_black_ground_as_it_is() -> None:
    wanted = PictureInput(3, 8, 12, "HWC", "UINT8", ON_CANVAS)
    read = read_picture(encoded(picture_of(ramp(3, 6) + 1)), wanted)
    assert np.array_equal(read[2:5, 3:9], ramp(3, 6) + 1)
    assert read.sum() == (ramp(3, 6) + 1).sum()


def test_a_large_picture_is_shrunk_onto_the_canvas_whole() -> None:
    wanted = PictureInput(1, 48, 48, "CHW", "FP32", ON_CANVAS)
    read = read_picture(encoded(Image.new("L", (200, 100), 255)), wanted)
    assert (read[0, 12:36] == 1).all()
    assert (read[0, :12] == 0).all()
    assert (read[0, 36:] == 0).all()
    thread = read_picture(encoded(Image.new("L", (1, 4000), 255)), wanted)
    assert (thread[0] == 1).sum() == 48


UPRIGHT = {
    1: ramp(8, 12),
    2: ramp(8, 12)[:, ::-1],
    3: ramp(8, 12)[::-1, ::-1],
    4: ramp(8, 12)[::-1],
    5: ramp(12, 8).transpose(1, 0, 2),
    6: np.rot90(ramp(12, 8), -1),
    7: np.rot90(ramp(12, 8), 2).transpose(1, 0, 2),
    8: np.rot90(ramp(12, 8)),
}


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("framing", [WHOLE, ON_CANVAS])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_heeded(orientation: int, framing: Framing, kind: str) -> None:
    stored = ramp(8, 12) if orientation < 5 else ramp(12, 8)
    file = encoded(picture_of(stored), kind, exif=exif(orientation), lossless=True)
    wanted = replace(COLOUR, width=12, framing=framing)
    assert np.array_equal(read_picture(file, wanted), UPRIGHT[orientation])


def test_a_turned_jpeg_loses_what_an_upright_one_would() -> None:
    """Reduced, cropped, resized: only the order in which rows and columns are rounded differs."""
    upright, lying = scene(), scene().transpose(Image.Transpose.ROTATE_90)
    wanted = PictureInput(3, 96, 64, "HWC", "UINT8", IMAGENET)
    reads = [
        read_picture(encoded(picture, "JPEG", quality=98, exif=exif(turn)), wanted).astype(int)
        for picture, turn in ((upright, 1), (lying, 6))
    ]
    assert np.abs(reads[0] - reads[1]).max() <= 3


@pytest.mark.parametrize(
    "tags", [exif(99).tobytes(), b"Exif\0\0no TIFF header", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_broken_exif_leaves_a_picture_as_it_is(tags: bytes) -> None:
    read = read_picture(encoded(picture_of(ramp(8, 12)), exif=tags), replace(COLOUR, width=12))
    assert np.array_equal(read, ramp(8, 12))


def test_broken_exif_writes_no_lines_to_the_log_of_a_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pillow warns once for each broken tag, and Python keeps what it has warned of."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    tags = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 1000, 1, 9999, 0)
    file = encoded(picture_of(ramp()), exif=tags)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        read_picture(file, COLOUR)
        assert told
        told.clear()
        configure_logs("info", "json")
        read_picture(file, COLOUR)
    assert not told


def test_exif_behind_the_pixels_of_a_png_is_heeded() -> None:
    plain = encoded(picture_of(ramp()))
    tags = exif(3).tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(tags)) + b"eXIf" + tags
    late = plain[:-12] + chunk + struct.pack(">I", zlib.crc32(chunk[4:])) + plain[-12:]
    assert np.array_equal(read_picture(late, COLOUR), ramp()[::-1, ::-1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_colour_mode_of_the_formats_is_read(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.full((8, 8), 65535, np.uint16))
    else:
        picture = picture_of(np.full((8, 8, 3), 255, np.uint8)).convert(mode)
    file = encoded(picture, "JPEG" if mode == "CMYK" else "PNG")
    assert read_picture(file, COLOUR).min() >= 254
    assert read_picture(file, GREY).min() >= 0.99


@pytest.mark.parametrize(
    ("mode", "kind", "levels"),
    [
        ("RGBA", "PNG", 0),
        ("RGBA", "WEBP", 0),
        ("P", "PNG", 0),
        ("CMYK", "JPEG", 4),
        ("RGB", "MPO", 4),
        ("RGB", "JPEG", 4),
    ],
)
def test_colours_stay_what_they_are(mode: str, kind: str, levels: int) -> None:
    picture = Image.new("RGB", (16, 16), (200, 100, 50))
    file = encoded(picture.convert(mode, palette=Image.Palette.ADAPTIVE), kind, lossless=True)
    read = read_picture(file, COLOUR).astype(int)
    assert np.abs(read - (200, 100, 50)).max() <= levels


def test_transparency_is_dropped_and_the_colour_below_it_seen() -> None:
    clear = picture_of(np.dstack([ramp(), np.zeros((8, 8), np.uint8)]))
    assert np.array_equal(read_picture(encoded(clear), COLOUR), ramp())
    half = Image.new("LA", (8, 8), (77, 3))
    assert (read_picture(encoded(half), COLOUR) == 77).all()


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("profile", [PROFILE, PROFILE[:200], b"no profile"])
def test_a_colour_profile_whole_or_broken_changes_no_value(profile: bytes, kind: str) -> None:
    plain, told = (
        encoded(picture_of(ramp()), kind, lossless=True, icc_profile=given)
        for given in (None, profile)
    )
    assert len(told) > len(plain)
    assert np.array_equal(read_picture(told, COLOUR), read_picture(plain, COLOUR))


def test_of_sixteen_bits_the_upper_eight_count() -> None:
    grey = (ramp()[..., 0].astype(np.uint16) << 8) + 255
    assert np.array_equal(read_picture(encoded(picture_of(grey)), COLOUR)[..., 0], ramp()[..., 0])
    rows = b"".join(
        b"\0" + ((row.astype(">u2") << 8) + 255).astype(">u2").tobytes() for row in ramp()
    )
    header = struct.pack(">IIBBBBB", 8, 8, 16, 2, 0, 0, 0)
    assert np.array_equal(read_picture(png(header, rows), COLOUR), ramp())


@pytest.mark.parametrize("kind", ["WEBP", "PNG"])
def test_of_an_animation_the_first_picture_counts(kind: str) -> None:
    second = Image.new("RGB", (8, 8), "white")
    file = encoded(picture_of(ramp()), kind, save_all=True, append_images=[second], lossless=True)
    assert np.array_equal(read_picture(file, COLOUR), ramp())


@pytest.mark.parametrize("restarts", [0, 3])
@pytest.mark.parametrize("size", [(48, 40), (301, 200)])
def test_a_jpeg_that_lacks_its_end_marker_alone_is_read(
    restarts: int, size: tuple[int, int]
) -> None:
    file = encoded(scene().resize(size), "JPEG", quality=90, restart_marker_blocks=restarts)
    whole = read_picture(file, COLOUR)
    for cut in (1, 2):
        assert np.array_equal(read_picture(file[:-cut], COLOUR), whole)
    wide = replace(COLOUR, height=size[1], width=size[0])
    for end in range(len(file) - 40, len(file) - 2):
        with pytest.raises(InvalidRequest, match="the picture is damaged"):
            read_picture(file[:end], wide)
    for at in (at for at in range(1, len(file)) if restarts and file[at - 1 : at] == b"\xff"):
        if 0xD0 <= file[at] <= 0xD7:  # cut off before or behind a restart marker
            for end in (at - 1, at + 1):
                with pytest.raises(InvalidRequest, match="the picture is damaged"):
                    read_picture(file[:end], wide)


def test_of_a_jpeg_in_several_scans_none_may_be_missing() -> None:
    for file in (in_three_scans(scene()), encoded(scene(), "JPEG", progressive=True)):
        for end in (len(file) - 2, file.rindex(b"\xff\xda")):
            with pytest.raises(InvalidRequest, match="the picture is damaged"):
                read_picture(file[:end], COLOUR)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_half_a_picture_is_refused(kind: str) -> None:
    file = encoded(scene(), kind)
    with pytest.raises(InvalidRequest, match="the picture is damaged"):
        read_picture(file[: len(file) // 2], COLOUR)


@pytest.mark.parametrize(("make", "most"), [(png_of_size, 50_000_000), (webp_of_size, 25_000_000)])
def test_a_bomb_is_refused_by_its_header(make: Any, most: int) -> None:
    with pytest.raises(InvalidRequest, match=f"16000 x 16000 pixels, most are {most}"):
        read_picture(make(16000, 16000), COLOUR)


def with_scans(file: bytes, more: int) -> bytes:
    """A progressive JPEG whose last scan stands there some more times."""
    last = file.rindex(b"\xff\xda")
    return file[:-2] + file[last:-2] * more + b"\xff\xd9"


def test_a_jpeg_of_more_scans_than_an_encoder_writes_is_refused_before_it_is_decoded() -> None:
    small, large = (encoded(one, "JPEG", progressive=True) for one in (scene(64, 64), scene()))
    with pytest.raises(InvalidRequest, match="has 3010 scans, most are 100 of 64 x 64 pixels"):
        read_picture(with_scans(small, 3000), COLOUR)
    pixels = 1024 * 768
    assert read_picture(with_scans(large, 10), COLOUR, pixels).shape == (8, 8, 3)
    with pytest.raises(InvalidRequest, match="has 21 scans, most are 20 of 1024 x 768 pixels"):
        read_picture(with_scans(large, 11), COLOUR, pixels)


def test_a_file_of_nothing_but_chunks_or_markers_is_refused() -> None:
    chunk = bytes(4) + b"abCd" + struct.pack(">I", zlib.crc32(b"abCd"))
    for file in (
        encoded(picture_of(ramp()))[:33] + chunk * 60_000,
        b"\xff\xd8" + b"\xff\xfe\0\2" * 120_000,
    ):
        with pytest.raises(InvalidRequest, match="more than 100000 steps"):
            read_picture(file, COLOUR)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_picture_that_nobody_waits_for_is_given_up_on_the_way(kind: str) -> None:
    file, asked = encoded(scene(), kind, progressive=True), iter(range(1000))
    with pytest.raises(Stopping):
        read_picture(file, COLOUR, stopped=lambda: next(asked) >= 8)
    assert next(asked) == 9


def test_a_decoder_that_closes_waits_for_no_picture() -> None:
    file = encoded(scene())

    async def decode() -> None:
        decoder = ImageDecoder()
        waiting = asyncio.create_task(decoder.decode([file] * 200, COLOUR, None))
        await asyncio.sleep(0)  # all of them are handed to threads
        decoder.close()
        with pytest.raises(Stopping):
            await waiting

    asyncio.run(decode())


@pytest.mark.parametrize(
    ("kind", "width", "height"),
    [
        ("VP8X", 1 + 0x030201, 1 + 0x070605),
        ("VP8X", 1 << 24, 1),
        ("VP8L", 1 + 0x2A53, 1 + 0x15AC),
        ("VP8L", 1 + 0x15AC, 1 + 0x2A53),
        ("VP8L", 1 << 14, 1),
        ("VP8 ", 0x2A53, 0x15AC),
        ("VP8 ", 0x15AC, 0x2A53),
    ],
)
def test_every_header_of_webp_is_asked_for_the_size(kind: str, width: int, height: int) -> None:
    with pytest.raises(InvalidRequest, match=f"has {width} x {height} pixels, most are 1$"):
        read_picture(webp_of_size(width, height, kind), COLOUR, max_pixels=2)


def test_a_webp_that_begins_with_another_chunk_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="damaged"):
        read_picture(webp_of_size(8, 8).replace(b"VP8X", b"ALPH"), COLOUR)


@pytest.mark.parametrize(
    ("side", "decoded", "by"), [(2048, 256, 8), (2040, 510, 4), (1024, 256, 4), (512, 256, 2)]
)
def test_a_jpeg_is_decoded_at_four_times_the_input_s_size_at_least_and_counts_as_that(
    side: int, decoded: int, by: int
) -> None:
    file = encoded(Image.new("RGB", (side, side)), "JPEG")
    wanted = replace(COLOUR, height=64, width=64)
    read_picture(file, wanted, max_pixels=decoded**2)
    told = f"has {decoded} x {decoded} pixels at 1/{by} of its size, most are {decoded**2 - 1}"
    with pytest.raises(InvalidRequest, match=told):
        read_picture(file, wanted, max_pixels=decoded**2 - 1)


def test_a_small_jpeg_is_decoded_whole() -> None:
    file, wanted = (
        encoded(Image.new("RGB", (511, 511)), "JPEG"),
        replace(COLOUR, height=64, width=64),
    )
    with pytest.raises(InvalidRequest, match="has 511 x 511 pixels, most are 261120"):
        read_picture(file, wanted, max_pixels=261120)


@pytest.mark.parametrize("framing", [IMAGENET, WHOLE, ON_CANVAS])
def test_a_jpeg_that_is_decoded_reduced_shows_the_same(framing: Framing) -> None:
    """Its sides are no multiples of 8, and no part of it moves: all is within 3 of 255 levels."""
    picture = scene(1021, 765)
    wanted = replace(COLOUR, height=40, width=60, framing=framing)
    jpeg = encoded(picture, "JPEG", quality=98)
    whole = encoded(Image.open(io.BytesIO(jpeg)))
    reads = [read_picture(file, wanted).astype(int) for file in (jpeg, whole)]
    assert 0 < np.abs(reads[0] - reads[1]).max() <= 3


@pytest.mark.parametrize("make", [in_three_scans, lambda it: encoded(it, "JPEG", progressive=True)])
def test_a_jpeg_in_several_scans_counts_whole_since_all_of_it_is_held(make: Any) -> None:
    file, wanted = make(scene()), replace(COLOUR, height=64, width=64)
    upright = read_picture(encoded(scene(), "JPEG", quality=95), wanted).astype(int)
    assert np.abs(read_picture(file, wanted) - upright).max() <= 12
    with pytest.raises(InvalidRequest, match="1024 x 768 pixels, most are 786431"):
        read_picture(file, wanted, max_pixels=1024 * 768 - 1)


def test_a_picture_of_one_row_is_read() -> None:
    thread = encoded(picture_of(np.full((1, 60_000, 3), 9, np.uint8)))
    read = read_picture(thread, PictureInput(3, 224, 224, "HWC", "UINT8", IMAGENET))
    assert (read == 9).all()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_other_formats_are_refused_though_pillow_reads_them(kind: str) -> None:
    with pytest.raises(InvalidRequest, match="expected a file of format JPEG, PNG, WEBP, got one"):
        read_picture(encoded(picture_of(ramp()), kind), COLOUR)


@pytest.mark.parametrize("file", [b"", b"\x00" * 100, b"RIFF", b"RIFF\0\0\0\0WEBPVP8X" + bytes(40)])
def test_bytes_that_are_no_picture_are_refused(file: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read_picture(file, COLOUR)


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
                assert read_picture(damaged, COLOUR).shape == (8, 8, 3)
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
    first = encoded(picture_of(ramp(*size)), exif=exif(orientation))
    flexible = replace(COLOUR, most=(24, 32))

    async def decode() -> NDArray[Any]:
        return await ImageDecoder().decode([first, encoded(picture_of(ramp()))], flexible, None)

    assert asyncio.run(decode()).shape == (2, *expected, 3)


def stacked(row: Image.Image, count: int) -> bytes:
    """A baseline JPEG of one row of blocks, `count` times over, with restart markers between."""
    one = encoded(row, "JPEG", quality=90, restart_marker_rows=1)
    frame, scan = one.index(b"\xff\xc0"), one.index(b"\xff\xda")
    height = (row.height * count).to_bytes(2, "big")
    header = one[: frame + 5] + height + one[frame + 7 : scan + 14]
    coded = one[scan + 14 : -2]
    marked = b"".join(coded + bytes([0xFF, 0xD0 + at % 8]) for at in range(count - 1))
    return header + marked + coded + b"\xff\xd9"


MEMORY_OF_ONE = """
import sys
from pathlib import Path
from nyquist.server.wire.framing import PictureInput
from nyquist.server.wire.pictures import read_picture
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
file = Path(sys.argv[1]).read_bytes()
wanted = PictureInput(3, 224, 224, "HWC", "UINT8")
before = peak()
picture = read_picture(file, wanted)
print(peak() - before, *picture[::8, ::8].mean(axis=(0, 1)).round().astype(int))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells the peak there")
def test_a_photograph_of_108_megapixels_takes_the_memory_of_a_small_one(tmp_path: Path) -> None:
    """Decoded whole it would take 432 MB; at 1/8 it takes 7."""
    noise = np.random.default_rng(0).integers(-20, 20, (16, 12_000, 3))
    row = picture_of(np.add(noise, (200, 100, 50)).astype(np.uint8))
    (tmp_path / "phone.jpg").write_bytes(stacked(row, 9_008 // 16))
    with pytest.warns(Image.DecompressionBombWarning, match="108096000 pixels"):
        Image.open(tmp_path / "phone.jpg").close()
    code = [sys.executable, "-c", MEMORY_OF_ONE, str(tmp_path / "phone.jpg")]
    done = subprocess.run(code, check=True, capture_output=True, text=True, timeout=120)
    grown, *colour = map(int, done.stdout.split())
    assert grown < 32 * 2**20
    assert np.abs(np.array(colour) - (200, 100, 50)).max() <= 3
