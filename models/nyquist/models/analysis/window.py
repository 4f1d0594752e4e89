"""The window through which a layer reads one axis of its input, and the output size it gives.

>>> window = Window(kernel=3, stride=2, pad_before=1, pad_after=1)
>>> window.output_size(8), reads(window, 8).tolist()
(4, [1, 2, 1, 2, 1, 2, 1, 1])
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Output i reads the inputs i * stride - pad_before + dilation * (0, 1, ..., kernel - 1).

    Attributes:
        kernel: samples read, at least 1.
        stride: distance between two windows, in inputs, at least 1.
        pad_before: samples put in front of the axis; negative where it is cut.
        pad_after: samples put behind it, likewise.
        dilation: distance between two samples of one window, at least 1.
        ceil_mode: whether a last window that is only partly filled counts; one that starts in the
            padding behind never does (torch's rule for pooling).

    Raises:
        ValueError: kernel, stride or dilation is below 1.
    """

    kernel: int
    stride: int = 1
    pad_before: int = 0
    pad_after: int = 0
    dilation: int = 1
    ceil_mode: bool = False

    def __post_init__(self) -> None:
        for name in ("kernel", "stride", "dilation"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def span(self) -> int:
        """Inputs from the first to the last sample of one window: dilation * (kernel - 1) + 1."""
        return self.dilation * (self.kernel - 1) + 1

    def output_size(self, size: int) -> int:
        """Return floor((size + pads - dilation * (kernel - 1) - 1) / stride) + 1, or with ceil.

        Raises:
            ValueError: the window is longer than the padded axis.
        """
        room = size + self.pad_before + self.pad_after - self.span
        if room < 0:
            raise ValueError(
                f"a window of {self.span} needs an axis of at least {size - room} with these pads, "
                f"got {size}"
            )
        if not self.ceil_mode:
            return room // self.stride + 1
        count = -(-room // self.stride) + 1
        starts_behind = (count - 1) * self.stride >= size + self.pad_before
        return count - 1 if starts_behind else count


def reads(window: Window, size: int) -> Tensor:
    """Count how many windows read each input of an axis. -> int64 (size,).

    Uniform inside only where the stride divides the kernel (or, dilated, where the taps fall evenly
    on the residues of the stride): 3/2/1 gives 1, 2, 1, 2, ..., a checkerboard of 1:2:4 in a map.

    Raises:
        ValueError: the window is longer than the padded axis.
    """
    starts = torch.arange(window.output_size(size)) * window.stride - window.pad_before
    taps = torch.arange(window.kernel) * window.dilation
    positions = (starts[:, None] + taps).flatten()  # (outputs * kernel,)
    inside = positions[(positions >= 0) & (positions < size)]
    return torch.bincount(inside, minlength=size)


def unread_share(window: Window, height: int, width: int) -> float:
    """Return the share, 0..1, of the inputs of a map that no output reads.

    Raises:
        ValueError: the window is longer than a padded axis.
    """
    read_rows = int((reads(window, height) > 0).sum())
    read_columns = int((reads(window, width) > 0).sum())
    return 1 - read_rows * read_columns / (height * width)


def grid_offset(window: Window, size: int) -> float:
    """Return how far the middle of the output grid lies from the middle of the input, in inputs.

    Negative is up or left. It is 0, exact centring, where the windows touch both ends alike: with
    symmetric pads and stride 2, for an even kernel on an even axis and an odd one on an odd axis.

    Raises:
        ValueError: the window is longer than the padded axis.
    """
    first = (window.span - 1) / 2 - window.pad_before
    return first + (window.output_size(size) - 1) * window.stride / 2 - (size - 1) / 2


COMMON_WINDOWS: dict[str, Window] = {
    "1x1 s2": Window(1, stride=2),
    "2x2 s2": Window(2, stride=2),
    "3x3 s1 p1": Window(3, pad_before=1, pad_after=1),
    "3x3 s2 p0": Window(3, stride=2),
    "3x3 s2 p1": Window(3, stride=2, pad_before=1, pad_after=1),
    "4x4 s2 p1": Window(4, stride=2, pad_before=1, pad_after=1),
    "7x7 s2 p3": Window(7, stride=2, pad_before=3, pad_after=3),
    "3x3 s4 p1": Window(3, stride=4, pad_before=1, pad_after=1),
    "4x4 s4": Window(4, stride=4),
    "16x16 s16": Window(16, stride=16),
}
"""The configurations of the field by kernel, stride and padding, the same on both axes."""
