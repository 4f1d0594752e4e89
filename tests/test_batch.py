"""nyquist classify --output: many pictures, one file, each picture in it once."""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from pathlib import Path
from shutil import copy
from typing import Any

import pyarrow.parquet
import pytest
from rich.console import Console

from nyquist.client.batch import PART, Job, Unfinished, answer_all
from nyquist.client.classify import main
from nyquist.client.engines import by_processes
from nyquist.client.told import Told
from nyquist.server.wire.connection import Connection
from tests.processes import ROOT, RunningServer

CLOTHES = ROOT / "models/nyquist/models/data/fashion"
COUNT = 2 * PART + 1


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three parts; its first file is no picture."""
    folder, of = tmp_path_factory.mktemp("pictures"), sorted(CLOTHES.glob("*.png"))
    for number in range(COUNT):
        copy(of[number % len(of)], folder / f"{number:04}.png")
    (folder / "0000.png").write_bytes(b"nothing")
    return folder


@pytest.fixture
def job(server: RunningServer) -> Job:
    return Job(Connection(server.target), "fashion_blur", Told(), 0, diagonal=False, top=1)


class _Here:
    """An engine without workers; it notes what it is asked for, and may be cut short."""

    def __init__(self, parts: int = sys.maxsize, ends: BaseException | None = None) -> None:
        self.parts, self.ends, self.asked = parts, ends, list[int]()

    def __call__(
        self, work: Callable[[Any], Any], tasks: Mapping[int, Any], _: int
    ) -> Iterator[tuple[int, Any]]:
        for number, task in tasks.items():
            if len(self.asked) == self.parts and self.ends is not None:
                raise self.ends
            self.asked.append(number)
            yield number, work(task)


def run(job: Job, folder: Path, output: Path, engine: _Here) -> tuple[int, str]:
    """Return how many pictures have no answer, and what was said."""
    said = StringIO()
    files = sorted(folder.iterdir())
    return answer_all(
        job, files, output, engine, 1, Console(file=said, width=1000)
    ), said.getvalue()


@pytest.mark.parametrize("end", [KeyboardInterrupt(), ValueError("the server has gone")])
def test_a_run_that_was_cut_short_goes_on_and_each_picture_is_answered_once(
    end: BaseException, job: Job, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.jsonl"
    with pytest.raises((KeyboardInterrupt, Unfinished)):
        run(job, pictures, output, _Here(parts=2, ends=end))
    assert not output.exists()
    rest = _Here()
    failed, said = run(job, pictures, output, rest)
    assert (failed, rest.asked) == (1, [2])
    assert f"{2 * PART} of {COUNT} pictures are answered already" in said
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    names = [str(file) for file in sorted(pictures.iterdir())]
    assert Counter(row["picture"] for row in rows) == Counter(names)
    assert [row["error"] is not None for row in rows if row["picture"] == names[0]] == [True]
    assert [path.name for path in tmp_path.iterdir()] == ["answers.jsonl"]


def test_parts_of_another_run_are_neither_used_nor_lost(
    job: Job, pictures: Path, tmp_path: Path
) -> None:
    output = tmp_path / "answers.csv"
    with pytest.raises(Unfinished, match="the same command goes on"):
        run(job, pictures, output, _Here(parts=1, ends=ValueError("cut")))
    other = Job(job.connection, "fashion_strided", Told(), 0, diagonal=False, top=1)
    with pytest.raises(ValueError, match="its model was fashion_blur, now fashion_strided"):
        run(other, pictures, output, _Here())
    assert run(job, pictures, output, _Here())[0] == 1
    with pytest.raises(ValueError, match="is there already"):
        run(job, pictures, output, _Here())


def test_two_runs_of_one_file_do_not_meet(job: Job, pictures: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.csv"

    class Meeting(_Here):
        def __call__(self, *told: Any) -> Iterator[tuple[int, Any]]:
            with pytest.raises(ValueError, match="another run writes"):
                run(job, pictures, output, _Here())
            return super().__call__(*told)

    assert run(job, pictures, output, Meeting())[0] == 1


def test_processes_answer_into_a_table_as_the_command_does_into_lines(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(CLOTHES), "--model", "fashion_blur", "--target", server.target, "--top", "2"]
    assert main([*command, "--csv"]) == 0
    lines = list(csv.DictReader(capsys.readouterr().out.splitlines()))
    output = tmp_path / "answers.parquet"
    assert main([*command, "--output", str(output), "--jobs", "2"]) == 0
    rows = pyarrow.parquet.read_table(output).to_pylist()
    assert [row.pop("error") for row in rows] == [None] * len(lines)
    assert [{name: str(value) for name, value in row.items()} for row in rows] == lines


def _fails_at_one(task: int) -> int:
    if task == 1:
        raise ValueError("one is wrong")
    return -task


def test_what_a_worker_raises_ends_the_others_and_is_told() -> None:
    assert dict(by_processes(_fails_at_one, {0: 5, 7: 6}, 2)) == {0: -5, 7: -6}
    with pytest.raises(ValueError, match="one is wrong"):
        list(by_processes(_fails_at_one, {0: 1, 1: 2}, 1))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "{clothes} --output answers.txt",
            "--output ends in .parquet, .csv, .jsonl, got answers.txt",
        ),
        ("- --output answers.csv", "- is one picture"),
    ],
)
def test_a_wrong_output_is_answered_with_a_right_one(
    words: str, line: str, server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words.format(clothes=CLOTHES).split()
    assert main([*asked, "--model", "fashion_blur", "--target", server.target]) == 1
    assert line in capsys.readouterr().err
