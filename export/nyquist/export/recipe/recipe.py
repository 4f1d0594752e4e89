"""What a person asks for, checked, as specs. Read without torch: a mistake is told at once.

fields of the command line or of a file -> Recipe -> what contradicts -> ModelSpec, one or many
"""

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from nyquist.models.choices import (
    DOWNSAMPLING_KINDS,
    SOURCES,
    DownsamplingKind,
    check_architecture,
    nearest,
    option_problems,
)
from nyquist.models.pictures import find_pictures
from nyquist.models.spec import (
    OUTPUTS,
    PRECISIONS,
    STABILISERS,
    Datatype,
    Limits,
    ModelSpec,
    Option,
    Output,
    Pick,
    Precision,
    Preprocessing,
    Size,
    Stabilisation,
    Stabiliser,
)
from nyquist.server.wire.framing import (
    FITS,
    IMAGENET,
    INTERPOLATIONS,
    ON_CANVAS,
    Fit,
    Framing,
    Interpolation,
)
from nyquist.server.wire.head import KINDS, Head, HeadKind

DATATYPES: Mapping[str, Datatype] = {"float32": "FP32", "uint8": "UINT8"}
WHITE = {"FP32": 1, "UINT8": 255}
FAMILY = "{downsampling}"

LIMITS = {
    "parity": "parity",
    "agreement": "agreement",
    "least_accuracy": "accuracy",
    "accuracy_drop": "accuracy_drop",
    "least_confidence": "confidence",
    "least_consistency": "consistency",
    "consistency_drop": "consistency_drop",
}
"""Field of a recipe -> the limit that it sets."""

_PRECISION_LIMITS: Mapping[Precision, Limits] = {
    "fp16": Limits(
        parity=0.1, agreement=0.98, accuracy_drop=0.005, confidence=0.8, consistency_drop=0.005
    ),
    "int8": Limits(
        parity=2.0, agreement=0.85, accuracy_drop=0.02, confidence=0.5, consistency_drop=0.02
    ),
}
COLOURS = (1, 3, 4)
"""Channels of pictures, which a last size is taken for where the first is none of them."""

RESERVED = ("index",)
COMPUTED = ("probabilities", "embedding", "features")
"""Outputs that a network does not give by their names."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_OUTPUT = re.compile(r"[A-Za-z_]\w*")
_MODULE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_PLACEHOLDERS = {"name": "model", "arch": "compact", "input": "1x1x1"}


class RecipeError(ValueError):
    """What is wrong with a request, a line each.

    Attributes:
        problems: the lines.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(dict.fromkeys(problems))
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        place: field, and where in it.
        message: names the wrong and the right value.
        against: other fields that it contradicts.
    """

    place: tuple[str | int, ...]
    message: str
    against: tuple[str, ...] = ()


def _listed(value: Any) -> Any:  # noqa: ANN401 # whatever a file or a command line holds
    """Return `a,b` as [a, b], and a single value as a list of it."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",")]
    return value if isinstance(value, list) else [value]


def _sizes(value: Any) -> Any:  # noqa: ANN401 # likewise
    """Return `3x224x224` as [3, 224, 224]."""
    if isinstance(value, list | tuple):
        return value
    if not isinstance(value, str) or not re.fullmatch(r"\d+(x\d+)+", value.strip()):
        raise ValueError(f"sizes are written 3x224x224 or 224x224, got {value!r}")
    return [int(part) for part in value.split("x")]


