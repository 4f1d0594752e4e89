"""A slide as an animated picture: what the network sees, and beside it what each model answers.

wish, file -> a run of the lab -> a frame for each position -> GIF
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nyquist.companion.page.lab.moves import Moved, Stopped, read_moved
from nyquist.companion.page.lab.run import Run
from nyquist.companion.page.lab.served import Models
from nyquist.companion.page.lab.wishes import Wish
from nyquist.server.wire.errors import InvalidRequest

COLOURS = ("#0072b2", "#b85000", "#007a58", "#a0467a", "#766a00", "#6b3fa0", "#5b6570")
"""Of the answers, in the order in which they come; those of lab.css in a light theme."""

GROUND, TEXT, QUIET, TRACK, INK = "#ffffff", "#1b1f24", "#5b6570", "#e9ecf0", "#ffffff"
FRAME_MS = 450
PICTURE, MARGIN, COLUMN, ROW = 224, 16, 340, 84
"""Pixels: side of the picture, what is around it, width of the answers, height of a model's."""


@dataclass(frozen=True)
class Line:
    """What one model answers along the slide.

    Attributes:
        name: of the model.
        answers: at each position, by name.
        shares: the probability of the highest class at each.
    """

    name: str
    answers: Sequence[str]
    shares: Sequence[float]


def animate(models: Models, wish: Wish, file: bytes, stopped: Stopped) -> bytes:
    """Ask the models along a path and return the slide as GIF; of a map its diagonal.

    Raises:
        InvalidRequest: the wish has several pictures, or cannot be fulfilled; as the run says it.
        Stopping: nobody waits any more.
    """
    if len(wish.pictures) != 1:
        raise InvalidRequest(f"an animation is of 1 picture, got {len(wish.pictures)}")
    path = "diagonal" if wish.path == "map" else wish.path
    wish = Wish.model_validate(wish.model_dump() | {"path": path})
    told: list[list[Any]] = [[] for _ in wish.models]
    for event in Run(models, wish, [file], stopped).events():
        if event["kind"] == "error":
            raise InvalidRequest(event["message"])
        if event["kind"] == "answers":
            told[event["model"]] += event["answers"]
    subjects = [models.find(one) for one in wish.models]
    moved = read_moved(file, subjects[0].wanted, wish, stopped)
    lines = [
        Line(
            subject.remote.name,
            [one["answer"] for one in answers],
            [float(one["top"][0][1]) for one in answers],
        )
        for subject, answers in zip(subjects, told, strict=True)
    ]
    return as_gif(drawn(moved, lines))


def drawn(moved: Moved, lines: Sequence[Line]) -> list[Image.Image]:
    """Draw a frame for each position."""
    names = list(dict.fromkeys(name for line in lines for name in line.answers))
    colours = {name: COLOURS[min(at, len(COLOURS) - 1)] for at, name in enumerate(names)}
    height = 2 * MARGIN + max(PICTURE + 24, ROW * len(lines))
    frames = []
    for at, place in enumerate(moved.offsets):
        frame = Image.new("RGB", (PICTURE + COLUMN + 3 * MARGIN, height), GROUND)
        pen = ImageDraw.Draw(frame)
        frame.paste(_enlarged(moved.image(moved.at(place[None])[0])), (MARGIN, MARGIN))
        words = f"{np.abs(place).max():g} px"
        pen.text((MARGIN, MARGIN + PICTURE + 6), words, QUIET, _font(15))
        for row, line in enumerate(lines):
            _draw_line(pen, line, at, MARGIN + ROW * row, colours)
        frames.append(frame)
    return frames


def _draw_line(
    pen: ImageDraw.ImageDraw, line: Line, at: int, top: int, colours: dict[str, str]
) -> None:
    left, width = PICTURE + 2 * MARGIN, COLUMN
    flips = sum(a != b for a, b in zip(line.answers[:at], line.answers[1 : at + 1], strict=True))
    pen.text((left, top), line.name, QUIET, _font(14))
    pen.text(
        (left + width, top),
        f"{flips} flip{'s' * (flips != 1)}",
        TEXT if flips else QUIET,
        _font(14),
        anchor="ra",
    )
    colour = colours[line.answers[at]]
    pen.text((left, top + 18), line.answers[at], colour, _font(22))
    pen.text((left + width, top + 24), f"{line.shares[at]:.2f}", QUIET, _font(14), anchor="ra")
    step = width / len(line.answers)
    for position, answer in enumerate(line.answers):
        box = (left + step * position, top + 50, left + step * (position + 1) - 1, top + 68)
        pen.rectangle(box, fill=colours[answer] if position <= at else TRACK)
        if position <= at:
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            pen.text(middle, _letter(answer, colours), INK, _font(11), anchor="mm")


def _letter(answer: str, colours: dict[str, str]) -> str:
    return chr(ord("A") + list(colours).index(answer) % 26)


def _enlarged(picture: Image.Image) -> Image.Image:
    """Return a picture at the size of the frame: small ones by whole pixels, as they are."""
    scale = PICTURE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    how = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, how)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def as_gif(frames: Sequence[Image.Image]) -> bytes:
    """Return frames as a GIF that goes on and on, all of them in the colours of the whole."""
    side = np.concatenate([np.asarray(frame) for frame in frames])
    palette = Image.fromarray(side).quantize(256, Image.Quantize.MEDIANCUT)
    first, *others = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    stream = io.BytesIO()
    first.save(
        stream, "GIF", save_all=True, append_images=others, duration=FRAME_MS, loop=0, optimize=True
    )
    return stream.getvalue()
