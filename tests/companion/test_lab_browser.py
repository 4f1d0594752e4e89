"""The shift lab in a browser, by doing: drop, slide, draw a map, save, compare, and read it all."""

import csv
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from nyquist.models.samples import PHOTOGRAPHS
from tests.chromium import Chromium
from tests.companion.lab_runs import opened
from tests.npm import installed
from tests.processes import RunningServer

COAT = PHOTOGRAPHS.parent / "fashion" / "coat.png"
NARROW, WIDE = 360, 1400
CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
RIGHT, HOME = ("ArrowRight", 39), ("Home", 36)

DONE = "document.getElementById('state').textContent.startsWith('done')"
FRESH = "document.getElementById('state').textContent = ''"
SAID = "document.getElementById('here').textContent"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CARD = "[...document.querySelectorAll('.card')].find(one => one.ariaLabel == {!r})"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with closing(Chromium(tmp_path_factory.mktemp("profile"), *CAMERA)) as started:
        yield started


@pytest.fixture(scope="module")
def address(server: RunningServer) -> Iterator[str]:
    with opened(server.target) as port:
        yield f"http://127.0.0.1:{port}/lab"


@pytest.fixture
def page(browser: Chromium, address: str) -> Chromium:
    """The lab, opened anew, with a strided and an anti-aliased model chosen."""
    browser.look(WIDE, "light")
    browser.open(address)
    browser.wait_for("document.documentElement.dataset.ready")
    for name in ("fashion_strided", "fashion_blur"):
        choose(browser, f'[name=model][value="0/{name}/1"]')
    return browser


def choose(page: Chromium, selector: str) -> None:
    page.evaluate(f"{FRESH}; document.querySelector({selector!r}).click()")


def card(page: Chromium, name: str, what: str) -> Any:
    """Return a property of the part of the page that shows one model."""
    return page.evaluate(f"({CARD.format(name)}).{what}")


def slid(page: Chromium, path: str = "diagonal") -> Chromium:
    """Drop the coat on the page, and let it slide."""
    choose(page, f"[name=path][value={path}]")
    page.evaluate(FRESH)
    page.drop("#drop", COAT)
    page.wait_for(DONE)
    return page


def test_a_picture_that_is_dropped_slides_and_every_flip_is_marked(page: Chromium) -> None:
    slid(page)
    assert "0 of 16 moves by 1 px change the answer" in card(page, "fashion_blur", "textContent")
    strided = card(page, "fashion_strided", "textContent")
    flips = int(strided.split(" of 16 moves")[0].rpartition("fashion_strided")[2])
    assert flips > 4
    marks = "querySelectorAll('.flip-mark').length"
    assert card(page, "fashion_strided", marks) == flips
    assert card(page, "fashion_blur", marks) == 0
    page.click("#next-flip")
    sides = card(page, "fashion_strided", "querySelector('.sides').textContent")
    assert "difference, white is" in sides
    assert card(page, "fashion_blur", "querySelector('.sides')") is None
    assert "flips here" in page.evaluate(SAID)
    assert page.complaints == []


def test_the_picture_is_moved_by_mouse_finger_keys_and_slider(page: Chromium) -> None:
    slid(page, "right")
    x, y = page.place("#pad")
    scale = page.evaluate("document.getElementById('seen').clientWidth / 48")
    page.mouse((x, y), (x + 2 * scale, y), (x + 5 * scale, y + 30))
    assert page.evaluate(SAID).startswith("5 px. ")
    page.touch((x, y), (x + scale, y), (x + 3 * scale, y))
    assert page.evaluate(SAID).startswith("8 px. ")
    page.evaluate("document.getElementById('pad').focus()")
    page.press(*RIGHT)
    assert page.evaluate(SAID).startswith("9 px. ")
    page.press(*HOME)
    assert page.evaluate(SAID).startswith("0 px. ")
    page.evaluate("document.getElementById('right').focus()")
    page.press(*RIGHT)
    assert page.evaluate(SAID).startswith("1 px. ")


def test_what_is_shown_is_what_the_server_moved_to_the_pixel(page: Chromium) -> None:
    slid(page, "right")
    page.evaluate("document.getElementById('pad').focus()")
    for _ in range(3):
        page.press(*RIGHT)
    shown = page.evaluate(
        "[...document.getElementById('seen').getContext('2d').getImageData(0, 0, 48, 48).data]"
        ".filter((_, at) => at % 4 == 0)"
    )
    canvas = Image.new("L", (48, 48))
    canvas.paste(Image.open(COAT), (10 + 3, 10))
    assert shown == list(canvas.tobytes())


def test_a_map_is_drawn_when_it_is_asked_for_and_shows_what_is_pointed_at(page: Chromium) -> None:
    slid(page)
    choose(page, "[name=path][value=map]")
    page.click("#run")
    page.wait_for(DONE)
    cells = "querySelectorAll('.map .cell').length"
    assert card(page, "fashion_strided", cells) == card(page, "fashion_blur", cells) == 256
    assert card(page, "fashion_strided", "querySelectorAll('.border').length") > 100
    assert card(page, "fashion_blur", "querySelectorAll('.border').length") == 0
    page.hover(*page.place(".map .cell:nth-of-type(20)"))
    assert page.evaluate(SAID).startswith("3 right, 1 down. ")


