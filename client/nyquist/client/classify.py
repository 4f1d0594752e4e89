"""nyquist-client: classify pictures, and see how the answer holds as a picture slides."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nyquist.client.client import Client, RankedClass, RemoteModel
from nyquist.server.wire.connection import DEFAULT_TARGET, add_connection_options, chosen_connection
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


def classify(client: Client, model: RemoteModel, path: Path, shifts: int, console: Console) -> None:
    """Print the answer for one picture file.

    Raises:
        OSError: the file cannot be read.
        InvalidRequest: it is no picture.
        ValueError: the model takes no picture.
        grpc.RpcError: the call failed.
    """
    pictures = model.read_pictures([path])
    console.print(f"{path.name}: {model.name} version {model.version}", highlight=False)
    if not shifts:
        (ranked,) = client.classify(model, pictures)
        console.print(class_table(ranked))
        return
    hwc = model.picture is not None and model.picture.layout == "HWC"
    moved = slide(pictures[0], shifts, width_axis=1 if hwc else 2)
    answers = [client.classify(model, one[None])[0] for one in moved]
    console.print(shift_table(answers))
    held = sum(ranked[0].index == answers[0][0].index for ranked in answers[1:])
    console.print(f"{held} of {shifts} shifts leave the answer as it was", highlight=False)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; see `nyquist-client --help`."""
    parser = argparse.ArgumentParser(prog="nyquist-client", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser("classify", help="print the five highest labels of each picture")
    command.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    command.add_argument("--model", required=True, help="efficientnet_lite0, fashion_blur, ...")
    command.add_argument("--target", default=DEFAULT_TARGET, help="server (%(default)s)")
    command.add_argument(
        "--shift",
        type=int,
        nargs="?",
        const=16,
        default=0,
        metavar="N",
        help="slide each picture right by 1 to N pixels (16), around the edge, and compare",
    )
    add_connection_options(command)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run nyquist-client; return the exit status."""
    options = parse(arguments)
    console, errors = Console(), Console(stderr=True)
    try:
        connection = chosen_connection(options)
        with Client(connection) as client:
            model = client.describe(options.model)
            for path in options.pictures:
                classify(client, model, path, options.shift, console)
    except grpc.RpcError as error:
        reason = connection.explain(error)
    except (OSError, ValueError, NyquistError) as error:
        reason = str(error)
    else:
        return 0
    errors.print(f"nyquist-client: error: {reason}", highlight=False, soft_wrap=True)
    return 1


if __name__ == "__main__":
    sys.exit(main())