def _fraction(value: Any) -> Fraction:  # noqa: ANN401 # likewise
    """Return a number, or a fraction such as 127/255, exactly as it is written."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"must be a number, got {value!r}")  # noqa: TRY004 # pydantic wants it
    try:
        return Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ValueError(
            f"must be a number or a fraction such as 127/255, got {value!r}"
        ) from error


def _chosen(known: tuple[str, ...], noun: str) -> BeforeValidator:
    def check(value: Any) -> Any:  # noqa: ANN401 # likewise
        if value not in known:
            raise ValueError(f"unknown {noun} {value!r}; {nearest(str(value), known)}")
        return value

    return BeforeValidator(check)


def _option(value: Any) -> Any:  # noqa: ANN401 # likewise
    several = value if isinstance(value, list) else [value]
    if not all(one is None or isinstance(one, str | int | float) for one in several):
        raise ValueError(f"must be a text, a number, true, null or a list of such, got {value!r}")
    return value


def _text(value: Any) -> Any:  # noqa: ANN401 # likewise
    if isinstance(value, int | float):
        raise ValueError(f"{value!r} is a number in YAML; put it in quotes: '{value}'")  # noqa: TRY004 # pydantic wants it
    return value


def _plain_name(name: str) -> str:
    if name in RESERVED:
        raise ValueError(f"{name!r} is the page of all models; choose another name")
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is no name of a folder; use letters, digits, '_', '-' and '.', "
            "beginning with a letter, a digit or '_'"
        )
    return name


def _architecture(name: str) -> str:
    if ":" not in name:
        check_architecture(name)
    elif not _MODULE.fullmatch(name):
        raise ValueError(f"{name!r} is not written module:function")
    elif importlib.util.find_spec(name.partition(":")[0].partition(".")[0]) is None:
        module = name.partition(":")[0].partition(".")[0]
        raise ValueError(f"there is no module {module!r}; is its folder on PYTHONPATH?")
    return name


def _channels_first(size: tuple[int, int, int]) -> tuple[int, int, int]:
    height, width, channels = size
    if channels in COLOURS and height > max(COLOURS):
        raise ValueError(
            f"{height}x{width}x{channels} has {height} channels; height and width come last, "
            f"whatever the input type: {channels}x{height}x{width}"
        )
    return size


def _in_unit(values: tuple[Fraction, ...]) -> tuple[Fraction, ...]:
    if max(values) > 1:
        shares = ",".join(_share_of_pixels(value) for value in values)
        raise ValueError(f"is of pictures in 0..1, not of pixels in 0..255: {shares}")
    return values


def _share_of_pixels(value: Fraction) -> str:
    share = value / WHITE["UINT8"]
    whole = value.denominator == 1 and share.denominator > 1
    return f"{value}/{WHITE['UINT8']}" if whole else f"{float(share):.6g}"


def _output(text: Any) -> Any:  # noqa: ANN401 # likewise
    """Check a name, or name=place of one of the tensors that a network gives."""
    name, named, key = str(text).partition("=")
    if not named and name not in OUTPUTS:
        raise ValueError(f"unknown output {name!r}; {nearest(name, OUTPUTS)}, or NAME=PLACE")
    if named and (not key or name in COMPUTED or not _OUTPUT.fullmatch(name)):
        raise ValueError(
            f"{text!r} is not written NAME=PLACE, with a name of letters, digits and '_' that is "
            f"none of {', '.join(COMPUTED)}, and a place from 0 or the network's own name"
        )
    return text


def _output_names(outputs: Iterable[str]) -> list[str]:
    return [output.partition("=")[0] for output in outputs]


def _logits_first(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    names = _output_names(outputs)
    wanted = list(dict.fromkeys(("logits", *names)))
    if names != wanted:
        raise ValueError(f"begin with logits, each once: {','.join(wanted)}")
    return outputs


def _above_zero(std: Fraction) -> Fraction:
    if std <= 0:
        raise ValueError(f"must be above 0, got {float(std):g}")
    return std


Many = BeforeValidator(_listed)
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Value = Annotated[Fraction, BeforeValidator(_fraction)]
Divisor = Annotated[Value, AfterValidator(_above_zero)]
Kind = Annotated[DownsamplingKind, _chosen(DOWNSAMPLING_KINDS, "downsampling")]
InputSize = Annotated[
    tuple[Count, Count, Count], BeforeValidator(_sizes), AfterValidator(_channels_first)
]
PictureSize = Annotated[tuple[Count, Count], BeforeValidator(_sizes)]


class Recipe(BaseModel):
    """One model, or a family of them, as a person asks for it.

    Attributes:
        name: as served; of a family, what its kind of downsampling is appended to.
        arch: of ARCHITECTURES, or module:function; empty for a program or an ONNX file.
        program: a file of torch.export.save, in place of an architecture.
        onnx: an ONNX file, likewise.
        downsampling: one kind, or several: a model for each.
        options: others of the architecture.
        weights: a checkpoint; `{downsampling}` in it is the kind. None: seeded fresh ones.
        weights_key: the entry of the checkpoint that has them; empty for the usual one.
        labels: a file with the name of each class, one a line.
        samples: what the build is judged on: one of SOURCES or a folder of pictures.
        calibration: what int8 takes its ranges from, likewise; empty for the samples.
        input: channels, height and width of the network's input.
        input_type: float32, (C, H, W) in 0..1, or uint8, (H, W, C).
        mean: of pictures in 0..1, subtracted; one, or one for each channel.
        std: of pictures in 0..1, divided by; likewise.
        sizes: other heights and widths that are taken, and proved.
        resize: whether pictures of `sizes` are brought to `input` in the graph.
        interpolation: of picture files, before the graph; of INTERPOLATIONS.
        crop_share: side of the centre crop that is kept of them; None for what goes with `fit`.
        fit: crop, or canvas: the whole picture on black ground.
        outputs: of the graph; NAME=PLACE of a network that gives several tensors.
        head: how the first of them is read; found where it is not given.
        threshold: probability above which a label of a binary or multi-label head applies.
        stabilise: what chooses a part of the picture before all else, of STABILISERS.
        precision: one or several: a model for each.
        max_batch_size: largest batch that is served.
        parity: and those below it: see nyquist.models.spec.Limits.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, BeforeValidator(_text), AfterValidator(_plain_name)]
    arch: Annotated[str, AfterValidator(_architecture)] = ""
    program: str | None = None
    onnx: str | None = None
    downsampling: Annotated[tuple[Kind, ...], Many] = ()
    taps: int | None = None
    options: dict[str, Annotated[Any, AfterValidator(_option)]] = {}
    weights: str | None = None
    weights_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")] = ""
    weights_key: str = ""
    labels: str | None = None
    samples: str = "photographs"
    calibration: str = ""
    input: InputSize
    input_type: Annotated[str, _chosen(tuple(DATATYPES), "input type")] = "float32"
    mean: Annotated[tuple[Value, ...], Many, AfterValidator(_in_unit)] = (Fraction(0),)
    std: Annotated[tuple[Divisor, ...], Many, AfterValidator(_in_unit)] = (Fraction(1),)
    sizes: Annotated[tuple[PictureSize, ...], Many] = ()
    resize: bool = False
    interpolation: Annotated[Interpolation, _chosen(INTERPOLATIONS, "interpolation")] = "bicubic"
    crop_share: Annotated[float | None, Field(gt=0, le=1)] = None
    fit: Annotated[Fit, _chosen(FITS, "fit")] = "crop"
    outputs: Annotated[
        tuple[Annotated[Output, BeforeValidator(_output)], ...],
        Many,
        AfterValidator(_logits_first),
    ] = ("logits",)
    head: Annotated[HeadKind, _chosen(KINDS, "head")] | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] = Head.threshold
    stabilise: Annotated[Stabiliser, _chosen(STABILISERS, "stabilisation")] | None = None
    precision: Annotated[
        tuple[Annotated[Precision, _chosen(PRECISIONS, "precision")], ...], Many
    ] = ("fp32",)
    max_batch_size: Count = 16
    parity: Annotated[float, Field(gt=0)] = Limits.parity
    agreement: Share = Limits.agreement
    least_accuracy: Share = Limits.accuracy
    accuracy_drop: Share = Limits.accuracy_drop
    least_confidence: Share = Limits.confidence
    least_consistency: Share = Limits.consistency
    consistency_drop: Share = Limits.consistency_drop


