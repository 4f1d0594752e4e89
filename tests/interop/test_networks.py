"""A network of others as docs/export.md says: saved where it is at home, built, served, checked."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nyquist.companion.__main__ import main as companion
from nyquist.export.build import main as build
from tests.interop.networks import MODULE, build_environment
from tests.processes import ROOT, start_server

PAGE = (ROOT / "docs" / "export.md").read_text()
SMALLER = {"mobilenetv3_small_100": "test_vit", "pretrained=True": "img_size=64", "224": "64"}
"""What the page has, and what takes a test less time and no weights from elsewhere."""


def told() -> tuple[str, Iterator[list[str]]]:
    """Return the script of the section, and the words of its commands of nyquist."""
    (section,) = re.findall(r"^## In five minutes\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    for theirs, ours in SMALLER.items():
        assert theirs in section
        section = section.replace(theirs, ours)
    (script,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    commands = re.findall(r"^nyquist ((?:.*\\\n)*.*)$", section, re.MULTILINE)
    return script, (shlex.split(command.replace("\\\n", " ")) for command in commands)


def test_a_network_of_timm_is_served_and_checked_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script, commands = told()
    monkeypatch.chdir(tmp_path)
    subprocess.run(
        [sys.executable, "-c", f"import {MODULE}\n{script}"], env=build_environment(), check=True
    )
    (_, *asked), (_, *served), (_, *checked) = commands
    assert build([*asked, "--jobs", "1"]) == 0
    assert served == ["--repository", "repository"]
    assert (tmp_path / "repository" / "mine" / "1" / "reference.pt2").is_file()
    server = start_server(tmp_path / "repository")
    try:
        assert companion(["check", *checked, "--target", server.target]) == 0
    finally:
        server.stop()
    assert " ok" in capsys.readouterr().out
