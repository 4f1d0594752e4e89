import csv
import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
from pyarrow import parquet

from nyquist.client.batch import CHUNK
from nyquist.client.classify import main
from tests.processes import ROOT, RunningServer

pytestmark = pytest.mark.usefixtures("transport")

CLOTHES = sorted((ROOT / "models/nyquist/models/data/fashion").glob("*.png"))
LONG_S = 60_000


def lay_out(folder: Path, count: int) -> list[Path]:
    """Put so many pictures into a folder; returns them in their order."""
    folder.mkdir()
    names = [folder / f"{number:05d}.png" for number in range(count)]
    for name, at in zip(names, range(count), strict=True):
        name.hardlink_to(CLOTHES[at % len(CLOTHES)])
    return names


def asking(server: RunningServer, folder: object, answers: Path, *more: str) -> list[str]:
    command = [str(folder), "--model", "fashion_strided", "--target", server.target]
    return [*command, "--output", str(answers), "--top", "1", "--workers", "1", *more]


def test_interrupted_and_killed_a_batch_goes_on_and_answers_each_picture_once(
    server: RunningServer, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pictures = lay_out(tmp_path / "pictures", 2 * CHUNK + 10)
    damaged, slow = pictures[CHUNK], pictures[2 * CHUNK]  # of the second chunk, and of the third
    damaged.unlink()
    damaged.write_bytes(CLOTHES[0].read_bytes()[:200])
    slow.unlink()
    os.mkfifo(slow)  # who reads it waits for who writes it, and the other way round
    answers = tmp_path / "answers.parquet"
    command = asking(server, pictures[0].parent, answers)
    parts = answers.with_name("answers.parquet.parts")

    with begun(command) as interrupted:
        writing = os.open(slow, os.O_WRONLY)  # the third is begun when the first is on disk
        interrupted.send_signal(signal.SIGINT)
        os.close(writing)
        _, told = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 130, told
    assert "left, the same command goes on" in told
    assert "Traceback" not in told
    assert (parts / "000000.jsonl").is_file()
    for picture in pictures[:CHUNK]:
        picture.unlink()  # they are answered, and not asked again

    with begun(command) as killed:
        writing = os.open(slow, os.O_WRONLY)
        killed.kill()
        assert killed.wait(60) == -signal.SIGKILL
        ended = select.poll()
        ended.register(writing, select.POLLERR)
        assert ended.poll(LONG_S), "the worker ends where its parent does"
        os.close(writing)
    assert not answers.exists()
    slow.unlink()
    slow.hardlink_to(CLOTHES[0])

    assert main(command) == 1
    rows = parquet.read_table(answers).to_pylist()
    assert [row["picture"] for row in rows] == list(map(str, pictures))
    unread = [row for row in rows if row["error"]]
    assert [row["picture"] for row in unread] == [str(damaged)]
    assert unread[0]["label"] is None
    assert {row["label"] for row in rows if not row["error"]} > {"ankle boot"}
    assert not parts.exists()
    assert "1 cannot be read; their rows say why" in capfd.readouterr().err


def begun(command: list[str]) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "nyquist", "classify", *command]
    return subprocess.Popen(
        words,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        # around tests that run in the background Ctrl-C is ignored, and so in what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def test_every_form_has_the_same_answers(server: RunningServer, tmp_path: Path) -> None:
    pictures = lay_out(tmp_path / "pictures", 3)
    forms = [tmp_path / f"answers.{ending}" for ending in ("parquet", "csv", "jsonl")]
    pattern = f"{tmp_path}/pict*/*.png"
    for form, where in zip(
        forms, (pictures[0].parent, pattern, f"file://{pictures[0].parent}/"), strict=True
    ):
        assert main(asking(server, where, form)) == 0
    rows = parquet.read_table(forms[0]).to_pylist()
    with forms[1].open(newline="") as file:
        lines = list(csv.DictReader(file))
    documents = [json.loads(line) for line in forms[2].read_text().splitlines()]
    assert [row["picture"] for row in rows] == list(map(str, pictures))
    assert [line["picture"] for line in lines] == list(map(str, pictures))
    assert [one["picture"] for one in documents] == [f"file://{name}" for name in pictures]
    for row, line, document in zip(rows, lines, documents, strict=True):
        (found,) = document["shifts"][0]["classes"]
        assert row["label"] == line["label"] == found["label"]
        assert row["probability"] == found["probability"]
        assert line["probability"] == f"{found['probability']:.6g}"
        assert line["error"] == ""


def test_pictures_come_from_a_store_by_their_address(
    server: RunningServer, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fsspec.filesystem("memory")
    store.pipe("/clothes/boot.png", CLOTHES[0].read_bytes())
    store.pipe("/clothes/list.txt", b"no picture")
    command = ["--model", "fashion_strided", "--target", server.target, "--top", "1", "--csv"]
    for address in ("memory://clothes/", "memory://clothes/*.png"):
        assert main([address, *command]) == 0
        (line,) = csv.DictReader(capsys.readouterr().out.splitlines())
        assert (line["picture"], line["label"]) == ("memory:///clothes/boot.png", "ankle boot")
    assert main(["memory://clothes/none.png", *command]) == 1
    assert main(["nowhere://clothes/", *command]) == 1
    none, nowhere = capsys.readouterr().err.splitlines()
    assert "memory://clothes/none.png holds no pictures" in none
    assert "nowhere://clothes/: Protocol not known: nowhere" in nowhere


def test_what_was_begun_is_not_mixed_with_something_else(
    server: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = tmp_path / "answers.csv"
    parts = tmp_path / "answers.csv.parts"
    missing = tmp_path / "none"
    assert main(asking(server, "-", answers)) == 1
    assert not parts.exists(), "nothing was begun"
    parts.mkdir()
    parts.joinpath("plan.json").write_text(
        json.dumps({"asked": {"pictures": ["x"]}, "pictures": []})
    )
    assert main(asking(server, missing, answers)) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert "--output answers files; - is none" in first
    assert f"{parts} was begun with pictures ['x'], now it is ['{missing}']" in second


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--output answers.xml", "--output ends in .parquet, .csv, .jsonl, got 'answers.xml'"),
        ("--output nowhere/answers.csv", "nowhere is no folder"),
        ("--output answers.csv --json", "answers.csv is of the form that its ending says"),
        ("--engine ray", "--engine and --workers need --output FILE"),
        ("--engine ray --output answers.csv", "install nyquist-serving[ray] for --engine ray"),
        ("--output README.md.csv", "README.md.csv is there already; remove it"),
    ],
)
def test_a_mistake_is_told_in_a_line(
    server: RunningServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", None)  # whether or not it is installed
    Path("README.md.csv").touch()
    command = ["one.png", "--model", "fashion_strided", "--target", server.target]
    assert main([*command, *words.split()]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nyquist classify: error: ")
    assert message in line
