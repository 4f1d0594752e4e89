"""nyquist classify: classify pictures, and see how the answer holds as a picture slides.

files, folders, standard input -> batches -> answers -> tables, JSON or CSV
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from nyquist.client.answers import COLUMNS, TOP, Answer, as_json, as_rows, show
from nyquist.client.client import Client, RankedClass, RemoteModel
from nyquist.client.command_line import SHIFTS, make_classify_parser
from nyquist.client.picture_sources import STANDARD_INPUT, files_of
from nyquist.client.told import told_by
from nyquist.server.wire.connection import chosen_connection
from nyquist.server.wire.errors import InvalidRequest, NyquistError, unreadable
from nyquist.server.wire.framing import DYNAMIC
from nyquist.server.wire.pictures import PictureFile

MOST_A_REQUEST = 32


def slide(
    picture: NDArray[Any], pixels: int, width_axis: int, *, diagonal: bool = False
) -> NDArray[Any]:
    """Return the picture moved by 0, 1, ... `pixels`, around the edge: (pixels + 1, ...).

    Args:
        picture: (C, H, W), or (H, W, C).
        pixels: of the longest move.
        width_axis: along which right is; down is along the one before.
        diagonal: down as well as right.
    """
    axes = (width_axis - 1, width_axis) if diagonal else (width_axis,)
    shifts = range(pixels + 1)
    return np.stack([np.roll(picture, (shift,) * len(axes), axis=axes) for shift in shifts])


class Classifying:
    """Reads pictures and asks a model for their classes, several in one request.

    Args:
        client: of the server.
        model: that answers.
        shifts: pixels of the longest move of each picture; 0 moves none.
        diagonal: whether they move down too.

    Attributes:
        failures: why a picture could not be read, by its name.
    """

    def __init__(
        self, client: Client, model: RemoteModel, shifts: int = 0, *, diagonal: bool = False
    ) -> None:
        self._client, self._model = client, model
        self._shifts, self._diagonal = shifts, diagonal
        self.failures: dict[str, str] = {}

    def answers(self, files: Sequence[PictureFile]) -> Iterator[list[Answer]]:
        """Yield the answers of the next files.

        Raises:
            grpc.RpcError: a call failed.
            ValueError: the model takes no picture, or names no classes.
        """
        alone = DYNAMIC in self._model.shape  # each picture may have another size
        together = 1 if alone or self._shifts else self._a_request
        for at in range(0, len(files), together):
            read = dict(self._read(files[at : at + together]))
            asked = [moved for picture in read.values() for moved in self._moved(picture)]
            ranked = self._ask(asked)
            each = self._shifts + 1
            names = ["-" if file == STANDARD_INPUT else str(file) for file in read]
            yield [
                Answer(name, self._model, ranked[number * each : (number + 1) * each])
                for number, name in enumerate(names)
            ]

    @property
    def _a_request(self) -> int:
        return min(self._model.max_batch_size or 1, MOST_A_REQUEST)

    def _read(self, files: Sequence[PictureFile]) -> Iterator[tuple[PictureFile, NDArray[Any]]]:
        for file in files:
            try:
                yield file, self._model.read_pictures([file])[0]
            except OSError as error:
                self.failures[str(file)] = unreadable(error)
            except InvalidRequest as error:
                self.failures[str(file)] = str(error)

    def _moved(self, picture: NDArray[Any]) -> NDArray[Any]:
        framing = self._model.picture
        width_axis = 1 if framing is not None and framing.layout == "HWC" else 2
        return slide(picture, self._shifts, width_axis, diagonal=self._diagonal)

    def _ask(self, pictures: Sequence[NDArray[Any]]) -> list[list[RankedClass]]:
        ranked: list[list[RankedClass]] = []
        for at in range(0, len(pictures), self._a_request):
            batch = np.stack(pictures[at : at + self._a_request])
            ranked += self._client.classify(self._model, batch)
        return ranked


def run(options: argparse.Namespace) -> int:
    """Classify the pictures that the command line names; return the exit status."""
    failures: dict[str, str] = {}
    ended = ""
    try:
        connection = chosen_connection(options)
        if options.answers or options.engine or options.workers:
            from nyquist.client.batch import run as answer_into_file

            return answer_into_file(options)
        told, files = told_by(vars(options)), files_of(options.pictures)
        with Client(connection) as client:
            model = client.look_up(options.model).completed(told)
            asking = Classifying(client, model, shifts_of(options), diagonal=options.diagonal)
            failures = asking.failures
            _print(options, _followed(asking, files))
    except grpc.RpcError as error:
        ended = connection.explain(error)
    except (ValueError, NyquistError) as error:
        ended = str(error)
    lines = [*failures.values(), *([ended] if ended else [])]
    for line in lines:
        sys.stderr.write(f"nyquist classify: error: {line}\n")
    return 1 if lines else 0


def shifts_of(options: argparse.Namespace) -> int:
    """Return by how many pixels each picture is to slide, at most."""
    return options.shift or (SHIFTS if options.diagonal else 0)


def _followed(asking: Classifying, files: Sequence[PictureFile]) -> Iterator[Answer]:
    """Yield the answers one by one, with a bar at a terminal where there are many."""
    console = Console(stderr=True)
    hidden = len(files) < 2 or not console.is_terminal
    with Progress(console=console, transient=True, disable=hidden) as progress:
        bar = progress.add_task("pictures", total=len(files))
        for answers in asking.answers(files):
            progress.advance(bar, len(answers))
            yield from answers


def _print(options: argparse.Namespace, answers: Iterator[Answer]) -> None:
    """Print answers as asked for: CSV as they come, tables and JSON at the end."""
    top = options.top or TOP
    if options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(COLUMNS)
        for answer in answers:
            writer.writerows(as_rows(answer, top))
    elif options.json:
        documents = [as_json(answer, top) for answer in answers]
        sys.stdout.write(json.dumps(documents, indent=2) + "\n")
    else:
        show(list(answers), options.top, Console())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nyquist classify`; return the exit status."""
    return run(make_classify_parser().parse_args(arguments))
