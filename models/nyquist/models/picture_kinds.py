"""Pictures of every kind that a network may meet: real ones, noise, flat ones, the extremes."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["samples", "noise", "constant", "extreme"]
Pictures = NDArray[Any]

SAMPLES, NOISE = 6, 3
SEED = 20_260_202


def picture_kinds(pictures: Pictures, axes: tuple[int, int]) -> dict[Kind, Pictures]:
    """Return the pictures of a sweep.

    samples: up to 6 of `pictures`, at equal distances. noise: 3, uniform over the range. constant:
    black, white, grey. extreme: a checkerboard of single pixels, which is the Nyquist frequency of
    both axes; one bright pixel; the range's two ends at random; and the same of the datatype's ends
    or, in floats, one range beyond. The range is 0..255 for uint8; for floats it is 0..1, or wider
    where the pictures are.

    Args:
        pictures: (N, *shape), uint8 or floats.
        axes: of height and width in the batch.
    """
    generator = np.random.default_rng(SEED)
    chosen = np.linspace(0, len(pictures) - 1, min(SAMPLES, len(pictures))).round().astype(int)
    shape = pictures.shape[1:]
    low, high = _range(pictures)
    noise = low + (high - low) * generator.random((NOISE, *shape))
    levels = np.array([low, high, (low + high) / 2]).reshape(-1, *[1] * len(shape))
    beyond = 0.0 if pictures.dtype.kind == "u" else high - low
    coins = generator.random((2, *shape)) < 0.5
    kinds: dict[Kind, Pictures] = {
        "samples": pictures[chosen],
        "noise": noise,
        "constant": np.broadcast_to(levels, (len(levels), *shape)),
        "extreme": np.stack(
            [
                *(low + (high - low) * _board_and_pixel(shape, axes)),
                np.where(coins[0], low, high),
                np.where(coins[1], low - beyond, high + beyond),
            ]
        ),
    }
    return {kind: np.ascontiguousarray(each, pictures.dtype) for kind, each in kinds.items()}


def _range(pictures: Pictures) -> tuple[float, float]:
    if pictures.dtype.kind == "u":
        return 0.0, 255.0
    return min(0.0, float(pictures.min())), max(1.0, float(pictures.max()))


def _board_and_pixel(shape: tuple[int, ...], axes: tuple[int, int]) -> NDArray[np.float64]:
    """Return a checkerboard and a single pixel, 0 and 1 in all channels. (2, *shape)."""
    rows, columns = (np.arange(shape[axis - 1]) for axis in axes)
    maps = np.zeros((2, len(rows), len(columns)))
    maps[0] = np.add.outer(rows, columns) % 2
    maps[1, len(rows) // 2, len(columns) // 2] = 1
    (channels,) = {1, 2, 3} - {*axes}
    return np.broadcast_to(np.expand_dims(maps, channels), (2, *shape))
