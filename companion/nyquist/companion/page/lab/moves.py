"""A picture at any place of a run: as the model takes it, and as a browser can draw it.

file -> base, larger than the input where it is cropped -> moved inputs, phases

Half a pixel is exact: the base is shifted through its Fourier transform once for each phase, and
whole pixels are copied from there, here and in the browser alike.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nyquist.companion.measures.shifts import (
    Offsets,
    crop_at,
    shift_circularly,
    shift_fractionally,
)
from nyquist.companion.page.kit.pictures import png_uri
from nyquist.companion.page.lab.wishes import Wish
from nyquist.server.wire.framing import PictureInput
from nyquist.server.wire.pictures import read_picture, sized

MAX_PIXELS = 25_000_000
"""Of one picture file, as decoded."""

MAX_SIDE = 512
"""Of an input of open size: pictures are brought to that at most."""

MIRRORED = 8
"""Pixels mirrored around what is cropped between pixels: nothing enters there from beyond."""

Stopped = Callable[[], bool]


@dataclass(frozen=True)
class Moved:
    """One picture and the places that it is moved to.

    Attributes:
        base: that all positions are taken from: the input itself where it moves around the edge,
            what surrounds it too where it is cropped. (H, W, C) or (C, H, W).
        wanted: the input, of fixed size.
        room: pixels that the base has more than the input on each side; 0 where it moves around
            the edge.
        offsets: of the positions, pixels down and to the right, (K, 2).
        closer: how many times larger the picture is shown than the model's own reading has it.
    """

    base: NDArray[Any]
    wanted: PictureInput
    room: int
    offsets: Offsets
    closer: float = 1.0

    @property
    def axes(self) -> tuple[int, int]:
        """Axes of height and width in a batch."""
        return (1, 2) if self.wanted.layout == "HWC" else (2, 3)

    @property
    def circular(self) -> bool:
        """Whether the picture moves around the edge."""
        return not self.room

    @cached_property
    def phases(self) -> dict[tuple[float, float], NDArray[Any]]:
        """The base, moved by what is no whole pixel, for each such rest that a position has."""
        rests = np.unique(self.offsets % 1, axis=0)
        return {(float(rest[0]), float(rest[1])): self._between(rest) for rest in rests}

    def _between(self, rest: NDArray[Any]) -> NDArray[Any]:
        if not rest.any():
            return self.base
        widths = [
            (0, 0),
            *((MIRRORED * (axis in self.axes and not self.circular),) * 2 for axis in (1, 2, 3)),
        ]
        moved = shift_fractionally(
            np.pad(self.base[None], widths, "reflect"), rest[None], self.axes
        )
        inner = tuple(
            slice(low, size - low) for (low, _), size in zip(widths, moved.shape, strict=True)
        )
        kept: NDArray[Any] = moved[inner][0]
        return kept

    def at(self, places: Offsets) -> NDArray[Any]:
        """Return the inputs at some positions. (B, 2) -> (B, *input)."""
        whole = np.floor(places).astype(int)
        bases = np.stack([self.phases[float(y), float(x)] for y, x in places - whole])
        if self.circular:
            return shift_circularly(bases, whole, self.axes)
        corners = self.room - whole
        return crop_at(bases, corners, self.axes, (self.wanted.height, self.wanted.width))

    def view(self) -> dict[str, object]:
        """Return what a browser draws every position from, by whole pixels."""
        return {
            "width": self.wanted.width,
            "height": self.wanted.height,
            "circular": self.circular,
            "corner": self.room,
            "closer": round(self.closer, 3),
            "phases": {
                f"{y:g},{x:g}": png_uri(self.image(one)) for (y, x), one in self.phases.items()
            },
        }

    def image(self, values: NDArray[Any]) -> Image.Image:
        """Return an input, or a base, as a picture: 0 is black, what lies outside is clipped."""
        pixels = values.transpose(1, 2, 0) if self.wanted.layout == "CHW" else values
        if np.issubdtype(pixels.dtype, np.floating):
            pixels = (pixels.astype(np.float32) * 255).round().clip(0, 255).astype(np.uint8)
        return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def read_moved(file: bytes, wanted: PictureInput, wish: Wish, stopped: Stopped) -> Moved:
    """Read a picture for a model, and what surrounds it where a crop moves over it.

    The scale is that of the model's own reading as far as the file has so much around the crop;
    what has less is read closer, so that nothing is made up at its edges.

    Args:
        file: JPEG, PNG or WebP.
        wanted: what the model takes.
        wish: how it moves.
        stopped: whether nobody waits any more.

    Raises:
        NyquistError: as read_picture does.
    """
    if wanted.most is not None:
        bound = (min(wanted.most[0], MAX_SIDE), min(wanted.most[1], MAX_SIDE))
        wanted = sized(file, replace(wanted, most=bound), MAX_PIXELS, stopped)
    room = wish.reach if wish.move == "crop" else 0
    larger, closer = _larger(wanted, 2 * room)
    base = read_picture(file, larger, MAX_PIXELS, stopped)
    return Moved(base, wanted, room, wish.offsets(), closer)


def _larger(wanted: PictureInput, by: int) -> tuple[PictureInput, float]:
    """Return an input that is larger by so many pixels along both axes, of the same scale.

    A crop has no more than the whole file: then it is read closer, by the factor returned beside.
    """
    larger = replace(wanted, height=wanted.height + by, width=wanted.width + by)
    if wanted.framing.fit == "canvas":
        return larger, 1.0
    grown = max(larger.height / wanted.height, larger.width / wanted.width)
    share = wanted.framing.crop_share * grown
    framing = replace(wanted.framing, crop_share=min(1.0, share))
    return replace(larger, framing=framing), max(1.0, share)
