"""nyquist classify --output FILE: many pictures into one file, by a run that can be taken up again.

pictures -> chunks -> an engine -> a part for each chunk, whole or not there -> one file

FILE.parts/ is the journal: plan.json says what was asked of which pictures, and each part that is
there has the answers of its chunk. A run that ended early goes on with the parts that lack.
"""

import argparse
import csv
import fcntl
import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from time import perf_counter
from typing import Any, BinaryIO

import grpc
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from nyquist.client.answers import COLUMNS, TOP, as_json
from nyquist.client.classify import Classifying, shifts_of
from nyquist.client.client import Client, RemoteModel
from nyquist.client.engines import ENGINES, Document
from nyquist.client.picture_sources import STANDARD_INPUT, files_of, picture_at
from nyquist.client.told import told_by
from nyquist.server.wire.connection import Connection, chosen_connection

CHUNK = 96
"""Pictures of a task and of a part: a few requests, some seconds of work to lose."""
TOLD_EVERY_S = 30.0
"""Between lines of progress where no terminal shows a bar."""
FIELDS = (*COLUMNS, "error")
"""Of a line of CSV and of a row of Parquet; of a picture that cannot be read most are empty."""

Rows = Iterator[dict[str, Any]]


@dataclass(frozen=True)
class Question:
    """What is asked of each picture, wherever that is done.

    Attributes:
        connection: to the server, as the workers see it.
        model: that answers, of one version.
        shifts: pixels of the longest move of each picture.
        diagonal: whether they move down too.
        top: labels of each picture.
    """

    connection: Connection
    model: RemoteModel
    shifts: int
    diagonal: bool
    top: int

    def answer(self, pictures: Sequence[str]) -> list[Document]:
        """Ask for each picture once; one that cannot be read has its error as its answer.

        Raises:
            ValueError: the server or a store does not answer, which says nothing of the pictures.
        """
        with Client(self.connection) as client:
            asking = Classifying(client, self.model, self.shifts, diagonal=self.diagonal)
            try:
                files = [picture_at(picture) for picture in pictures]
                answers = list(chain.from_iterable(asking.answers(files)))
            except grpc.RpcError as error:
                raise ValueError(self.connection.explain(error)) from None
        found = {answer.picture: as_json(answer, self.top) for answer in answers}
        about = {"model": self.model.name, "version": self.model.version}
        return [
            found.get(picture) or {"picture": picture, **about, "error": asking.failures[picture]}
            for picture in pictures
        ]

    def asked(self) -> Document:
        """Return what answers depend on, to be compared with that of an earlier run."""
        model = self.model
        return {
            "model": model.name,
            "version": model.version,
            "sha256": model.sha256,
            "shift": self.shifts,
            "diagonal": self.diagonal,
            "top": self.top,
            "told": repr(model.told),
        }