FIELDS = tuple(Recipe.model_fields)


def read_recipe(raw: Mapping[str, Any], base: Path) -> tuple[list[ModelSpec], list[Problem]]:
    """Return the specs that some fields ask for, or all that is wrong with them.

    Args:
        raw: values of Recipe's fields.
        base: folder that paths begin in.
    """
    problems: list[Problem] = []
    try:
        recipe = Recipe.model_validate(dict(raw))
    except ValidationError as error:
        problems = [_explained(entry) for entry in error.errors()]
        wrong = {problem.place[0] for problem in problems}
        sound = {key: value for key, value in raw.items() if key not in wrong}
        recipe = Recipe.model_validate(_PLACEHOLDERS | sound)
    wrong = {problem.place[0] for problem in problems}
    for problem in _contradictions(recipe, base):
        if wrong.isdisjoint({problem.place[0], *problem.against}):
            problems.append(problem)
    return ([] if problems else _specs(recipe, base)), problems


def _explained(error: Mapping[str, Any]) -> Problem:
    """Say what pydantic found in the words of this project."""
    place = tuple(part for part in error["loc"] if part not in ("str", "int", "float"))
    if error["type"] == "extra_forbidden":
        return Problem(place, f"there is no field {place[0]!r}; {nearest(str(place[0]), FIELDS)}")
    if error["type"] == "missing":
        return Problem(place, "is missing")
    if error["type"] == "value_error":
        return Problem(place, str(error["ctx"]["error"]))
    message = error["msg"][:1].lower() + error["msg"][1:]
    return Problem(place, f"{message}, got {error['input']!r}")


