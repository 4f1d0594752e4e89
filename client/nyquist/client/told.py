"""What a caller says of a model whose server does not say it.

flags, settings -> Told. They are named as those of the build, and mean the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from nyquist.server.wire.framing import (
    IMAGENET,
    ON_CANVAS,
    Framing,
    Layout,
    PictureInput,
    picture_input,
)

INPUT_TYPES: dict[str, tuple[str, Layout]] = {"float32": ("FP32", "CHW"), "uint8": ("UINT8", "HWC")}
"""Datatype, and the usual order of the axes."""


@dataclass(frozen=True)
class Told:
    """What a caller says of a model whose server does not.

    Attributes:
        input: name of the one input.
        datatype: of the input, as the protocol spells it.
        shape: of one picture, without the batch.
        output: that is asked for; empty for the first that comes.
        max_batch_size: pictures that a request may hold; 0 where nobody says.
        picture: what a picture file becomes.
        mean: subtracted from pictures of 0..1 before they are sent; one, or one for each channel.
        std: divisor of the same, likewise.
    """

    input: str = "input"
    datatype: str = ""
    shape: tuple[int, ...] = ()
    output: str = ""
    max_batch_size: int = 0
    picture: PictureInput | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def told_by(options: Mapping[str, Any]) -> Told:
    """Return what the options of `add_model_options` say, by their names.

    Raises:
        ValueError: one is not written as it must be, or they contradict each other.
    """
    told = Told(
        input=options["input_name"] or Told.input,
        output=options["output"] or "",
        max_batch_size=options["max_batch_size"] or 0,
        mean=_shares("--mean", options["mean"], Told.mean),
        std=_shares("--std", options["std"], Told.std),
    )
    if min(told.std) == 0:
        raise ValueError("--std must be above 0")
    if options["input"] is None:
        for name in ("input_type", "layout", "interpolation", "crop_share", "fit"):
            if options[name] is not None:
                raise ValueError(f"--{name.replace('_', '-')} needs --input CxHxW")
        return told
    return _with_input(told, options)


def _with_input(told: Told, options: Mapping[str, Any]) -> Told:
    sizes = options["input"].split("x")
    if len(sizes) != 3 or not all(size.isdecimal() and int(size) for size in sizes):
        raise ValueError(f"--input is written CxHxW, such as 3x224x224, got {options['input']!r}")
    channels, height, width = map(int, sizes)
    datatype, usual = INPUT_TYPES[options["input_type"] or "float32"]
    layout: Layout = options["layout"] or usual
    shape = (height, width, channels) if layout == "HWC" else (channels, height, width)
    framing = _framing(options, ON_CANVAS if channels == 1 else IMAGENET)
    picture = picture_input(datatype, shape, shape, layout, framing)
    if picture is None:
        raise ValueError(f"--input {options['input']}: pictures have 1 or 3 channels")
    return Told(
        input=told.input,
        datatype=datatype,
        shape=shape,
        output=told.output,
        max_batch_size=told.max_batch_size,
        picture=picture,
        mean=told.mean,
        std=told.std,
    )


def _framing(options: Mapping[str, Any], usual: Framing) -> Framing:
    fit = options["fit"] or usual.fit
    kept = 1.0 if fit == "canvas" else IMAGENET.crop_share
    return Framing(
        options["interpolation"] or usual.interpolation,
        kept if options["crop_share"] is None else options["crop_share"],
        fit,
    )


def _shares(flag: str, text: str | None, usual: tuple[float, ...]) -> tuple[float, ...]:
    if text is None:
        return usual
    try:
        values = tuple(float(Fraction(part.strip())) for part in text.split(","))
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{flag} is written as numbers, such as 0.485,0.456,0.406") from None
    if len(values) not in (1, 3):
        raise ValueError(f"{flag} is one number, or one for each of 3 channels, got {len(values)}")
    if max(values) > 1 or min(values) < 0:
        fitting = ",".join(f"{value / 255:.4g}" for value in values)
        raise ValueError(f"{flag} is of pictures in 0..1, got {text}; of 0..255 it is {fitting}")
    return values
