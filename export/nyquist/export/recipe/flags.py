"""Recipes on the command line: from flags to specs.

--only NAME --precision P      models of the zoo
--config FILE --only NAME      models of a file
--arch A --name N --input S    a model of your own; --program or --onnx FILE in place of --arch
"""

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nyquist.export.recipe.recipe import (
    FIELDS,
    LIMITS,
    RecipeError,
    read_recipe,
    with_precisions,
)
from nyquist.models.choices import ARCHITECTURES, DOWNSAMPLING_KINDS, MAX_TAPS, SOURCES, nearest
from nyquist.models.spec import (
    OUTPUTS,
    PRECISIONS,
    STABILISERS,
    Limits,
    ModelSpec,
    Option,
    Precision,
)
from nyquist.models.zoo import specs as zoo_specs
from nyquist.server.wire.framing import FITS, IMAGENET, INTERPOLATIONS
from nyquist.server.wire.head import KINDS, Head


def add_arguments(parser: ArgumentParser) -> None:
    """Add the flags that choose models, or describe one. All are absent (None) by default."""
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models; see --list")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="models of a YAML file instead of the zoo's"
    )
    parser.add_argument(
        "--precision", metavar="P,...", help=f"of the arithmetic: {', '.join(PRECISIONS)}"
    )
    own = parser.add_argument_group(
        "a model of your own",
        "needs --arch, --program or --onnx, --name and --input; docs/export.md has examples",
    )
    own.add_argument(
        "--arch", metavar="NAME", help=f"{', '.join(ARCHITECTURES)}, or module:function"
    )
    own.add_argument(
        "--program", metavar="FILE", help="a network saved by torch.export.save, in place of --arch"
    )
    own.add_argument("--onnx", metavar="FILE", help="an ONNX file, in place of --arch")
    own.add_argument("--name", help="as it will be served")
    own.add_argument("--input", metavar="CxHxW", help="of the network, such as 3x224x224")
    own.add_argument(
        "--downsampling",
        metavar="KIND,...",
        help=f"{', '.join(DOWNSAMPLING_KINDS)}; of several, each is a model",
    )
    own.add_argument("--taps", metavar="N", help=f"of the blur, 1 to {MAX_TAPS}")
    own.add_argument(
        "--option",
        dest="options",
        action="append",
        metavar="KEY=VALUE",
        help="another option of the architecture; may be repeated",
    )
    own.add_argument(
        "--weights", metavar="FILE", help="checkpoint; without one, seeded fresh weights"
    )
    own.add_argument("--weights-sha256", metavar="HEX", help="that the checkpoint must have")
    own.add_argument(
        "--weights-key", metavar="KEY", help="entry of the checkpoint, such as state_dict"
    )
    own.add_argument("--labels", metavar="FILE", help="the name of each class, one a line")
    own.add_argument(
        "--samples",
        metavar="FOLDER",
        help=f"pictures that the build is judged on: a folder, or {', '.join(SOURCES)}",
    )
    own.add_argument(
        "--calibration", metavar="FOLDER", help="pictures that the ranges of int8 are taken from"
    )
    own.add_argument(
        "--input-type",
        metavar="TYPE",
        help="float32: (C, H, W) in 0..1; uint8: (H, W, C) in 0..255 (float32)",
    )
    own.add_argument(
        "--mean", metavar="M,...", help="of pictures in 0..1, such as 0.485 or 127/255"
    )
    own.add_argument("--std", metavar="S,...", help="likewise")
    own.add_argument("--sizes", metavar="HxW,...", help="other sizes that are taken, and proved")
    own.add_argument(
        "--resize",
        action="store_const",
        const=True,
        help="bring pictures of --sizes to --input inside the graph",
    )
    own.add_argument(
        "--interpolation",
        metavar="KIND",
        help=f"of picture files: {', '.join(INTERPOLATIONS)} ({IMAGENET.interpolation})",
    )
    own.add_argument(
        "--crop-share",
        metavar="X",
        help=f"side of the centre crop that is kept of them ({IMAGENET.crop_share:g})",
    )
    own.add_argument(
        "--fit",
        metavar="KIND",
        help=f"{' or '.join(FITS)}: whole, centred on black ground ({IMAGENET.fit})",
    )
    own.add_argument(
        "--outputs",
        metavar="NAME,...",
        help=f"of {', '.join(OUTPUTS)}; NAME=PLACE of a network that gives several tensors",
    )
    own.add_argument(
        "--stabilise",
        metavar="KIND",
        help=f"{', '.join(STABILISERS)}: answers that stay when pictures move by whole pixels",
    )
    own.add_argument(
        "--head",
        metavar="KIND",
        help=f"how the first output is read, if it cannot be seen: {', '.join(KINDS)}",
    )
    own.add_argument(
        "--threshold",
        metavar="P",
        help=f"probability above which a label applies ({Head.threshold:g}); not of classes",
    )
    own.add_argument("--max-batch-size", metavar="N", help="largest batch that is served (16)")
    for field, limit in LIMITS.items():
        default = getattr(Limits(), limit)
        own.add_argument(
            f"--{field.replace('_', '-')}", metavar="X", help=f"limit of the build ({default:g})"
        )