def _contradictions(recipe: Recipe, base: Path) -> Iterator[Problem]:
    """Yield what is wrong between fields, and with the files that they name."""
    channels = recipe.input[0]
    for field, values in (("mean", recipe.mean), ("std", recipe.std)):
        if len(values) not in (1, channels):
            wanted = "1" if channels == 1 else f"1 or {channels}"
            sizes = "x".join(map(str, recipe.input))
            message = f"has {len(values)} values, input {sizes} takes {wanted}"
            yield Problem((field,), message, ("input",))
    if recipe.resize and not recipe.sizes:
        message = "needs sizes, the least and the greatest height and width that are taken"
        yield Problem(("resize",), message, ("sizes",))
    if recipe.fit == "canvas" and recipe.crop_share not in (None, 1):
        message = "nothing is cut off on a canvas; leave it out, or fit: crop"
        yield Problem(("crop_share",), message, ("fit",))
    if recipe.weights_key and recipe.weights is None:
        message = "chooses an entry of a checkpoint; give weights too"
        yield Problem(("weights_key",), message, ("weights",))
    yield from _stabilise_contradictions(recipe)
    yield from _source_contradictions(recipe)
    yield from _file_problems(recipe, base)
    labels, problems = _read_labels(recipe, base)
    yield from problems
    for field, source in (("samples", recipe.samples), ("calibration", recipe.calibration)):
        yield from _source_problems(field, source, labels, base)
    if recipe.arch and ":" not in recipe.arch:
        yield from _option_problems(recipe, labels)


def _stabilise_contradictions(recipe: Recipe) -> Iterator[Problem]:
    """Yield what a stabilised network does not do."""
    if recipe.stabilise is None:
        return
    if recipe.sizes:
        message = "is chosen out of pictures of one size; leave out sizes and resize"
        yield Problem(("stabilise",), message, ("sizes",))
    box = Stabilisation(recipe.stabilise).boxes[1]
    if recipe.stabilise == "circular" and min(recipe.input[1:]) < box:
        sizes = "x".join(map(str, recipe.input[1:]))
        message = f"compares squares of {box} pixels, and input is {sizes}"
        yield Problem(("stabilise",), message, ("input",))
    if recipe.stabilise == "average" and "features" in recipe.outputs:
        message = "has features of several crops and averages the logits alone; leave features out"
        yield Problem(("stabilise",), message, ("outputs",))


def _source_contradictions(recipe: Recipe) -> Iterator[Problem]:
    """Yield what is wrong between an architecture and a program."""
    kind, noun = ("program", "a program") if recipe.onnx is None else ("onnx", "an ONNX file")
    if getattr(recipe, kind) is None:
        if not recipe.arch:
            message = "is missing; or give program, a file of torch.export.save, or onnx"
            yield Problem(("arch",), message)
        return
    settled = {
        "arch": recipe.arch,
        "downsampling": recipe.downsampling,
        "taps": recipe.taps,
        "options": recipe.options,
        "weights": recipe.weights,
    }
    for field, value in settled.items():
        if value:
            yield Problem((field,), f"{noun} is a whole network; leave it out", (kind,))
    if recipe.onnx is not None:
        yield from _onnx_contradictions(recipe)


def _onnx_contradictions(recipe: Recipe) -> Iterator[Problem]:
    """Yield what is not done to an ONNX file."""
    unfit = {
        "program": recipe.program is not None,
        "sizes": bool(recipe.sizes),
        "resize": recipe.resize,
        "outputs": "features" in recipe.outputs,
        "precision": recipe.precision != ("fp32",),
    }
    for field, given in unfit.items():
        if given:
            message = (
                "is not offered for an ONNX file, which keeps its sizes, its float32 and its "
                "outputs (probabilities can be added)"
            )
            yield Problem((field,), message, ("onnx",))


def _file_problems(recipe: Recipe, base: Path) -> Iterator[Problem]:
    for kind in recipe.downsampling or (None,):
        files = {
            field: getattr(recipe, field) for field in ("weights", "labels", "program", "onnx")
        }
        for field, path in files.items():
            message = "" if path is None else _file_problem(_in_family(path, kind, base))
            if message:
                yield Problem((field,), message)


