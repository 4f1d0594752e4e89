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

TOP = 5


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn logits into probabilities. (..., C) -> (..., C)."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def slide(picture: NDArray[Any], pixels: int, width_axis: int) -> NDArray[Any]:
    """Return the picture moved right by 0, 1, ... `pixels`, around the edge: (pixels + 1, ...)."""
    return np.stack([np.roll(picture, shift, axis=width_axis) for shift in range(pixels + 1)])


def class_table(ranked: Sequence[RankedClass]) -> Table:
    """Lay out the highest classes of one picture with their probabilities."""
    probabilities = softmax(np.array([ranked_class.logit for ranked_class in ranked]))
    table = Table("label", "probability", box=SIMPLE_HEAD, pad_edge=False)
    table.columns[1].justify = "right"
    for ranked_class, probability in list(zip(ranked, probabilities, strict=True))[:TOP]:
        table.add_row(ranked_class.label or str(ranked_class.index), f"{probability:.3f}")
    return table


def shift_table(answers: Sequence[Sequence[RankedClass]]) -> Table:
    """Lay out the highest class at each shift, and mark where it differs from the unmoved one."""
    table = Table("shift", "label", "probability", "", box=SIMPLE_HEAD, pad_edge=False)
    for column in (0, 2):
        table.columns[column].justify = "right"
    unmoved = answers[0][0].index
    for shift, ranked in enumerate(answers):
        probabilities = softmax(np.array([ranked_class.logit for ranked_class in ranked]))
        highest = ranked[0]
        changed = "" if highest.index == unmoved else "changed"
        table.add_row(
            f"{shift} px", highest.label or str(highest.index), f"{probabilities[0]:.3f}", changed
        )
    return table


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
        console.print(class_table(answers[0]))
        return
    console.print(shift_table(answers))
    held = sum(ranked[0].index == answers[0][0].index for ranked in answers[1:])
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
            {"shift": shift, "classes": _highest(ranked)} for shift, ranked in enumerate(answers)
        ],
    }


def _highest(ranked: Sequence[RankedClass]) -> list[dict[str, object]]:
    probabilities = softmax(np.array([one.logit for one in ranked])).tolist()
    return [
        asdict(one) | {"probability": probability}
        for one, probability in list(zip(ranked, probabilities, strict=True))[:TOP]
    ]


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