def specs_from_arguments(options: Namespace) -> list[ModelSpec]:
    """Return the models that flags of `add_arguments` ask for.

    Raises:
        RecipeError: all that is wrong with them, or with the file that they name.
    """
    given = {field: getattr(options, field) for field in FIELDS}
    given = {field: value for field, value in given.items() if value is not None}
    if options.config is not None:
        from nyquist.export.recipe.yaml_file import read_recipes  # yaml is in the extra

        _refuse(given, "--config has models of its own; write this into the file")
        return _only(read_recipes(options.config), options.only)
    if not given.keys() & {"arch", "program", "onnx"}:
        precision = given.pop("precision", "fp32")
        _refuse(given, "describes a model of your own; give --arch, --program or --onnx too")
        chosen = _only(list(zoo_specs().values()), options.only)
        return with_precisions(chosen, _precisions(precision))
    if options.only:
        raise RecipeError(["--only chooses among models that are known; with --arch there is one"])
    found, problems = read_recipe({**given, "options": _pairs(given.get("options", ()))}, Path())
    if problems:
        raise RecipeError(f"{_flag(*problem.place)}: {problem.message}" for problem in problems)
    return found


def _refuse(given: Mapping[str, Any], why: str) -> None:
    if given:
        raise RecipeError(f"{_flag(field)}: {why}" for field in given)


def _flag(field: str | int, *below: str | int) -> str:
    if field == "options":
        return " ".join(("--option", *map(str, below)))
    return f"--{str(field).replace('_', '-')}"


def _only(specs: list[ModelSpec], names: list[str] | None) -> list[ModelSpec]:
    known = tuple(spec.name for spec in specs)
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise RecipeError(f"unknown model {name!r}; {nearest(name, known)}" for name in unknown)
    return [spec for spec in specs if not names or spec.name in names]


def _precisions(text: str) -> list[Precision]:
    found = [part.strip() for part in text.split(",")]
    wrong = [part for part in found if part not in PRECISIONS]
    if wrong:
        raise RecipeError(
            f"--precision: unknown precision {part!r}; {nearest(part, PRECISIONS)}"
            for part in wrong
        )
    return [precision for precision in PRECISIONS if precision in found]


def _pairs(texts: list[str] | tuple[str, ...]) -> dict[str, Option]:
    """Return `key=value` texts as options; a value that reads as JSON is that."""
    wrong = [text for text in texts if "=" not in text]
    if wrong:
        raise RecipeError(f"--option: is written KEY=VALUE, got {text!r}" for text in wrong)
    return {key: option_value(value) for key, _, value in (text.partition("=") for text in texts)}


def option_value(text: str) -> Option:
    """Return what `--option KEY=` is given: a number, JSON (null, true, [1, 2], "1") or a text."""
    for kind in (int, float, json.loads):
        try:
            value: Option = kind(text)
        except ValueError:
            continue
        return value
    return text
