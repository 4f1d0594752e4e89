"""A network behind a choice of what it sees, which moves with the picture: the torch reference.

pixels -> whole numbers -> difference of boxes -> first highest place -> crop or roll -> network

A strided network answers differently on each of its sampling grids. A choice that moves as the
picture does puts every picture onto the same grid, with no training: canonicalisation (Kaba et al.,
"Equivariance with Learned Canonicalization Functions", 2023), as adaptive polyphase sampling does
it with the maps inside a network (Chaman and Dokmanic, "Truly Shift-Invariant Convolutional Neural
Networks", 2021) and Shifman and Weiss, "Lost in Translation", 2024, with crops of the picture.

Scores are whole numbers below 2**24, so that float32 adds them exactly, in any order and on any
device, and of equal ones the first counts: two runtimes cannot choose differently.
"""

import torch
from torch import Tensor, nn

from nyquist.models.spec import Layout, ModelSpec, Stabilisation

LEVELS = 255
"""Pictures of floats are scored by their nearest of as many steps of 0..1."""


class StabilisedNetwork(nn.Module):
    """A network that takes pictures as clients send them, and chooses what it looks at.

    Crop and average take (B, C, H + period, W + period), circular (B, C, H, W); or HWC likewise.

    Args:
        network: takes pictures in the layout, without the period more; gives its answer, (B, n).
        stabilisation: what is chosen.
        layout: of the pictures.
    """

    def __init__(self, network: nn.Module, stabilisation: Stabilisation, layout: Layout) -> None:
        super().__init__()
        self.network, self.stabilisation, self.layout = network, stabilisation, layout

    def forward(self, image: Tensor) -> Tensor:
        given = self.stabilisation
        maps = image if self.layout == "CHW" else image.permute(0, 3, 1, 2)
        if given.kind == "average":
            views = [_window(maps, corner, given.margin) for corner in given.corners]
            return torch.stack([self._answer(view) for view in views]).mean(dim=0)
        placed = zip(maps, chosen_places(maps, given), strict=True)
        if given.kind == "crop":
            period = given.period
            corners = ((one, (row % period, column % period)) for one, (row, column) in placed)
            seen = [_window(one, corner, given.margin) for one, corner in corners]
        else:
            middle = maps.shape[2] // 2, maps.shape[3] // 2
            seen = [
                one.roll((middle[0] - row, middle[1] - column), (1, 2))
                for one, (row, column) in placed
            ]
        return self._answer(torch.stack(seen))

    def _answer(self, maps: Tensor) -> Tensor:
        seen = maps if self.layout == "CHW" else maps.permute(0, 2, 3, 1)
        answer: Tensor = self.network(seen.contiguous())
        return answer


def chosen_places(maps: Tensor, stabilisation: Stabilisation) -> list[tuple[int, int]]:
    """Return the place that each picture chooses, row and column of its score. (B, C, H, W)."""
    small, large = stabilisation.boxes
    grey = whole_numbers(maps).sum(dim=1)  # int64 (B, H, W)
    if stabilisation.kind == "circular":
        grey = torch.cat([grey, grey[:, : large - 1]], dim=1)
        grey = torch.cat([grey, grey[:, :, : large - 1]], dim=2)
    inside = (large - small) // 2
    wide = box_sums(grey, large)
    _, rows, columns = wide.shape
    narrow = box_sums(grey, small)[:, inside : inside + rows, inside : inside + columns]
    score = (large // small) ** 2 * narrow - wide
    first = [int((each == each.max()).flatten().nonzero()[0]) for each in score]
    return [divmod(at, columns) for at in first]


def plain_pictures(images: Tensor, spec: ModelSpec) -> Tensor:
    """Return the middle of served pictures, as the network without stabilisation takes them."""
    if spec.stabilisation is None:
        return images
    margin = spec.stabilisation.margin
    for axis, size in zip(spec.preprocessing.shift_axes, spec.input[1:], strict=True):
        images = images.narrow(axis, margin // 2, size)
    return images.contiguous()


def whole_numbers(maps: Tensor) -> Tensor:
    """Return bytes as they are, and floats of 0..1 as the nearest of 255 steps, int64."""
    if not maps.is_floating_point():
        return maps.long()
    return (maps * LEVELS).round().clamp(0, LEVELS).long()


def box_sums(grey: Tensor, side: int) -> Tensor:
    """Add up every square of a side. int64 (B, H, W) -> (B, H - side + 1, W - side + 1)."""
    return grey.unfold(1, side, 1).sum(dim=-1).unfold(2, side, 1).sum(dim=-1)


def _window(maps: Tensor, corner: tuple[int, int], margin: int) -> Tensor:
    """Cut out of (..., H, W) what is smaller by the margin, from a corner on."""
    height, width = (size - margin for size in maps.shape[-2:])
    row, column = corner
    return maps[..., row : row + height, column : column + width]
