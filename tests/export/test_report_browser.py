"""The pages in a browser, opened from a file: both themes, any width, without errors."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nyquist.export.report.pages import write_pages
from tests.chromium import installed_browser
from tests.export.test_report_pages import UNMEASURED, record

TIMEOUT_S = 120
NARROW, WIDE = 400, 1280
PROBE = """<script>addEventListener("load", () => {
  const root = document.documentElement;
  const hidden = [...document.querySelectorAll("p, dd, h1, h2, h3, figcaption")]
    .filter(each => each.getBoundingClientRect().right > root.clientWidth + 1);
  root.dataset.probe = `${root.scrollWidth - root.clientWidth} ${hidden.length}`;
});</script>"""
"""Put into a copy of a page: how far it is wider than its window, and how much text is cut."""


@dataclass(frozen=True)
class Shot:
    """What the browser made of a page.

    Attributes:
        pixels: (H, W, 3).
        console: lines that the page wrote to the console.
    """

    pixels: np.ndarray
    console: list[str]


Shoot = Callable[[Path, int, str], Shot]


@pytest.fixture(scope="session")
def browser() -> str:
    """Return the path of a browser."""
    return installed_browser()


@pytest.fixture(scope="session")
def report(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the pages of a model that was measured and of one that was not."""
    folder = tmp_path_factory.mktemp("browsed")
    for name in ("fashion_max_blur", UNMEASURED):
        shutil.copytree(repository / name, folder / name)
    record(folder / "fashion_max_blur").write(folder)
    return write_pages(folder).parent


def run_browser(browser: str, page: Path, width: int, theme: str, *options: str) -> str:
    """Open a page from its file; return what the browser says."""
    scheme = {"dark": "0", "light": "1"}[theme]
    command = [
        browser,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--hide-scrollbars", "--disable-dev-shm-usage", "--enable-logging=stderr"),
        *(f"--window-size={width},1600", f"--blink-settings=preferredColorScheme={scheme}"),
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def shoot(browser: str, tmp_path: Path) -> Shoot:
    """Return a camera: page, width, theme -> Shot."""

    def take(page: Path, width: int, theme: str) -> Shot:
        picture, profile = tmp_path / "shot.png", f"--user-data-dir={tmp_path / 'profile'}"
        said = run_browser(browser, page, width, theme, profile, f"--screenshot={picture}")
        with Image.open(picture) as image:
            pixels = np.asarray(image.convert("RGB"))
        return Shot(pixels, [line for line in said.splitlines() if "CONSOLE" in line])

    return take


def ground(shot: Shot) -> int:
    """Return the brightness of the page's edge, 0..255."""
    return int(shot.pixels[:, :3].mean())


@pytest.mark.parametrize("name", ["index", "fashion_max_blur"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_is_drawn_in_its_theme_without_a_word_on_the_console(
    report: Path, shoot: Shoot, name: str, theme: str
) -> None:
    shot = shoot(report / f"{name}.html", WIDE, theme)
    assert shot.console == []
    assert shot.pixels.shape[1] == WIDE
    colours = np.unique(shot.pixels.reshape(-1, 3), axis=0)
    assert len(colours) > 100
    assert ground(shot) > 250 if theme == "light" else ground(shot) < 40
    written = np.abs(shot.pixels.astype(int).mean(axis=2) - ground(shot)) > 90
    assert written.mean() > 0.01
    assert written[: len(written) // 2].any()


def test_what_goes_wrong_in_a_page_is_seen_on_the_console(
    report: Path, shoot: Shoot, tmp_path: Path
) -> None:
    page = tmp_path / "broken.html"
    text = (report / "index.html").read_text()
    page.write_text(text.replace("</main>", '<img src="outside.png" alt=""></main>'))
    console = shoot(page, WIDE, "light").console
    assert any("Content Security Policy" in line for line in console)


@pytest.mark.parametrize("name", ["index", "fashion_max_blur", UNMEASURED])
def test_on_a_narrow_screen_only_tables_scroll_sideways_and_no_text_is_cut(
    report: Path, browser: str, tmp_path: Path, name: str
) -> None:
    page = tmp_path / "probed.html"
    text = (report / f"{name}.html").read_text()
    page.write_text(re.sub(r"<meta http-equiv[^>]*>", PROBE, text))
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    dumped = run_browser(browser, page, NARROW, "light", profile, "--dump-dom")
    found = re.search(r'data-probe="(-?\d+) (\d+)"', dumped)
    assert found is not None
    assert (int(found[1]), int(found[2])) == (0, 0)
