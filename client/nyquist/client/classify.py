"""nyquist classify: classify pictures, and see how the answer holds as a picture slides."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nyquist.client.client import Client, RankedClass, RemoteModel
from nyquist.client.command_line import make_classify_parser
from nyquist.client.told import told_by
from nyquist.server.wire.connection import chosen_connection
from nyquist.server.wire.errors import NyquistError
from nyquist.server.wire.head import Head

TOP = 5


def slide(picture: NDArray[Any], pixels: int, width_axis: int) -> NDArray[Any]:
    """Return the picture moved right by 0, 1, ... `pixels`, around the edge: (pixels + 1, ...)."""
    return np.stack([np.roll(picture, shift, axis=width_axis) for shift in range(pixels + 1)])


def probabilities_of(ranked: Sequence[RankedClass], head: Head) -> list[float]:
    """Return the probability of each class of one picture, in the order of `ranked`."""
    values = head.probabilities(np.array([one.logit for one in ranked], np.float64))
    return [float(value) for value in values]


def shown(ranked: Sequence[RankedClass], head: Head) -> int:
    """Return how many classes are worth a line: the highest, and every label that applies."""
    return max(TOP, len(_applying(ranked, head)))


def answer_of(ranked: Sequence[RankedClass], head: Head) -> str:
    """Name the answer: the highest class, or the labels that apply."""
    return ", ".join(map(_name, _applying(ranked, head))) or "none"


def _applying(ranked: Sequence[RankedClass], head: Head) -> list[RankedClass]:
    return [one for one in ranked if one.logit > head.cut] if head.labelled else [*ranked[:1]]


def _name(one: RankedClass) -> str:
    return one.label or str(one.index)


def class_table(ranked: Sequence[RankedClass], head: Head) -> Table:
    """Lay out the highest classes of one picture; of labels, mark those that apply."""
    columns = ("label", "probability", f"above {head.threshold:g}")
    table = Table(*columns[: 3 if head.labelled else 2], box=SIMPLE_HEAD, pad_edge=False)
    table.columns[1].justify = "right"
    lines = zip(ranked, probabilities_of(ranked, head), strict=True)
    for one, probability in list(lines)[: shown(ranked, head)]:
        applies = ("yes" if one.logit > head.cut else "no",) if head.labelled else ()
        table.add_row(_name(one), f"{probability:.3f}", *applies)
    return table


def shift_table(answers: Sequence[Sequence[RankedClass]], head: Head) -> Table:
    """Lay out the answer at each shift, and mark where it differs from the unmoved one.

    The probability is that of the highest class or label.
    """
    table = Table("shift", "label", "probability", "", box=SIMPLE_HEAD, pad_edge=False)
    for column in (0, 2):
        table.columns[column].justify = "right"
    for shift, ranked in enumerate(answers):
        answer, highest = answer_of(ranked, head), probabilities_of(ranked, head)[0]
        changed = "" if _same(ranked, answers[0], head) else "changed"
        table.add_row(f"{shift} px", answer, f"{highest:.3f}", changed)
    return table


def _same(ranked: Sequence[RankedClass], unmoved: Sequence[RankedClass], head: Head) -> bool:
    first, second = ({one.index for one in _applying(each, head)} for each in (ranked, unmoved))
    return first == second


def classify(
    client: Client, model: RemoteModel, path: Path, shifts: int
) -> list[list[RankedClass]]:
    """Return the ranked classes of a picture file as it is, then moved by 1 to `shifts` pixels.

    Raises:
        OSError: the file cannot be read.
        InvalidRequest: it is no picture.
        ValueError: the model takes no picture.
        grpc.RpcError: the call failed.
    """
    pictures = model.read_pictures([path])
    hwc = model.picture is not None and model.picture.layout == "HWC"
    moved = slide(pictures[0], shifts, width_axis=1 if hwc else 2)
    return [client.classify(model, one[None])[0] for one in moved]


def show(
    model: RemoteModel, path: Path, answers: Sequence[Sequence[RankedClass]], console: Console
) -> None:
    """Print the answers for one picture file."""
    version = f" version {model.version}" if model.version else ""
    console.print(f"{path.name}: {model.name}{version}", highlight=False)
    if len(answers) == 1:
        console.print(class_table(answers[0], model.head))
        return
    console.print(shift_table(answers, model.head))
    held = sum(_same(ranked, answers[0], model.head) for ranked in answers[1:])
    console.print(
        f"{held} of {len(answers) - 1} shifts leave the answer as it was", highlight=False
    )


def as_json(
    model: RemoteModel, path: Path, answers: Sequence[Sequence[RankedClass]]
) -> dict[str, object]:
    """Return the answers for one picture file as plain values, by shift."""
    return {
        "picture": str(path),
        "model": model.name,
        "version": model.version,
        "shifts": [
            {"shift": shift, "classes": _highest(ranked, model.head)}
            for shift, ranked in enumerate(answers)
        ],
    }


def _highest(ranked: Sequence[RankedClass], head: Head) -> list[dict[str, object]]:
    lines = zip(ranked, probabilities_of(ranked, head), strict=True)
    found = []
    for one, probability in list(lines)[: shown(ranked, head)]:
        line = asdict(one) | {"probability": probability}
        if head.values == "probabilities":
            del line["logit"]
        found.append(line | ({"applies": one.logit > head.cut} if head.labelled else {}))
    return found


def run(options: argparse.Namespace) -> int:
    """Classify the pictures that the command line names; return the exit status."""
    console, documents = Console(), []
    try:
        connection, told = chosen_connection(options), told_by(vars(options))
        with Client(connection) as client:
            model = client.look_up(options.model).completed(told)
            for path in options.pictures:
                answers = classify(client, model, path, options.shift)
                if options.json:
                    documents.append(as_json(model, path, answers))
                else:
                    show(model, path, answers, console)
    except grpc.RpcError as error:
        reason = connection.explain(error)
    except (OSError, ValueError, NyquistError) as error:
        reason = str(error)
    else:
        if options.json:
            sys.stdout.write(json.dumps(documents, indent=2) + "\n")
        return 0
    errors = Console(stderr=True)
    errors.print(f"nyquist classify: error: {reason}", highlight=False, soft_wrap=True)
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nyquist classify`; return the exit status."""
    return run(make_classify_parser().parse_args(arguments))
