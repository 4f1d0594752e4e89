"""Move pictures: by whole pixels around, out of the frame or within a larger one, or by fractions.

Offsets are pixels down and to the right, each picture's own, (N, 2). `axes` are those of height
and width in the batch, so that every layout will do: (2, 3) for NCHW, (1, 2) for NHWC.

>>> row = np.array([[[[1, 2, 3]]]])
>>> shift_circularly(row, np.array([[0, 1]]), (2, 3)).tolist()
[[[[3, 1, 2]]]]
"""

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pictures = NDArray[Any]
Offsets = NDArray[Any]

Shift = Callable[[Pictures, Offsets], Pictures]
"""pictures (N, ...), offsets (N, 2) -> pictures (N, ...), moved or cut out."""


def shift_circularly(pictures: Pictures, offsets: Offsets, axes: tuple[int, int]) -> Pictures:
    """Roll each picture by its own offset: what leaves on one side enters on the other.

    Args:
        pictures: (N, ...).
        offsets: whole pixels down and to the right, (N, 2).
        axes: of height and width in the batch.
    """
    inner = (axes[0] - 1, axes[1] - 1)
    moved = [
        np.roll(picture, tuple(offset), inner)
        for picture, offset in zip(pictures, offsets, strict=True)
    ]
    return np.stack(moved)


def crop_at(
    pictures: Pictures, corners: Offsets, axes: tuple[int, int], size: tuple[int, int]
) -> Pictures:
    """Cut a window out of each picture. (N, ... H, W ...) -> (N, ... *size ...).

    Moving the corner down moves what is in the window up, and lets new pixels enter.

    Args:
        pictures: larger than the window.
        corners: upper left pixel of each window, (N, 2).
        axes: of height and width in the batch.
        size: height and width of the window.

    Raises:
        ValueError: a window leaves its picture.
    """
    whole = np.array([pictures.shape[axis] for axis in axes])
    if (corners < 0).any() or (corners + np.array(size) > whole).any():
        raise ValueError(
            f"windows of {size} leave pictures of {tuple(whole.tolist())}: corners lie from (0, 0) "
            f"to {tuple((whole - size).tolist())}, got {corners.min(axis=0)} to "
            f"{corners.max(axis=0)}"
        )
    windows = []
    for picture, corner in zip(pictures, corners, strict=True):
        window = [slice(None)] * picture.ndim
        for axis, start, length in zip(axes, corner, size, strict=True):
            window[axis - 1] = slice(int(start), int(start) + length)
        windows.append(picture[tuple(window)])
    return np.stack(windows)


def shift_with_zeros(pictures: Pictures, offsets: Offsets, axes: tuple[int, int]) -> Pictures:
    """Move each picture within its frame: what leaves is lost, and zeros enter.

    Zero is that of the input, such as black: not the zero behind a normalisation in the graph.

    Args:
        pictures: (N, ...).
        offsets: whole pixels down and to the right, (N, 2).
        axes: of height and width in the batch.
    """
    margin = int(np.abs(offsets).max(initial=0))
    widths = [(margin, margin) if axis in axes else (0, 0) for axis in range(pictures.ndim)]
    size = (pictures.shape[axes[0]], pictures.shape[axes[1]])
    return crop_at(np.pad(pictures, widths), margin - offsets, axes, size)


def shift_fractionally(pictures: Pictures, offsets: Offsets, axes: tuple[int, int]) -> Pictures:
    """Shift each picture circularly by fractions of a pixel, through its Fourier transform.

    X[f] becomes X[f] exp(-2 pi i f d / L) along each axis of length L: the band-limited periodic
    signal through the pixels, read between them. Whole pixels equal `shift_circularly` but for
    rounding. At the Nyquist frequency of an even L the factor is cos(pi d), which keeps the result
    real: half a pixel removes that one frequency.

    Sharp edges ring, so values may leave the range that they had. Floats are left so: clipping is
    no shift. Integers are rounded to the nearest and clipped to what their type holds, as a client
    that sends bytes must; such a shift is undone only to about one grey level, and not where it was
    clipped.

    Args:
        pictures: (N, ...), floats or bytes; the result is of the same type.
        offsets: pixels down and to the right, fractions allowed, (N, 2).
        axes: of height and width in the batch.
    """
    moved = np.asarray(pictures, np.float64)
    for axis, distance in zip(axes, np.asarray(offsets, np.float64).T, strict=True):
        moved = _shift_along(moved, distance, axis)
    if np.issubdtype(pictures.dtype, np.integer):
        held = np.iinfo(pictures.dtype)
        moved = np.rint(moved).clip(held.min, held.max)
    return moved.astype(pictures.dtype)


def _shift_along(pictures: Pictures, distances: Offsets, axis: int) -> Pictures:
    length = pictures.shape[axis]
    lines = np.moveaxis(pictures, axis, -1)
    turns = np.multiply.outer(distances, np.fft.rfftfreq(length))  # (N, length // 2 + 1)
    phases = np.exp(-2j * np.pi * turns).reshape(len(pictures), *(1,) * (lines.ndim - 2), -1)
    # irfft drops the imaginary part at the Nyquist frequency: what is left there is cos(pi d)
    moved = np.fft.irfft(np.fft.rfft(lines) * phases, length)
    return np.moveaxis(moved, -1, axis)


def grid(down: Iterable[float], right: Iterable[float]) -> Offsets:
    """List every combination of distances down and to the right. (D), (R) -> (D * R, 2)."""
    return np.array(list(product(down, right))).reshape(-1, 2)


def diagonal(positions: int) -> Offsets:
    """List the offsets (0, 0), (1, 1), ... of a slide along the diagonal. -> (positions, 2)."""
    return np.arange(positions)[:, None].repeat(2, axis=1)
