"""The site, built as `make docs` builds it."""

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.docs.pages import ROOT, folders

SETTINGS = ROOT / "mkdocs.yml"
FETCHED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
PROMISED = (
    "nyquist.models.create",
    "nyquist.models.layers.blur.BlurPool2d",
    "nyquist.models.networks.resnet.ResNet",
    "nyquist.models.analysis.receptive_field.receptive_fields",
    "nyquist.companion.measures.shift_consistency.pair_consistency",
    "nyquist.client.Client.classify",
    "nyquist.server.wire.errors.QueueFull",
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a folder of its own: a copy of the pages, beside the code."""
    project = tmp_path_factory.mktemp("project")
    shutil.copy(SETTINGS, project)
    shutil.copytree(ROOT / "docs", project / "docs")
    for name in folders() - {"docs"}:
        (project / name).symlink_to(ROOT / name)
    build = [sys.executable, "-m", "zensical", "build", "--strict"]
    ended = subprocess.run(
        build, cwd=project, capture_output=True, text=True, check=False, timeout=300
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return project / "site"


def pages_in(nav: list[Any]) -> Iterator[str]:
    """Yield the pages of a navigation, however deep."""
    for entry in nav:
        for item in entry.values() if isinstance(entry, dict) else [entry]:
            yield from [item] if isinstance(item, str) else pages_in(item)


def test_every_page_is_in_the_navigation_once() -> None:
    nav = yaml.safe_load(SETTINGS.read_text(encoding="utf-8"))["nav"]
    docs = ROOT / "docs"
    there = [path.relative_to(docs).as_posix() for path in docs.rglob("*.md")]
    assert sorted(pages_in(nav)) == sorted(there)


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 30
    fetched = {tag for page in pages for tag in FETCHED.findall(page.read_text(encoding="utf-8"))}
    assert fetched == set()


def test_the_reference_has_what_the_library_is_for(site: Path) -> None:
    reference = "".join(path.read_text() for path in (site / "reference").glob("*.html"))
    assert [name for name in PROMISED if f'id="{name}"' not in reference] == []
