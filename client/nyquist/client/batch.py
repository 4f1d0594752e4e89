"""Many pictures into one file, part by part: a run that was cut short goes on where it ended.

pictures -> parts -> an engine -> rows -> FILE.parts/N.jsonl -> FILE

A part lies in its folder whole or not at all, and FILE appears once every part is there.
"""

import csv
import fcntl
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from typing import Any

import grpc
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from nyquist.client.answers import COLUMNS, as_rows
from nyquist.client.classify import Classifying
from nyquist.client.client import Client
from nyquist.client.engines import Engine
from nyquist.client.told import Told
from nyquist.server.wire.connection import Connection

PART = 64
"""Pictures; what a run that is cut short does again of each worker at most."""
TOLD_EVERY_S = 30.0
ROW = (*COLUMNS, "error")
"""Columns of the file; a picture without an answer has one row, with what was wrong."""

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Job:
    """What is asked of each picture, and of which server.

    Attributes:
        connection: to the server.
        model: its name.
        told: what the server does not say of it.
        shifts: pixels of the longest move of each picture.
        diagonal: whether they move down too.
        top: classes of each picture.
    """

    connection: Connection
    model: str
    told: Told
    shifts: int
    diagonal: bool
    top: int


class Unfinished(ValueError):
    """A run ended before its last picture; what it has is kept."""


def answer_all(
    job: Job, pictures: Sequence[Path], output: Path, engine: Engine, jobs: int, console: Console
) -> int:
    """Write a row for each class of each picture, each picture once; return how many have none.

    Args:
        job: what is asked of each.
        pictures: their files; one that is named twice is asked for once.
        output: to be written; .parquet, .csv or .jsonl.
        engine: shares out the work.
        jobs: workers.
        console: to tell progress on.

    Raises:
        ValueError: the file is there already, is of another kind, or its parts are of another run.
        Unfinished: the server does not answer.
        OSError: the file cannot be written.
    """
    write = _writer(output)
    if output.exists():
        raise ValueError(f"{output} is there already; remove it, or name another --output")
    names = [str(picture) for picture in dict.fromkeys(pictures)]
    cut = range(0, len(names), PART)
    with _parts(output, _plan(job, names)) as folder:
        numbered = dict(enumerate([Path(one) for one in names[at : at + PART]] for at in cut))
        missing = {at: one for at, one in numbered.items() if not _part(folder, at).exists()}
        left = sum(map(len, missing.values()))
        if len(missing) < len(numbered):
            text = f"{len(names) - left:,} of {len(names):,} pictures are answered already"
            console.print(text, highlight=False)
        try:
            for number, rows in _followed(
                engine(partial(answer_part, job), missing, jobs), missing, console
            ):
                _write_whole(_part(folder, number), "".join(map(_line, rows)))
        except (ValueError, KeyboardInterrupt) as error:
            kept = f"what is answered is kept in {folder}: the same command goes on from there"
            if isinstance(error, ValueError):
                raise Unfinished(f"{error}; {kept}") from error
            console.print(kept, highlight=False, soft_wrap=True)
            raise
        failed = _put_together(folder, len(numbered), output, write)
    shutil.rmtree(folder)
    answered = f"{output}: {len(names) - failed:,} of {len(names):,} pictures answered"
    console.print(answered, highlight=False, soft_wrap=True)
    return failed


def answer_part(job: Job, pictures: Sequence[Path]) -> list[Row]:
    """Return the rows of some pictures, in the worker that asks for them.

    Raises:
        ValueError: the server does not answer, or cannot be asked so.
    """
    asking = _asking(job)
    asking.failures.clear()
    try:
        rows: list[Row] = [
            (*row, None)
            for answers in asking.answers(pictures)
            for answer in answers
            for row in as_rows(answer, job.top)
        ]
    except grpc.RpcError as error:
        raise ValueError(job.connection.explain(error)) from None  # which no process can pass on
    nothing = (None,) * (len(COLUMNS) - 2)
    return rows + [(picture, job.model, *nothing, why) for picture, why in asking.failures.items()]


@cache
def _asking(job: Job) -> Classifying:
    """Open a worker's client once."""
    client = Client(job.connection)
    model = client.look_up(job.model).completed(job.told)
    return Classifying(client, model, job.shifts, diagonal=job.diagonal)