class Journal:
    """What of a batch is done, on disk: a folder beside the file that it will become.

    Args:
        file: that all answers go to in the end.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.folder = file.with_name(f"{file.name}.parts")
        self._plan = self.folder / "plan.json"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs away.

        Raises:
            ValueError: one is at it, or the file is there already.
        """
        if self._file.exists() and not self.folder.exists():
            raise ValueError(f"{self._file} is there already; remove it, or name another file")
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError as error:
            raise ValueError(f"another run writes {self._file}") from error
        finally:
            os.close(lock)
            with suppress(OSError):
                self.folder.rmdir()  # nothing was begun

    def planned(self, asked: Document, pictures: Callable[[], list[str]]) -> list[str]:
        """Return the pictures of the run that was begun, or those of a new one, which is noted.

        Raises:
            ValueError: what was begun asks something else.
        """
        if self._plan.exists():
            plan = json.loads(self._plan.read_text())
            for key, value in asked.items():
                if plan["asked"].get(key) != value:
                    raise ValueError(
                        f"{self.folder} was begun with {key} {plan['asked'].get(key)!r}, now it "
                        f"is {value!r}; ask as then, or remove that folder"
                    )
            return plan["pictures"]
        listed = pictures()
        plan = {"asked": asked, "pictures": listed}
        _write_whole(self._plan, lambda file: file.write(json.dumps(plan).encode()))
        return listed

    def lacking(self, pictures: Sequence[str]) -> dict[int, Sequence[str]]:
        """Return the chunks that have no part yet, by number."""
        chunks = {at // CHUNK: pictures[at : at + CHUNK] for at in range(0, len(pictures), CHUNK)}
        return {
            number: chunk for number, chunk in chunks.items() if not self._part(number).exists()
        }

    def keep(self, number: int, documents: Sequence[Document]) -> None:
        """Write the answers of one chunk, whole or not at all."""
        lines = "".join(json.dumps(document) + "\n" for document in documents)
        _write_whole(self._part(number), lambda file: file.write(lines.encode()))

    def finish(self, count: int) -> int:
        """Make one file of all parts, in the order of the pictures, and remove them.

        Returns:
            how many pictures could not be read.
        """
        unread = 0

        def parts() -> Iterator[list[Document]]:
            nonlocal unread
            for number in range(-(-count // CHUNK)):
                documents = list(map(json.loads, self._part(number).read_text().splitlines()))
                unread += sum("error" in document for document in documents)
                yield documents

        merged = self.folder / self._file.name
        _write_whole(merged, partial(WRITERS[self._file.suffix], parts()))
        merged.replace(self._file)
        shutil.rmtree(self.folder)
        return unread

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}.jsonl"


def run(options: argparse.Namespace) -> int:
    """Answer all pictures into the file of the options; return the exit status.

    Raises:
        grpc.RpcError: the server does not describe the model.
        ValueError: an option is wrong, or something needed does not answer.
    """
    _check(options)
    journal = Journal(options.answers)
    question = _question(options)
    asked = {"pictures": options.pictures, **question.asked()}
    with journal.alone():
        pictures = journal.planned(asked, lambda: _names(options.pictures))
        _fill(journal, pictures, question, options)
        unread = journal.finish(len(pictures))
    console = Console(stderr=True)
    console.print(f"{options.answers}: {len(pictures):,} pictures", highlight=False)
    if unread:
        console.print(f"{unread:,} cannot be read; their rows say why", highlight=False)
    return 1 if unread else 0


def _question(options: argparse.Namespace) -> Question:
    connection, told = chosen_connection(options), told_by(vars(options))
    with Client(connection) as client:
        model = client.look_up(options.model).completed(told)
    return Question(
        connection, model, shifts_of(options), bool(options.diagonal), options.top or TOP
    )


def _names(pictures: Sequence[str]) -> list[str]:
    """Return every picture once, however often it is named."""
    files = files_of(pictures)
    if STANDARD_INPUT in files:
        raise ValueError("--output answers files; - is none")
    return list(dict.fromkeys(map(str, files)))


def _fill(
    journal: Journal, pictures: Sequence[str], question: Question, options: argparse.Namespace
) -> None:
    """Answer what lacks, and say how far it is."""
    chunks = journal.lacking(pictures)
    told = Progressing(len(pictures), sum(map(len, chunks.values())))
    answering = ENGINES[options.engine or "processes"](question.answer, chunks, options.workers)
    try:
        with told:
            for number, documents in answering:
                journal.keep(number, documents)
                told.advance(len(documents))
    except ValueError as error:
        raise ValueError(f"{error}; {told.left} of {len(pictures)} left, {_AGAIN}") from error
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{told.left} of {len(pictures)} left, {_AGAIN}\n")
        raise


_AGAIN = "the same command goes on"


class Progressing:
    """Says how far a batch is: a bar at a terminal, elsewhere a line from time to time.

    Args:
        total: pictures of the batch.
        left: of them, to be answered by this run.

    Attributes:
        left: pictures still without an answer.
    """

    def __init__(self, total: int, left: int) -> None:
        self._total, self._begun_with, self.left = total, left, left
        self._start = self._told_at = perf_counter()
        self._console = Console(stderr=True)
        columns = (BarColumn(), TextColumn("{task.description}"))
        self._bars = Progress(
            *columns, console=self._console, disable=not self._console.is_terminal
        )
        self._bar = self._bars.add_task(f"{total:,} pictures", total=total, completed=total - left)

    def __enter__(self) -> None:
        self._bars.start()

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def advance(self, count: int) -> None:
        """Note that so many more pictures have an answer on disk."""
        self.left -= count
        now = perf_counter()
        line = progress_line(
            self._total, self._total - self.left, self._begun_with - self.left, now - self._start
        )
        self._bars.update(self._bar, completed=self._total - self.left, description=line)
        if self._bars.disable and now - self._told_at > TOLD_EVERY_S:
            self._console.print(line, highlight=False)
            self._told_at = now


def progress_line(total: int, done: int, done_now: int, seconds: float) -> str:
    """Say how far a batch is, how fast this run goes and how long the rest will take.

    >>> progress_line(20_000, 5_000, 1_000, 10.0)
    '5,000 of 20,000 pictures, 100/s, 2 min 30 s left'
    """
    rate = done_now / seconds
    minutes, rest = divmod(round((total - done) / rate), 60)
    left = f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{done:,} of {total:,} pictures, {rate:,.0f}/s, {left} left"


def _check(options: argparse.Namespace) -> None:
    file: Path | None = options.answers
    if file is None:
        raise ValueError("--engine and --workers need --output FILE")
    if options.csv or options.json:
        raise ValueError(f"{file.name} is of the form that its ending says, without --csv, --json")
    if file.suffix not in WRITERS:
        raise ValueError(f"--output ends in {', '.join(WRITERS)}, got {file.name!r}")
    if file.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ValueError(f"install nyquist-serving[parquet] to write {file.name}")
    if options.engine == "ray" and find_spec("ray") is None:
        raise ValueError("install nyquist-serving[ray] for --engine ray")
    if not file.absolute().parent.is_dir():
        raise ValueError(f"{file.parent} is no folder")


def _rows(documents: Iterable[Mapping[str, Any]]) -> Rows:
    """Yield a row for each label of each picture, and one for a picture without an answer."""
    for document in documents:
        about = {key: document.get(key) for key in ("picture", "model", "version")}
        if "error" in document:
            yield dict.fromkeys(FIELDS) | about | {"error": document["error"]}
            continue
        for moved in document["shifts"]:
            for rank, one in enumerate(moved["classes"], 1):
                place = {"shift": moved["shift"], "rank": rank, "error": None}
                named = {key: one[key] for key in ("label", "index", "probability")}
                yield about | place | named


def _write_csv(parts: Iterator[list[Document]], file: BinaryIO) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="")
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    for documents in parts:
        for row in _rows(documents):
            shown = "" if row["probability"] is None else f"{row['probability']:.6g}"
            writer.writerow(row | {"probability": shown})
    text.detach()


def _write_jsonl(parts: Iterator[list[Document]], file: BinaryIO) -> None:
    for documents in parts:
        file.writelines(f"{json.dumps(document)}\n".encode() for document in documents)


def _write_parquet(parts: Iterator[list[Document]], file: BinaryIO) -> None:
    """Write a row group for each part: https://parquet.apache.org/docs/file-format/."""
    import pyarrow as pa  # of the extra parquet
    from pyarrow import parquet

    numbers = {"shift": pa.int32(), "rank": pa.int32(), "index": pa.int32()}
    kinds = numbers | {"probability": pa.float64()}
    schema = pa.schema([(field, kinds.get(field, pa.string())) for field in FIELDS])
    with parquet.ParquetWriter(file, schema) as writer:
        for documents in parts:
            writer.write_table(pa.Table.from_pylist(list(_rows(documents)), schema))


WRITERS: dict[str, Callable[[Iterator[list[Document]], BinaryIO], None]] = {
    ".parquet": _write_parquet,
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
}
"""By the ending of the file."""


def _write_whole(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have a file appear whole, or not at all."""
    beside = path.with_name(f"{path.name}.new")
    with beside.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
