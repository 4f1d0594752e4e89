"""The texts of docs/troubleshooting.md are those that the code writes."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
TEXTS = re.findall(r"^\| `([^`]+)`", PAGE, re.MULTILINE)
GAP = "\0"
"""Stands for what is filled in."""


def text_of(node: ast.expr) -> str:
    """Return a string as it is written, with gaps; empty of what is none."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.Constant):
        return str(node.value)
    return GAP


@cache
def written() -> str:
    """Return every text that the code may write, and the templates of the pages."""
    found = []
    for folder in ("server", "client", "companion", "export"):
        for path in (ROOT / folder / "nyquist").rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            strings = (ast.JoinedStr, ast.Constant)
            found += [text_of(node) for node in ast.walk(tree) if isinstance(node, strings)]
    pages: list[Path] = sorted((ROOT / "companion" / "nyquist").rglob("*.html"))
    return "\n".join([*found, *(page.read_text(encoding="utf-8") for page in pages)])


@pytest.mark.parametrize("text", TEXTS)
def test_each_error_of_the_page_is_one_that_is_written(text: str) -> None:
    parts = [re.escape(part) for part in text.split("…")]
    assert re.search("[^\\n]*?".join(parts), written()), f"nothing writes {text!r}"


def test_there_are_some() -> None:
    assert len(TEXTS) >= 30
