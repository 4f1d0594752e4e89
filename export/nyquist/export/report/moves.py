"""What a stabilised model answers where the plain one flickers: each protocol on both.

scenes -> frames at random places, and each moved, resampled or disturbed -> flips of both -> Moves
"""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import process_time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nyquist.companion.measures.parity import Predict
from nyquist.companion.measures.shift_consistency import consistency_of, evaluate
from nyquist.companion.measures.shifts import (
    Offsets,
    Pictures,
    crop_at,
    grid,
    shift_fractionally,
)
from nyquist.export.report.record import Flips, MoveLine, Moves
from nyquist.models.spec import Layout

REACH = 32
"""Places of a frame in its scene, along both axes."""
SURE = 0.8
"""A probability of the plain answer from which on it counts as sure."""
QUALITY = 90
WHITE = 255
TIMED = 12
SEED = 20_261_128


@dataclass(frozen=True)
class Scenes:
    """Pictures that frames are taken out of, and the two models that answer.

    Attributes:
        pictures: larger than what is served by REACH, bytes or floats of 0..1, (N, ...).
        owners: which photograph each is a part of, (N,); parts of one are not independent.
        plain: answers to the middle of a frame.
        stable: answers to the frame.
        middle: cuts it out of frames.
        layout: of the pictures.
        batch: pictures asked at once.
        places: frames of each picture.
    """

    pictures: Pictures
    owners: NDArray[np.intp]
    plain: Predict
    stable: Predict
    middle: Callable[[Pictures], Pictures]
    layout: Layout
    batch: int
    places: int

    @property
    def axes(self) -> tuple[int, int]:
        """Of height and width in a batch."""
        return (2, 3) if self.layout == "CHW" else (1, 2)

    def frames(self, pictures: Pictures, corners: Offsets) -> Pictures:
        """Cut a frame out of each scene."""
        size = (
            pictures.shape[self.axes[0]] - REACH,
            pictures.shape[self.axes[1]] - REACH,
        )
        return crop_at(pictures, corners, self.axes, size)


def measure_moves(scenes: Scenes) -> Moves:
    """Ask both models for the same frames, and for each after every protocol."""
    every = np.repeat(scenes.pictures, scenes.places, axis=0)
    owners = np.repeat(scenes.owners, scenes.places)
    generator = np.random.default_rng(SEED)
    corners = generator.integers(1, REACH, (len(every), 2))
    frames = scenes.frames(every, corners)
    plain, stable = _logits(scenes, frames)
    unmoved = plain.argmax(axis=1), stable.argmax(axis=1)
    lines = []
    for name, how, moved in _protocols(scenes, every, corners, frames, generator):
        answers = (logits.argmax(axis=1) for logits in _logits(scenes, moved))
        flips = (
            _flips(before != after, owners) for before, after in zip(unmoved, answers, strict=True)
        )
        lines.append(MoveLine(name=name, how=how, pairs=len(frames), **_named(flips)))
    same = unmoved[0] == unmoved[1]
    sure = _highest_probability(plain) >= SURE
    return Moves(
        photographs=len(np.unique(owners)),
        lines=tuple(lines),
        agreement=_flips(same, owners),
        pairs=len(same),
        sure_agreement=_flips(same[sure], owners[sure]),
        sure_pairs=int(sure.sum()),
        cpu_ratio=cpu_ratio(scenes, frames[:1]),
    )


def cpu_ratio(scenes: Scenes, frame: Pictures) -> float:
    """Return how much more processor time a stabilised answer takes, in turn with a plain one."""
    middle = scenes.middle(frame)
    spent = np.zeros((TIMED, 2))
    for turn in range(TIMED):
        for column, (predict, picture) in enumerate(
            ((scenes.plain, middle), (scenes.stable, frame))
        ):
            start = process_time()
            predict(picture)
            spent[turn, column] = process_time() - start
    plain, stable = np.median(spent, axis=0)
    return float(stable / plain)