def _file_problem(path: Path) -> str:
    """Say why a path is no file; empty if it is one."""
    if path.is_file():
        return ""
    if path.is_dir():
        return f"{path} is a folder, not a file"
    if not path.parent.is_dir():
        return f"there is no folder {path.parent}"
    near = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    hint = f"; did you mean {path.with_name(near[0])}?" if near else ""
    return f"there is no file {path}{hint}"


def _read_labels(recipe: Recipe, base: Path) -> tuple[tuple[str, ...], list[Problem]]:
    """Return the names of the classes, none if there is no such file."""
    path = base / (recipe.labels or "")
    if not path.is_file():
        return (), []
    try:
        labels = path.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        return (), [
            Problem(
                ("labels",), f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
            )
        ]
    blank = [number for number, label in enumerate(labels, 1) if not label.strip()]
    if blank or not labels:
        return (), [Problem(("labels",), f"{path} has no name in line {(*blank, 1)[0]}")]
    odd = [f"{path} line {number}: {_oddity(name)}" for number, name in enumerate(labels, 1)]
    found = [Problem(("labels",), message) for message in odd if not message.endswith(": ")]
    return (() if found else tuple(labels)), found


def _oddity(label: str) -> str:
    """Say what a name has that would not survive a file or a comparison; empty if nothing."""
    name = label.strip()
    if name != label:
        return f"{label!r} has spaces around it; write {name!r}"
    if name.splitlines() != [name]:
        return f"{name!r} has another line break inside; write {' '.join(name.split())!r}"
    return ""


def _source_problems(
    field: str, source: str, labels: Sequence[str], base: Path
) -> Iterator[Problem]:
    if source in ("", *SOURCES):
        return
    if not (base / source).is_dir():
        yield Problem((field,), f"there is no folder {base / source}; {nearest(source, SOURCES)}")
        return
    try:
        find_pictures(base / source, labels)
    except (ValueError, OSError) as error:
        yield Problem((field,), str(error), ("labels",))


def _option_problems(recipe: Recipe, labels: Sequence[str]) -> Iterator[Problem]:
    for kind in recipe.downsampling or (None,):
        options = _options(recipe, kind, labels)
        for option, message in option_problems(recipe.arch, options).items():
            own = option in ("downsampling", "taps")
            yield Problem((option,) if own else ("options", option), message, ("arch",))
    classes, channels = recipe.options.get("num_classes"), recipe.options.get("in_channels")
    if labels and classes not in (None, len(labels)):
        message = f"is {classes}, and labels has {len(labels)} names"
        yield Problem(("options", "num_classes"), message, ("labels",))
    if channels not in (None, recipe.input[0]):
        message = f"is {channels}, and input has {recipe.input[0]} channels"
        yield Problem(("options", "in_channels"), message, ("input",))


def _in_family(path: str, kind: DownsamplingKind | None, base: Path) -> Path:
    return base / (path.replace(FAMILY, kind) if kind else path)


def _options(
    recipe: Recipe, kind: DownsamplingKind | None, labels: Sequence[str]
) -> dict[str, Option]:
    """Return the options of the architecture, with those that other fields settle."""
    options = dict(recipe.options)
    if kind is not None:
        options["downsampling"] = kind
    if recipe.taps is not None:
        options["taps"] = recipe.taps
    if recipe.arch and ":" not in recipe.arch:
        options.setdefault("in_channels", recipe.input[0])
        if labels:
            options.setdefault("num_classes", len(labels))
    return options