def _plan(job: Job, names: Sequence[str]) -> dict[str, object]:
    """Say what a run is, for the next one to compare; not which server answers, which may move."""
    told = hashlib.sha256("\n".join(names).encode()).hexdigest()
    return {
        "model": job.model,
        "shifts": job.shifts,
        "diagonal": job.diagonal,
        "top": job.top,
        "input": repr(job.told),
        "part": PART,
        "pictures": f"{len(names)}, sha256 of their names {told}",
    }


@contextmanager
def _parts(output: Path, plan: Mapping[str, object]) -> Iterator[Path]:
    """Open the folder of a run's parts, for this process alone.

    Raises:
        ValueError: it is of another run, or another process writes it now.
    """
    folder = output.with_name(f"{output.name}.parts")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "run.json").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run writes {output} now") from None
        file.seek(0)
        before = json.loads(file.read() or json.dumps(plan))
        for name, value in plan.items():
            if before.get(name) != value:
                raise ValueError(
                    f"{folder} is of another run: its {name} was {before.get(name)}, now {value}; "
                    "remove it, or name another --output"
                )
        file.truncate(0)
        file.write(json.dumps(plan))
        file.flush()
        yield folder


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number:08}.jsonl"


def _line(row: Row) -> str:
    return json.dumps(dict(zip(ROW, row, strict=True)), ensure_ascii=False) + "\n"


def _write_whole(path: Path, text: str) -> None:
    beside = path.with_suffix(".tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _followed(
    results: Iterator[tuple[int, list[Row]]], tasks: Mapping[int, Sequence[Path]], console: Console
) -> Iterator[tuple[int, list[Row]]]:
    """Pass results on, and show how far they are: at a terminal by a bar, else now and then."""
    columns = (
        TextColumn("pictures"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    done, total = 0, sum(map(len, tasks.values()))
    began = said = monotonic()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("pictures", total=total, rate="")
        for number, rows in results:
            yield number, rows
            done += len(tasks[number])
            rate = f"{done / (monotonic() - began):,.0f}/s"
            progress.update(bar, completed=done, rate=rate)
            if not console.is_terminal and monotonic() - said > TOLD_EVERY_S:
                said = monotonic()
                console.print(f"{done:,} of {total:,} pictures, {rate}", highlight=False)


def _put_together(
    folder: Path, parts: int, output: Path, write: Callable[[Path, Iterator[list[Row]]], None]
) -> int:
    """Write the file of all parts, in the order of the pictures; return how many have no answer."""
    failed = 0

    def read() -> Iterator[list[Row]]:
        nonlocal failed
        for number in range(parts):
            with _part(folder, number).open(encoding="utf-8") as file:
                rows = [tuple(json.loads(line).values()) for line in file]
            failed += sum(row[-1] is not None for row in rows)
            yield rows

    whole = folder / "whole"
    write(whole, read())
    whole.replace(output)
    return failed


def _writer(output: Path) -> Callable[[Path, Iterator[list[Row]]], None]:
    """Return what writes files of this kind.

    Raises:
        ValueError: there is none, or its package is missing.
    """
    writers = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_lines}
    if output.suffix not in writers:
        raise ValueError(f"--output ends in {', '.join(writers)}, got {output.name}")
    if output.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ValueError(
            "Parquet needs pyarrow: pip install 'nyquist-serving[batch]'; or write .csv or .jsonl"
        )
    return writers[output.suffix]


def _write_lines(path: Path, parts: Iterator[list[Row]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(_line(row) for rows in parts for row in rows)


def _write_csv(path: Path, parts: Iterator[list[Row]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(ROW)
        for rows in parts:
            writer.writerows(rows)


def _write_parquet(path: Path, parts: Iterator[list[Row]]) -> None:
    """Write one group of rows for each part."""
    import pyarrow as pa
    from pyarrow import parquet

    numbers = {"shift": pa.int32(), "rank": pa.int32(), "index": pa.int32()}
    kinds = numbers | {"probability": pa.float64()}
    schema = pa.schema([(name, kinds.get(name, pa.string())) for name in ROW])
    with parquet.ParquetWriter(path, schema) as writer:
        for rows in parts:
            columns = zip(*rows, strict=True)
            writer.write_table(pa.table(dict(zip(ROW, columns, strict=True)), schema=schema))
