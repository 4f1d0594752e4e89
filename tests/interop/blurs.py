"""Blurs of timm, kornia and antialiased-cnns through stride_aliasing, beside twins made by hand.

A twin is the same filter over the same padding at stride 1. Each package is looked at if it can be
imported: timm and its torchvision from .venvs/third-party, kornia from PyPI (--no-deps).

    PYTHONPATH=.:PACKAGES python -m tests.interop.blurs
"""

from collections.abc import Iterator
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor, nn

from nyquist.models.analysis import energy_above, stride_aliasing
from nyquist.models.analysis.output import FigureTable, figure
from nyquist.models.layers.blur import blur_kernel

NOISE = torch.randn(4, 16, 64, 64, generator=torch.Generator().manual_seed(0))


def blurs() -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Yield each blur that can be imported with what its twin gives."""
    if find_spec("antialiased_cnns"):
        import antialiased_cnns

        for taps in (2, 3, 4, 5):
            blur = antialiased_cnns.BlurPool(16, filt_size=taps, stride=2)
            yield f"antialiased-cnns {taps}", blur, F.conv2d(blur.pad(NOISE), blur.filt, groups=16)
    if find_spec("timm"):
        from timm.layers import BlurPool2d

        from tests.interop import third_party  # noqa: F401 # declares torchvision's operators

        for taps in (3, 5):
            blur = BlurPool2d(16, filt_size=taps, stride=2)
            padded = F.pad(NOISE, blur.padding, mode="reflect")
            yield f"timm {taps}", blur, dense_blur(padded, taps, 0)
    if find_spec("kornia"):
        from kornia.filters import BlurPool2D, MaxBlurPool2D

        for taps in (3, 5):
            yield f"kornia {taps}", BlurPool2D(taps), dense_blur(NOISE, taps, taps // 2)
        yield "kornia max 3", MaxBlurPool2D(3), dense_blur(F.max_pool2d(NOISE, 2, 1), 3, 1)


def dense_blur(x: Tensor, taps: int, padding: int) -> Tensor:
    """Blur at stride 1 with zeros around."""
    kernel = blur_kernel(taps).expand(x.shape[1], 1, taps, taps)
    return F.conv2d(x, kernel, None, 1, padding, 1, x.shape[1])


def main() -> None:
    """Print a row for each blur: what is measured, what its twin has, and their difference."""
    table = FigureTable(
        "Energy above the limit of stride 2", "blur", "sampled", "twin", "differ by"
    )
    for name, blur, twin in blurs():
        (line,) = stride_aliasing(blur, NOISE)
        expected = energy_above(twin, 2)
        if line.sampled is None:
            raise SystemExit(f"{name} cannot be told")
        difference = figure(abs(line.sampled - expected), ".1e")
        table.add(name, figure(line.sampled, ".6f"), figure(expected, ".6f"), difference)
    Console().print(table)


if __name__ == "__main__":
    main()