def test_a_run_is_cancelled_and_the_next_one_begins(page: Chromium) -> None:
    choose(page, '[name=model][value="0/efficientnet_lite0/1"]')
    choose(page, "[name=path][value=map]")
    page.drop("#drop", COAT)
    page.evaluate("document.getElementById('step').value = '0.5'")
    page.click("#run")
    page.wait_for("document.getElementById('progress').value > 0")
    page.click("#cancel")
    page.wait_for("document.getElementById('state').textContent == 'cancelled'")
    choose(page, '[name=model][value="0/efficientnet_lite0/1"]')
    slid(page, "right")


def test_what_is_seen_is_saved(page: Chromium, tmp_path: Path) -> None:
    slid(page)
    files = {
        kind: page.saved(tmp_path, f"[data-save={kind}]") for kind in ("csv", "svg", "png", "gif")
    }
    assert {kind: path.name for kind, path in files.items()} == {
        kind: f"coat_diagonal.{kind}" for kind in files
    }
    rows = list(csv.DictReader(files["csv"].read_text().splitlines()))
    assert len(rows) == 2 * 17
    assert {row["answer"] for row in rows if row["model"] == "fashion_blur"} == {"coat"}
    assert [row["right_px"] for row in rows[:3]] == ["0", "1", "2"]
    drawn = ElementTree.parse(files["svg"]).getroot()  # noqa: S314 - our own
    words = "".join(drawn.itertext())
    assert "fashion_strided" in words
    assert "Consistency against distance" in words
    assert not drawn.findall(".//*[@class]")
    with Image.open(files["png"]) as png, Image.open(files["gif"]) as gif:
        assert png.width > 1000
        assert getattr(gif, "n_frames", 1) == 17


def test_many_pictures_are_compared_and_the_worst_comes_first(page: Chromium) -> None:
    choose(page, "[name=path][value=diagonal]")
    page.click("[data-group=fashion]")
    page.wait_for(DONE)
    words = page.evaluate("document.getElementById('compared').textContent")
    assert "9 of 10" in words
    assert "on the Pareto front" in words
    assert page.evaluate("document.querySelector('.gallery h4').textContent") == "coat.png"
    assert page.evaluate("document.querySelectorAll('.plots svg').length") == 2
    page.evaluate(FRESH)
    page.click(".gallery button")
    page.wait_for(DONE)
    assert card(page, "fashion_strided", "querySelectorAll('.flip-mark').length") > 4


def test_a_folder_that_is_dropped_is_compared_by_the_classes_in_it(
    page: Chromium, tmp_path: Path
) -> None:
    for label, name in (("coat", "one.png"), ("bag", "two.png"), ("bag", "notes.txt")):
        (tmp_path / "mine" / label).mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / label / name).write_bytes(COAT.read_bytes())
    page.evaluate(FRESH)
    page.drop("#drop", tmp_path / "mine")
    page.wait_for(DONE)
    words = page.evaluate("document.getElementById('compared').textContent")
    assert "1 fashion_bluron the Pareto front1 of 2" in words
    assert "0 of 32" in words


def test_a_picture_is_pasted_or_taken_with_the_camera(page: Chromium) -> None:
    page.evaluate(
        "fetch('lab/samples/fashion/coat').then(answer => answer.blob()).then(blob => {"
        "const pasted = new DataTransfer();"
        "pasted.items.add(new File([blob], 'pasted.png', {type: 'image/png'}));"
        "document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: pasted})); })"
    )
    page.wait_for(DONE)
    before = page.evaluate(SAID)
    page.evaluate(FRESH)
    page.click("#camera")
    page.wait_for("document.getElementById('video').videoWidth > 0")
    page.click("#snap")
    page.wait_for(DONE)
    assert page.evaluate("document.getElementById('camera-box').hidden")
    assert page.evaluate(SAID) != before


def test_what_is_no_picture_is_told(page: Chromium, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    page.drop("#drop", tmp_path / "notes.txt")
    page.wait_for("!document.getElementById('error').hidden")
    told = page.evaluate("document.getElementById('error').textContent")
    assert told.startswith("notes.txt: expected a file of format JPEG, PNG, WEBP")


@pytest.mark.parametrize(("width", "theme"), [(WIDE, "light"), (NARROW, "dark")])
def test_all_of_it_is_for_everybody(page: Chromium, width: int, theme: str) -> None:
    page.look(width, theme)
    axe = installed(Path(__file__).parent / "axe") / "node_modules" / "axe-core" / "axe.min.js"
    slid(page)
    page.click("#next-flip")
    page.evaluate(FRESH)
    page.click("[data-group=fashion]")
    page.wait_for(DONE)
    page.evaluate(axe.read_text() + ";0")
    found = page.evaluate(
        "axe.run().then(all => all.violations.map(one => [one.id, one.nodes.map(each => "
        "each.html + ' ' + each.failureSummary)]))"
    )
    assert found == []
    assert page.evaluate(WIDER) == 0
    assert page.complaints == []