def _specs(recipe: Recipe, base: Path) -> list[ModelSpec]:
    """Return the specs of a sound recipe: every kind of downsampling in every precision."""
    datatype = DATATYPES[recipe.input_type]
    labels, _ = _read_labels(recipe, base)
    limits = Limits(**{limit: getattr(recipe, field) for field, limit in LIMITS.items()})
    many = len(recipe.downsampling) > 1
    return with_precisions(
        [
            ModelSpec(
                name=f"{recipe.name}_{kind}" if many else recipe.name,
                architecture=recipe.arch or Path(recipe.program or recipe.onnx or "").name,
                program=None if recipe.program is None else base / recipe.program,
                onnx=None if recipe.onnx is None else base / recipe.onnx,
                options=_options(recipe, kind, labels),
                weights=None if recipe.weights is None else _in_family(recipe.weights, kind, base),
                weights_sha256=recipe.weights_sha256,
                weights_key=recipe.weights_key,
                labels=labels,
                samples=_source(recipe.samples, base),
                calibration=_source(recipe.calibration, base),
                input=recipe.input,
                datatype=datatype,
                preprocessing=Preprocessing(
                    layout="CHW" if datatype == "FP32" else "HWC",
                    mean=_in_units(recipe.mean, datatype),
                    scale=_in_units(recipe.std, datatype),
                    resize=recipe.input[1:] if recipe.resize else None,
                ),
                picture=_framing(recipe),
                stabilisation=_stabilisation(recipe),
                sizes=recipe.sizes,
                outputs=_named(recipe),
                picks=_picks(recipe),
                head=recipe.head,
                threshold=recipe.threshold,
                max_batch_size=recipe.max_batch_size,
                limits=limits,
            )
            for kind in recipe.downsampling or (None,)
        ],
        recipe.precision,
    )


def _named(recipe: Recipe) -> tuple[Output, ...]:
    """Return the outputs under the names that they will have."""
    return (Head(recipe.head or "classes").output, *_output_names(recipe.outputs[1:]))


def _picks(recipe: Recipe) -> tuple[Pick, ...]:
    parts = (output.partition("=") for output in recipe.outputs)
    return tuple((name, key) for name, named, key in parts if named)


def _stabilisation(recipe: Recipe) -> Stabilisation | None:
    return Stabilisation(recipe.stabilise) if recipe.stabilise else None


def _framing(recipe: Recipe) -> Framing:
    share = recipe.crop_share
    if share is None:
        share = usual_share(recipe.fit, recipe.input[1:], _stabilisation(recipe))
    return Framing(recipe.interpolation, share, recipe.fit)


def usual_share(fit: Fit, size: Size, stabilisation: Stabilisation | None) -> float:
    """Return the side of the centre crop that is kept of picture files unless somebody says.

    Of a larger picture that a crop is chosen out of it is larger by as much, so that the network
    sees things at the size that it was trained with: all of a picture, for 224 of 256.
    """
    if fit == "canvas":
        return ON_CANVAS.crop_share
    margin = stabilisation.margin if stabilisation else 0
    return min(1.0, IMAGENET.crop_share * (1 + margin / min(size)))


def _source(source: str, base: Path) -> str:
    return source if source in ("", *SOURCES) else str(base / source)


def _in_units(values: Sequence[Fraction], datatype: Datatype) -> float | tuple[float, ...]:
    """Return values of 0..1 in those of the input, rounded once."""
    scaled = tuple(float(value * WHITE[datatype]) for value in values)
    return scaled[0] if len(scaled) == 1 else scaled


def with_precisions(specs: Iterable[ModelSpec], precisions: Iterable[Precision]) -> list[ModelSpec]:
    """Return each model in each precision; other ones than fp32 are models of their own name."""
    chosen = tuple(dict.fromkeys(precisions))
    return [relaxed(spec, precision) for spec in specs for precision in chosen]


def relaxed(spec: ModelSpec, precision: Precision) -> ModelSpec:
    """Return a model of fp32 in another precision: NAME_fp16, NAME_int8, with limits that fit.

    precision  parity  agreement  accuracy_drop  confidence  consistency_drop
    fp16       0.1     0.98       0.005          0.8         0.005
    int8       2.0     0.85       0.02           0.5         0.02

    A limit of the model that is already wider stays. The least accuracy and the least consistency
    stay too, since they are what a client relies on; where that is a consistency of 1, no drop is
    allowed at all, or the smallest error would end what a polyphase network promises.
    """
    if precision == "fp32":
        return spec
    return replace(
        spec,
        name=f"{spec.name}_{precision}",
        precision=precision,
        limits=relaxed_limits(spec.limits, precision),
    )


def relaxed_limits(limits: Limits, precision: Precision) -> Limits:
    """Return the limits of a model in another precision; again the same, once they are."""
    if precision == "fp32":
        return limits
    wide = _PRECISION_LIMITS[precision]
    exact = limits.consistency == 1
    return replace(
        limits,
        parity=max(limits.parity, wide.parity),
        agreement=min(limits.agreement, wide.agreement),
        accuracy_drop=max(limits.accuracy_drop, wide.accuracy_drop),
        confidence=min(limits.confidence, wide.confidence),
        consistency_drop=0.0 if exact else max(limits.consistency_drop, wide.consistency_drop),
    )
