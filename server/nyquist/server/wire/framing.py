"""How a picture file becomes a model's input: what artifacts say of it, and servers tell clients.

manifest.json -> PictureInput -> parameters of ModelMetadata -> PictureInput, the same again
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, cast, get_args

Interpolation = Literal["bilinear", "bicubic", "lanczos"]
Fit = Literal["crop", "canvas"]
Layout = Literal["CHW", "HWC"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
FITS: tuple[Fit, ...] = get_args(Fit)
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

CROP_SHARE = 0.875
"""224 of 256, the ImageNet convention."""
AXES = 3
"""Of one picture."""
DYNAMIC = -1
COLOURS = (1, 3)
"""Channels of inputs that take picture files: grey, RGB."""
DATATYPES = ("FP32", "FP16", "UINT8")
GREATEST_SIDE = 65535
"""Of a JPEG; what a dynamic axis may have where the server names no bounds."""


def _known(noun: str, value: object, known: tuple[str, ...]) -> object:
    if value not in known:
        raise ValueError(f"unknown {noun} {value!r}; choose from {', '.join(known)}")
    return value


@dataclass(frozen=True)
class Framing:
    """How a picture of any size is brought to the size of the input; a property of the model.

    Attributes:
        interpolation: of resizing, which is anti-aliased.
        crop_share: side of the centre crop as a share of the whole, above 0, to 1. An input of
            dynamic size gets the whole picture.
        fit: crop, of the shape of the input and as large as it can be, times crop_share; or canvas:
            the whole picture in the middle of black ground, shrunk if it is larger.

    Raises:
        ValueError: a value is unknown, or there is to be a crop of what is placed whole.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    interpolation: Interpolation = "bicubic"
    crop_share: float = CROP_SHARE
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        _known("interpolation", self.interpolation, INTERPOLATIONS)
        _known("fit", self.fit, FITS)
        if not 0 < self.crop_share <= 1:
            raise ValueError(f"crop_share must be above 0 and at most 1, got {self.crop_share}")
        if self.fit == "canvas" and self.crop_share != 1:
            raise ValueError(
                f"nothing is cut off on a canvas: crop_share must be 1, got {self.crop_share}"
            )


IMAGENET = Framing()
ON_CANVAS = Framing(crop_share=1.0, fit="canvas")
UNSTATED = Framing("bilinear", crop_share=1.0)
"""Of artifacts whose manifest does not say: what servers did before manifests could."""


@dataclass(frozen=True)
class PictureInput:
    """An input that picture files are made into.

    Attributes:
        channels: 1, grey, or 3, RGB.
        height: in pixels.
        width: in pixels.
        layout: order of the axes.
        datatype: as the protocol spells it: UINT8 takes 0..255, FP32 and FP16 0..1.
        framing: how a picture is brought to height and width.
        most: height and width up to which it may grow, where the input's axes are dynamic.
    """

    channels: int
    height: int
    width: int
    layout: Layout
    datatype: str
    framing: Framing = IMAGENET
    most: tuple[int, int] | None = None

    def grown(self, height: int, width: int) -> "PictureInput":
        """Return the input for a picture of this size: as large as that, within the bounds."""
        if self.most is None:
            return self
        return replace(
            self,
            height=min(max(height, self.height), self.most[0]),
            width=min(max(width, self.width), self.most[1]),
            framing=replace(self.framing, crop_share=1.0),
            most=None,
        )

    def parameters(self) -> dict[str, str]:
        """Return what ModelMetadata says of it beside its shape and datatype."""
        told = {
            "image_layout": self.layout,
            "image_interpolation": self.framing.interpolation,
            "image_crop_share": repr(self.framing.crop_share),
            "image_fit": self.framing.fit,
        }
        if self.most is not None:
            told["image_least_size"] = f"{self.height}x{self.width}"
            told["image_most_size"] = "x".join(map(str, self.most))
        return told


def picture_input(
    datatype: str,
    least: Sequence[int],
    most: Sequence[int],
    layout: Layout,
    framing: Framing,
) -> PictureInput | None:
    """Return how an input takes picture files; None if it is no picture.

    Args:
        datatype: as the protocol spells it.
        least: smallest size of each axis, without the batch.
        most: greatest, likewise.
        layout: order of the axes.
        framing: of its model.
    """
    if len(least) != AXES or datatype not in DATATYPES:
        return None
    if layout == "HWC":
        least, most = (least[2], *least[:2]), (most[2], *most[:2])
    channels, height, width = least
    if channels != most[0] or channels not in COLOURS:
        return None
    bounds = None if (height, width) == tuple(most[1:]) else (most[1], most[2])
    return PictureInput(channels, height, width, layout, datatype, framing, bounds)


def told_picture_input(
    datatype: str, shape: Sequence[int], told: Mapping[str, str]
) -> PictureInput | None:
    """Return how a server's model takes picture files; None if its input is no picture.

    A server that says nothing gets the ImageNet convention for colours, and for grey a canvas; the
    axis of the channels is the one that could be.

    Args:
        datatype: of the input, as ModelMetadata has it.
        shape: likewise, without the batch; -1 is dynamic.
        told: texts of its parameters.

    Raises:
        ValueError: a parameter is none of those that `PictureInput.parameters` writes.
    """
    if len(shape) != AXES:
        return None
    likely = "HWC" if shape[-1] in COLOURS else "CHW"
    layout = cast("Layout", _known("layout", told.get("image_layout", likely), LAYOUTS))
    framing = ON_CANVAS if (shape[-1] if layout == "HWC" else shape[0]) == 1 else IMAGENET
    if "image_fit" in told:
        framing = Framing(
            cast("Interpolation", told.get("image_interpolation")),
            float(told.get("image_crop_share", "nan")),
            cast("Fit", told["image_fit"]),
        )
    least, most = (
        _filled(shape, layout, told.get(f"image_{bound}_size", f"{side}x{side}"))
        for bound, side in (("least", 1), ("most", GREATEST_SIDE))
    )
    return picture_input(datatype, least, most, layout, framing)


def _filled(shape: Sequence[int], layout: Layout, size: str) -> tuple[int, ...]:
    """Return a shape with a size, height x width, in place of its dynamic axes."""
    sides = tuple(int(side) for side in size.split("x") if side.isdecimal())
    if len(sides) != AXES - 1:
        raise ValueError(f"a size is written HEIGHTxWIDTH, got {size!r}")
    full = (*sides, DYNAMIC) if layout == "HWC" else (DYNAMIC, *sides)
    return tuple(b if a == DYNAMIC else a for a, b in zip(shape, full, strict=True))
