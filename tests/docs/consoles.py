"""The console blocks of the pages: their commands, and what the pages say that these print."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.docs.pages import PAGES

PROGRAMS = ("nyquist", "python", "curl", "make", "docker", "apt-get", "sudo")
"""What commands begin with on pages that have them without a `$`."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SETTING = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Command:
    """One command of a page.

    Attributes:
        page: that has it.
        text: in one line, without its comment.
        prints: the lines below it; empty where the page shows none.
    """

    page: Path
    text: str
    prints: str

    @property
    def words(self) -> list[str]:
        """Its words, without variables before them, the folder of its program and a `&`."""
        words = [word for word in shlex.split(self.text, comments=True) if word != "&"]
        while words and _SETTING.fullmatch(words[0]):
            words.pop(0)
        return [words[0].removeprefix(".venv/bin/"), *words[1:]]

    @property
    def program(self) -> str:
        """What it runs: `nyquist status`, `make serve`, `docker`."""
        words = self.words
        if words[:2] == ["python", "export/build.py"]:
            return "nyquist build"
        if words[0] == "python":
            return f"python -m {words[2]}"
        return " ".join(words[:2]) if words[0] in ("nyquist", "make") else words[0]


def commands() -> list[Command]:
    """Return every command on every page."""
    return [
        command
        for page in PAGES
        for language, block in _BLOCK.findall(page.read_text(encoding="utf-8"))
        if not language
        for command in _commands(page, block)
    ]


def _commands(page: Path, block: str) -> Iterator[Command]:
    lines = re.sub(r"\\\n\s*|<[^>\n]*>", "", block).splitlines()
    marked = any(line.startswith("$ ") for line in lines)
    starts = [at for at, line in enumerate(lines) if _begins(line, marked=marked)]
    for start, end in pairwise([*starts, len(lines)]):
        text = lines[start].removeprefix("$ ")
        if not marked:  # what stands beside a command tells what it is for
            text = re.split(r" {2,}", text)[0]
        yield Command(page, text, "\n".join(lines[start + 1 : end]).strip() if marked else "")


def _begins(line: str, *, marked: bool) -> bool:
    if marked:
        return line.startswith("$ ")
    first, *_ = [word for word in line.split() if not re.match(r"[A-Z_]+=", word)] or [""]
    return not line.startswith(" ") and first.removeprefix(".venv/bin/") in PROGRAMS
