"""The page of the companion in a browser: both themes, any width, by keyboard, without errors."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nyquist.companion.watch.verdict import Verdict
from nyquist.server.artifact.manifest import read_manifest
from tests.chromium import Chromium
from tests.companion.page_records import (
    BROKEN,
    disagreement,
    filled_history,
    filled_live,
    filled_record,
    listening,
    new_record,
    point,
    state,
    young,
)

NARROW, WIDE = 320, 1600
PAGES = ("/", "/models/broken", "/models/stranger", "/models/young", "/rollouts/broken", "/report/")
TAB = 9

WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CUT = """[...document.querySelectorAll("p, dd, h1, h2, h3, li, figcaption, td, th")]
  .filter(one => !one.closest(".scroll, .skip"))
  .filter(one => one.getBoundingClientRect().right > innerWidth + 1)
  .map(one => one.textContent)"""
SKY = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
REACHABLE = """[...document.querySelectorAll("a[href], summary, [tabindex='0']")]
  .map(one => one.outerHTML)"""
FOCUSED = """(() => { const one = document.activeElement, style = getComputedStyle(one);
  const seen = style.outlineStyle != "none" && parseFloat(style.outlineWidth) >= 2;
  return {html: one.outerHTML, seen, ended: one === document.body}; })()"""
FAINT = """(() => {
  const light = colour => { const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(x => x / 255)
    .map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const ground = one => { const colour = getComputedStyle(one).backgroundColor;
    return colour != "rgba(0, 0, 0, 0)" ? colour
      : one.parentElement ? ground(one.parentElement) : "rgb(255, 255, 255)"; };
  const found = [];
  for (const one of document.body.querySelectorAll("*")) {
    if (![...one.childNodes].some(each => each.nodeType == 3 && each.textContent.trim())) continue;
    if (one.closest("title, desc")) continue;
    const style = getComputedStyle(one);
    const ink = one.namespaceURI.endsWith("svg") ? style.fill : style.color;
    const [high, low] = [light(ink), light(ground(one))].sort((a, b) => b - a);
    if ((high + 0.05) / (low + 0.05) < 4.5) found.push(one.outerHTML);
  }
  return found; })()"""
"""Text whose contrast is less than WCAG's AA asks for."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with closing(Chromium(tmp_path_factory.mktemp("profile"))) as opened:
        yield opened


@pytest.fixture(scope="module")
def address(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where the pages of four models are, with a report."""
    manifest = read_manifest(repository / "fashion_blur", 1)
    report = tmp_path_factory.mktemp("repository") / "report"
    report.mkdir()
    for name in ("index", "broken"):
        (report / f"{name}.html").write_text("<!doctype html><title>report</title><p>A report")
    record = filled_record(manifest)
    degraded = replace(state("broken", Verdict.DEGRADED, BROKEN, manifest), version="2")
    record.note_model(degraded)
    record.note_model(young(manifest))
    record.note_point(("broken", "2"), point(9, Verdict.DEGRADED, BROKEN))
    record.note_disagreement(replace(disagreement(), labels=("W" * 60,) * 3, trace_id="5a" * 16))
    with listening(record, report, history=filled_history(), live=filled_live()) as listener:
        yield f"http://127.0.0.1:{listener.port}"


def stops(browser: Chromium) -> Iterator[dict[str, Any]]:
    """Press the tabulator until the page has been gone through; yield what has the focus."""
    for _ in range(200):
        browser.press("Tab", TAB)
        focused = browser.evaluate(FOCUSED)
        if focused["ended"]:
            return
        yield focused


@pytest.mark.parametrize("path", PAGES)
@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_page_is_drawn_in_its_theme_at_any_width_and_all_of_it_can_be_read(
    browser: Chromium, address: str, path: str, width: int, theme: str
) -> None:
    browser.look(width, theme)
    browser.open(address + path)
    assert browser.complaints == []
    assert browser.evaluate(WIDER) == 0
    assert browser.evaluate(CUT) == []
    if path != "/report/":
        sky = browser.evaluate(SKY)
        assert sky > 250 if theme == "light" else sky < 40
        assert browser.evaluate(FAINT) == []


def test_what_goes_wrong_in_a_page_is_noticed(browser: Chromium, address: str) -> None:
    browser.look(NARROW, "light")
    browser.open(address)
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x.png>')")
    browser.evaluate("document.querySelector('h1').style.cssText = 'width: 500px; color: #ccc', 0")
    assert any("Content Security Policy" in line for line in browser.complaints)
    assert browser.evaluate(WIDER) > 0
    assert len(browser.evaluate(CUT)) == 1
    assert len(browser.evaluate(FAINT)) == 1


@pytest.mark.parametrize("path", ["/", "/models/broken", "/rollouts/broken"])
def test_the_keyboard_reaches_every_link_and_table_in_order_and_shows_where_it_is(
    browser: Chromium, address: str, path: str
) -> None:
    browser.look(WIDE, "light")
    browser.open(address + path)
    browser.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    visited = list(stops(browser))
    assert [stop["html"] for stop in visited] == browser.evaluate(REACHABLE)
    assert len(visited) > 8
    assert visited
    assert all(stop["seen"] for stop in visited)


def test_the_empty_page_fits_a_narrow_window(browser: Chromium, tmp_path: Path) -> None:
    with listening(new_record(), tmp_path) as listener:
        browser.look(NARROW, "dark")
        browser.open(f"http://127.0.0.1:{listener.port}")
        assert browser.complaints == []
        assert browser.evaluate(WIDER) == 0
        assert "No model has been probed yet" in browser.evaluate("document.body.textContent")
