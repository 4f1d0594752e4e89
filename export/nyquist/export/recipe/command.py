"""From a spec back to the arguments that build it again, for its manifest."""

import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from nyquist.export.recipe.flags import option_value
from nyquist.export.recipe.recipe import LIMITS, WHITE, relaxed, relaxed_limits, usual_share
from nyquist.models.spec import Limits, ModelSpec, Preprocessing
from nyquist.models.zoo import specs as zoo_specs
from nyquist.server.artifact.manifest import LABELS_FILE
from nyquist.server.wire.head import Head


def command_of(spec: ModelSpec) -> tuple[str, ...]:
    """Return the arguments of `python export/build.py` that build this one model again.

    Files and folders stand without where they lie; the labels are those of the artifact.
    """
    name = spec.name
    if spec.precision != "fp32":
        name = name.removesuffix(f"_{spec.precision}")
    precision = () if spec.precision == "fp32" else ("--precision", spec.precision)
    known = zoo_specs().get(name)
    if known is not None and relaxed(known, spec.precision) == spec:
        return ("--only", name, *precision)
    source = "--program" if spec.program else "--onnx" if spec.onnx else "--arch"
    return (source, spec.architecture, "--name", name, *_own_arguments(spec), *precision)


def _own_arguments(spec: ModelSpec) -> Iterator[str]:
    """Yield the flags, other than name and precision, that differ from their defaults."""
    yield from ("--input", "x".join(map(str, spec.input)))
    yield from _option_arguments(spec)
    files = {
        "--weights": spec.weights.name if spec.weights else "",
        "--weights-sha256": spec.weights_sha256,
        "--weights-key": spec.weights_key,
        "--labels": LABELS_FILE if spec.labels else "",
        "--samples": "" if spec.samples == "photographs" else Path(spec.samples).name,
        "--calibration": Path(spec.calibration).name,
        "--input-type": "" if spec.datatype == "FP32" else "uint8",
        **_preprocessing_arguments(spec.preprocessing, WHITE[spec.datatype]),
        **_picture_arguments(spec),
        "--stabilise": spec.stabilisation.kind if spec.stabilisation else "",
        "--sizes": ",".join("x".join(map(str, size)) for size in spec.sizes),
        "--outputs": _outputs_argument(spec),
        "--head": spec.head or "",
        "--threshold": "" if spec.threshold == Head.threshold else repr(spec.threshold),
        "--max-batch-size": "" if spec.max_batch_size == 16 else str(spec.max_batch_size),
    }
    for flag, value in files.items():
        if value:
            yield from (flag, value)
    if spec.preprocessing.resize is not None:
        yield "--resize"
    usual = relaxed_limits(Limits(), spec.precision)
    for field, limit in LIMITS.items():
        if getattr(spec.limits, limit) != getattr(usual, limit):
            yield from (f"--{field.replace('_', '-')}", f"{getattr(spec.limits, limit)!r}")


def _outputs_argument(spec: ModelSpec) -> str:
    """Write the outputs, and which of a network's tensors they are; nothing of the usual one."""
    picks = dict(spec.picks)
    names = ("logits", *spec.outputs[1:])
    written = (f"{name}={picks[name]}" if name in picks else name for name in names)
    return ",".join(written) if picks or spec.outputs[1:] else ""


def _option_arguments(spec: ModelSpec) -> Iterator[str]:
    settled = {"in_channels": spec.input[0], "num_classes": len(spec.labels)}
    if ":" in spec.architecture:
        settled = {}
    for option, value in spec.options.items():
        if option in ("downsampling", "taps"):
            yield from (f"--{option}", str(value))
        elif option not in settled or settled[option] != value:
            plain = isinstance(value, str) and option_value(value) == value
            yield from ("--option", f"{option}={value if plain else json.dumps(value)}")


def _preprocessing_arguments(preprocessing: Preprocessing, white: int) -> dict[str, str]:
    mean, scale = preprocessing.mean, preprocessing.scale
    return {
        "--mean": "" if mean == 0 else _shares(mean, white),
        "--std": "" if scale == white else _shares(scale, white),
    }


def _picture_arguments(spec: ModelSpec) -> dict[str, str]:
    picture = spec.picture
    usual = usual_share(picture.fit, spec.input[1:], spec.stabilisation)
    same_share = picture.crop_share == usual
    return {
        "--interpolation": picture.interpolation if picture.interpolation != "bicubic" else "",
        "--crop-share": "" if same_share else repr(picture.crop_share),
        "--fit": "" if picture.fit == "crop" else picture.fit,
    }


def _shares(values: float | tuple[float, ...], white: int) -> str:
    """Write values of pictures up to `white` as shares of it, exactly."""
    several = values if isinstance(values, tuple) else (values,)
    return ",".join(_share(Fraction(repr(value)) / white) for value in several)


def _share(value: Fraction) -> str:
    decimal = Decimal(value.numerator) / Decimal(value.denominator)
    return str(decimal) if Fraction(decimal) == value else str(value)