def _protocols(
    scenes: Scenes,
    every: Pictures,
    corners: Offsets,
    frames: Pictures,
    generator: np.random.Generator,
) -> Iterator[tuple[str, str, Pictures]]:
    steps = grid((-1, 0, 1), (-1, 0, 1))[[1, 3, 5, 7]]  # up, left, right, down
    beside = corners + steps[generator.integers(0, len(steps), len(corners))]
    yield "one pixel", "frames one pixel apart in a larger picture", scenes.frames(every, beside)
    elsewhere = generator.integers(0, REACH, corners.shape)
    how = f"frames at two places of a larger picture, 0..{REACH - 1}"
    yield "crops", how, scenes.frames(every, elsewhere)
    between = np.repeat(_half_a_pixel_on(scenes), scenes.places, axis=0)
    how = "the larger picture resampled half a pixel further along both axes"
    yield "half a pixel", how, scenes.frames(between, corners)
    levels = generator.integers(-1, 2, frames.shape)
    yield (
        "noise of one level",
        "each value one of 255 steps up, down, or as it was",
        _changed(frames, levels),
    )
    compressed = _jpeg(frames, scenes.layout)
    if compressed is not None:
        yield f"JPEG {QUALITY}", f"compressed at quality {QUALITY} and read again", compressed


def _half_a_pixel_on(scenes: Scenes) -> Pictures:
    """Resample scenes by their Fourier transforms, mirrored at their ends so that none rings."""
    moved = []
    for picture in scenes.pictures:
        mirrored = picture[None]
        for axis in scenes.axes:
            mirrored = np.concatenate([mirrored, np.flip(mirrored, axis)], axis)
        whole = shift_fractionally(mirrored, np.array([[-0.5, -0.5]]), scenes.axes)
        size = picture.shape[scenes.axes[0] - 1], picture.shape[scenes.axes[1] - 1]
        moved.append(crop_at(whole, np.zeros((1, 2), int), scenes.axes, size))
    return np.concatenate(moved)


def _changed(frames: Pictures, levels: NDArray[np.int64]) -> Pictures:
    if frames.dtype == np.uint8:
        return (frames.astype(np.int64) + levels).clip(0, WHITE).astype(np.uint8)
    return (frames + levels.astype(frames.dtype) / WHITE).clip(0, 1)


def _jpeg(frames: Pictures, layout: Layout) -> Pictures | None:
    """Return frames as JPEG brings them back; None of those that are neither grey nor RGB."""
    maps = frames if layout == "HWC" else np.moveaxis(frames, 1, 3)
    if maps.shape[3] not in (1, 3):
        return None
    floats = frames.dtype != np.uint8
    pixels = np.rint(maps * WHITE).clip(0, WHITE).astype(np.uint8) if floats else maps
    read = np.stack([_once(picture) for picture in pixels])
    found = (read / WHITE).astype(frames.dtype) if floats else read
    return found if layout == "HWC" else np.ascontiguousarray(np.moveaxis(found, 3, 1))


def _once(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(picture.squeeze()).save(file, "JPEG", quality=QUALITY)
    return np.asarray(Image.open(file), np.uint8).reshape(picture.shape)


def _logits(scenes: Scenes, frames: Pictures) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the logits of both models, (N, C) each."""
    return (
        evaluate(scenes.plain, scenes.middle(frames), scenes.batch),
        evaluate(scenes.stable, frames, scenes.batch),
    )


def _flips(flipped: NDArray[np.bool_], owners: NDArray[np.intp]) -> Flips:
    """Count, and take the error over photographs: frames of one are not independent."""
    if not len(flipped):
        return Flips(count=0, share=0.0, standard_error=0.0)
    of_each = np.array([flipped[owners == owner].mean() for owner in np.unique(owners)])
    found = consistency_of(of_each)
    return Flips(count=int(flipped.sum()), share=found.share, standard_error=found.standard_error)


def _named(flips: Iterator[Flips]) -> dict[str, Flips]:
    return dict(zip(("plain", "stable"), flips, strict=True))


def _highest_probability(logits: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = powers.max(axis=1) / powers.sum(axis=1)
    return found
