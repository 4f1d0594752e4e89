"""The page of the companion: what it shows of a record, and what it never serves."""

import json
import re
import shutil
from base64 import b64decode
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection, HTTPResponse
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image

from nyquist.companion.page.charts import Series, decades, draw, shares
from nyquist.companion.page.kit.pictures import picture_uri
from nyquist.companion.page.kit.wording import plain, power_of_ten
from nyquist.companion.page.web import WebListener
from nyquist.companion.watch.metrics import Metrics
from nyquist.companion.watch.record import Record, ServerState
from nyquist.companion.watch.verdict import Verdict
from nyquist.server.artifact.manifest import Manifest, read_manifest
from tests.companion.page_records import (
    BROKEN,
    HEALTHY,
    NOW_S,
    PERIOD_S,
    disagreement,
    filled_history,
    filled_record,
    listening,
    new_record,
    point,
    state,
    young,
)
from tests.export.pages import Page

MARKUP = "<img src=x onerror=alert('x')>"


@pytest.fixture(scope="module")
def manifest(repository: Path) -> Manifest:
    return read_manifest(repository / "fashion_blur", 1)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report beside a model's files, and a link out of it."""
    repository = tmp_path_factory.mktemp("repository")
    folder = repository / "report"
    folder.mkdir()
    for name in ("index", "sound"):
        (folder / f"{name}.html").write_text(f"<p>report of {name}</p>")
    (folder / ".healthy.html.partial").write_text("half written")
    (repository / "secret.txt").write_text("secret")
    (repository / "reports").mkdir()
    (repository / "reports" / "secret.txt").write_text("secret")
    (folder / "link.txt").symlink_to("../secret.txt")
    (folder / "inner.html").symlink_to("sound.html")
    return folder


@pytest.fixture(scope="module")
def filled(manifest: Manifest, report: Path) -> Iterator[WebListener]:
    with listening(filled_record(manifest), report) as listener:
        yield listener


def ask(listener: WebListener, path: str, method: str = "GET") -> tuple[HTTPResponse, str]:
    """Return an answer and its text; the path goes out as it is."""
    with closing(HTTPConnection("127.0.0.1", listener.port, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer, answer.read().decode()


def page_of(listener: WebListener, path: str = "/", status: int = 200) -> Page:
    """Return a page, whose tags match."""
    answer, text = ask(listener, path)
    assert answer.status == status, text
    return Page(text)


def shown(record: Record, report: Path, path: str = "/", status: int = 200) -> Page:
    """Return a page of a record."""
    with listening(record, report) as listener:
        return page_of(listener, path, status)


def test_the_overview_says_each_verdict_in_words_with_its_figures_the_worst_first(
    filled: WebListener,
) -> None:
    words = page_of(filled).words
    assert words.index("failing for") < words.index("unverifiable for") < words.index("healthy for")
    assert "parity: logits differ" in words
    assert "0.25 missed at most 0.0001" in words
    assert "98.5% ± 0.4 of 64, now at least 93.00%" in words
    assert "3.30 ms 5.50 ms" in words
    assert "there is no reference of 'stranger'" in words


def test_a_model_that_is_not_known_yet_says_how_far_it_is_and_what_was_counted(
    manifest: Manifest, report: Path
) -> None:
    record = new_record()
    record.note_model(young(manifest))
    with listening(record, report) as listener:
        overview = page_of(listener).words
        model = page_of(listener, "/models/young").words
        told = json.loads(ask(listener, "/api/models")[1])["models"][0]
    assert "measuring for" in overview
    assert "healthy" not in overview
    assert "circular shifts: 3 of 7 rounds" in overview
    assert "measuring, 3 of 7 rounds 14 of 16 so far 64.0% to 96.5%" in overview
    assert "measuring, 0 of 7 rounds" in model
    assert told["verdict"] == "measuring"
    assert told["consistency"]["value"] is None
    assert told["probe"]["progress"]["circular"]["rounds"] == 3


def test_live_traffic_is_shown_as_the_metrics_count_it(manifest: Manifest, report: Path) -> None:
    metrics = Metrics(PERIOD_S)
    metrics.know(("sound", "1"), manifest.tolerances)
    for count in (*[metrics.shadow_received] * 3, *[metrics.shadow_checked] * 2):
        count(("sound", "1"))
    metrics.shadow_dropped(("sound", "1"))
    with listening(filled_record(manifest), report, metrics) as listener:
        assert "2 compared of 3, 1 dropped" in page_of(listener).words
        words = page_of(listener, "/models/sound").words
    assert "3 inferences received, 2 compared, 1 dropped" in words


def test_the_page_of_a_candidate_says_the_decision_its_figures_and_what_differs(
    manifest: Manifest, report: Path
) -> None:
    with listening(filled_record(manifest), report, history=filled_history()) as listener:
        overview = page_of(listener).words
        page = page_of(listener, "/rollouts/broken")
        assert "failing: parity: logits differ" in page_of(listener, "/rollouts/stranger").words
        unknown = page_of(listener, "/rollouts/%3Cimg", 404).words
    assert "hold broken version 2 beside version 1 , 60 pictures" in overview
    assert "not enough yet sound version 2 beside version 1 , 5 pictures" in overview
    assert "Version 2 is not to take the place of version 1" in page.words
    assert "at most 5% beyond" in page.words
    assert "at most 50% kept" in page.words
    assert "Version 2: coat . Version 1: shirt" in page.words
    assert "The last 12 of 20 that are kept" in page.words
    assert "No two versions of <img were compared" in unknown
    assert "sound" in unknown


def test_before_the_first_probe_the_page_says_so(report: Path) -> None:
    words = shown(new_record(), report).words
    assert "127.0.0.1:8001 has not been asked yet" in words
    assert "No model has been probed yet." in words
    assert "None is kept" in words


def test_a_server_that_is_away_is_named_with_the_reason_above_what_was_last_seen(
    manifest: Manifest, report: Path
) -> None:
    record = filled_record(manifest)
    away = ServerState("127.0.0.1:8001", up=False, since_s=NOW_S, reason="UNAVAILABLE: refused")
    record.note_server(away)
    for path in ("/", "/models/sound"):
        words = shown(record, report, path).words
        assert "127.0.0.1:8001 is away since 2026-09-21 14:13:20 UTC: UNAVAILABLE: refused" in words
        assert "healthy" in words


def test_names_labels_and_reasons_are_escaped(manifest: Manifest, report: Path) -> None:
    record = new_record()
    hostile = state(MARKUP, Verdict.FAILING, BROKEN, manifest)
    record.note_model(replace(hostile, reason=MARKUP, provider=MARKUP, sha256=MARKUP))
    record.note_point((MARKUP, "1"), replace(point(9, Verdict.FAILING, BROKEN), sha256=MARKUP))
    record.note_disagreement(
        replace(disagreement(model=MARKUP), labels=(MARKUP,) * 3, trace_id=MARKUP)
    )
    record.note_server(ServerState(MARKUP, up=False, since_s=NOW_S, reason=MARKUP))
    for path, status in (("/", 200), (f"/models/{quote(MARKUP)}", 200), ("/models/%3Cimg", 404)):
        page = shown(record, report, path, status)
        assert not page.attributes("onerror")
        assert MARKUP in page.words


def test_a_model_page_draws_its_figures_over_time_and_says_the_same_in_words(
    filled: WebListener,
) -> None:
    page = page_of(filled, "/models/broken")
    charts = [one for one in page.elements if one.attributes.get("role") == "img"]
    assert len(charts) == 3
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    for chart in charts:
        assert set(chart.attributes["aria-labelledby"].split()) <= set(ids)
    words = page.words
    assert "30 probes from 2026-09-21 14:13:20 UTC to 2026-09-21 14:42:20 UTC" in words
    assert "zero padded: latest 0.951, from 0.95 to 0.956" in words
    assert "64 reference pictures, now; live: one pixel aside 98.5% ± 0.4 not known" in words
    assert "zero padded shifts: live: one pixel aside not known 97.0% ± 1.0" in words
    assert "1 picture 3.30 ms 5.50 ms 1.67" in words


def test_every_version_of_a_model_stands_on_its_page(manifest: Manifest, report: Path) -> None:
    record = filled_record(manifest)
    newer = replace(state("sound", Verdict.DEGRADED, BROKEN, manifest), version="2")
    record.note_model(newer)
    page = shown(record, report, "/models/sound")
    assert "Version 1: healthy Version 2: degraded" in page.words
    assert {"version-1", "version-2"} <= set(page.attributes("id"))


def test_a_version_without_a_reference_is_not_shown_as_good(filled: WebListener) -> None:
    words = page_of(filled, "/models/stranger").words
    assert "unverifiable" in words
    assert "cannot be verified, which says nothing against it" in words


def test_a_disagreement_shows_the_picture_both_answers_and_the_difference(
    filled: WebListener,
) -> None:
    page = page_of(filled, "/models/broken")
    assert (
        "Served: coat . PyTorch: shirt . Their logits lie furthest apart at coat, by +0.75."
        in page.words
    )
    assert "coat 2.0000 1.2500 +0.75" in page.words
    pixels = opened(next(uri for uri in page.attributes("src") if uri.startswith("data:")))
    assert (pixels == np.arange(64, dtype=np.uint8).reshape(8, 8) * 4).all()


def test_logits_that_are_not_finite_are_shown_as_what_they_are(
    manifest: Manifest, report: Path
) -> None:
    record = filled_record(manifest)
    broken = np.array([np.nan, np.inf, -1.0], np.float32)
    record.note_disagreement(replace(disagreement(), served=broken, labels=()))
    words = shown(record, report, "/models/broken").words
    assert "furthest apart at class 0, by not finite." in words
    assert "class 1 inf 1.2500 not finite" in words


def test_only_the_latest_disagreements_are_drawn_and_the_page_says_of_how_many(
    manifest: Manifest, report: Path
) -> None:
    record = filled_record(manifest)
    for _ in range(19):
        record.note_disagreement(disagreement())
    page = shown(record, report, "/models/broken")
    assert "The last 12 of 20." in page.words
    assert len([uri for uri in page.attributes("src") if uri.startswith("data:")]) == 12


def opened(uri: str) -> np.ndarray:
    """Return the pixels of a data URI."""
    with Image.open(BytesIO(b64decode(uri.partition(",")[2]))) as image:
        return np.asarray(image)


@pytest.mark.parametrize("layout", ["HWC", "CHW"])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_of_any_layout_and_channels_are_drawn(layout: str, channels: int) -> None:
    picture = np.zeros((6, 9, channels), np.uint8)
    picture[2, 3] = 200
    pixels = opened(picture_uri(picture if layout == "HWC" else picture.transpose(2, 0, 1), layout))
    assert pixels.shape == ((6, 9, 3) if channels == 3 else (6, 9))
    assert (pixels[2, 3] == 200).all()
    assert pixels.sum() == 200 * (3 if channels == 3 else 1)


def test_floats_are_drawn_from_their_least_to_their_greatest_value_even_if_one_is_not_finite() -> (
    None
):
    picture = np.array([[[-1.0, 0.0], [1.0, np.nan]]], np.float16)
    assert opened(picture_uri(picture, "CHW")).tolist() == [[0, 128], [255, 128]]
    assert opened(picture_uri(np.ones((1, 2, 2), np.float32), "CHW")).max() == 0


def test_large_pictures_are_scaled_down() -> None:
    assert opened(picture_uri(np.zeros((3, 448, 224), np.uint8), "CHW")).shape == (112, 56, 3)


def test_an_unknown_model_is_answered_with_404_and_the_known_names(filled: WebListener) -> None:
    page = page_of(filled, "/models/nobody", 404)
    assert "No model nobody is served" in page.words
    assert {"sound", "broken", "stranger"} <= set(page.attributes("href"))
    assert page_of(filled, "/models/broken").words != page.words


def test_every_link_of_the_pages_leads_somewhere(filled: WebListener) -> None:
    anchors = files = 0
    for place in ("/", "/models/sound", "/models/nobody"):
        page = Page(ask(filled, place)[1])
        folder = place.rpartition("/")[0]
        for link in page.attributes("href"):
            path, _, anchor = link.partition("#")
            if anchor:
                at = page if not path else page_of(filled, f"{folder}/{path}")
                assert anchor in at.attributes("id"), link
                anchors += 1
            elif not link.startswith(("data:", "?")):
                target = re.sub(r"^/models/\.\./", "/", f"{folder}/{link}")
                assert ask(filled, target)[0].status == 200, link
                files += 1
    assert anchors >= 3
    assert files >= 9


def test_the_report_is_linked_where_it_has_a_page_and_not_where_it_has_none(
    filled: WebListener, manifest: Manifest, tmp_path: Path
) -> None:
    assert "report/" in page_of(filled).attributes("href")
    assert "../report/sound.html" in page_of(filled, "/models/sound").attributes("href")
    assert "report" not in "".join(page_of(filled, "/models/broken").attributes("href"))
    assert ask(filled, "/report/sound.html")[1] == "<p>report of sound</p>"
    with listening(filled_record(manifest), tmp_path / "report") as without:
        assert "report/" not in page_of(without).attributes("href")
        assert ask(without, "/report/index.html")[0].status == 404


@pytest.mark.parametrize(
    "path",
    [
        "/report/../secret.txt",
        "/report/%2e%2e/secret.txt",
        "/report/..%2fsecret.txt",
        "/report/..%5csecret.txt",
        "/report//etc/passwd",
        "/report/%2fetc/passwd",
        "/report/../reports/secret.txt",
        "/reports/secret.txt",
        "/report/link.txt",
        "/report/inner.html",
        "/report/.healthy.html.partial",
        "/report/%00",
        "/report/" + "a" * 300,
        "/secret.txt",
        "/page/templates/layout.html",
    ],
)
def test_no_path_leaves_the_folder_of_the_report_and_no_link_is_followed(
    filled: WebListener, path: str
) -> None:
    answer, text = ask(filled, path)
    assert answer.status == 404
    assert "secret" not in text


def test_a_report_that_is_itself_a_link_is_not_served(
    manifest: Manifest, report: Path, tmp_path: Path
) -> None:
    link = tmp_path / "report"
    link.symlink_to(report)
    with listening(filled_record(manifest), link) as listener:
        assert ask(listener, "/report/sound.html")[0].status == 404
        link.unlink()
        shutil.copytree(report, link, symlinks=True)
        assert ask(listener, "/report/sound.html")[0].status == 200


def test_a_browser_may_draw_the_pages_and_nothing_else(filled: WebListener) -> None:
    for path in ("/", "/models/sound", "/models/nobody", "/page.css", "/metrics", "/nothing"):
        headers = ask(filled, path)[0].headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; style-src 'self'; img-src data:;"
        ), path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    policy = ask(filled, "/report/sound.html")[0].headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")


@pytest.mark.parametrize("path", ["/", "/models/sound", "/page.css", "/report/sound.html"])
def test_pages_are_to_read_only(filled: WebListener, path: str) -> None:
    whole, _ = ask(filled, path)
    head, text = ask(filled, path, "HEAD")
    assert (head.status, text) == (200, "")
    assert head.headers["content-type"] == whole.headers["content-type"]
    for method in ("POST", "PUT", "DELETE"):
        answer, _ = ask(filled, path, method)
        assert answer.status == 405
        assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


def test_a_page_loads_itself_again_only_when_it_is_asked_to(filled: WebListener) -> None:
    assert "http-equiv" not in ask(filled, "/")[1]
    assert '<meta http-equiv="refresh" content="5">' in ask(filled, "/?reload")[1]


def test_a_line_ends_where_nothing_was_measured_and_where_another_graph_is_served() -> None:
    times = [0.0, 60.0, 120.0, 180.0, 600.0, 660.0, 720.0, 780.0]
    values = (1.0, 2.0, None, 3.0, 4.0, 5.0, 6.0, 7.0)
    graphs = ["a"] * 6 + ["b"] * 2
    chart = draw("ms", times, [Series("x", "y", values)], decades([1, 7], plain), graphs=graphs)
    (line,) = chart.lines
    assert [len(run.split("L")) for run in line.path.split("M")[1:]] == [2, 1, 2, 2]
    assert len(chart.changes) == 1
    assert len(line.dots) == 7


def test_scales_hold_all_that_is_drawn() -> None:
    errors = decades([0.0, 2e-6, 1e-4, float("inf")], power_of_ten)
    heights = [errors.place(value) for value in (0.0, 2e-6, 1e-4, float("inf"))]
    assert heights == sorted(heights, reverse=True)
    assert len(set(heights)) == 4
    assert [text for _, text in errors.ticks] == ["0", "10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "∞"]
    assert [text for _, text in shares([0.985]).ticks] == ["98%", "99%", "100%"]
    assert shares([0.0]).ticks[0] == (0.0, "0%")
    assert [text for _, text in decades([3.3, 6], plain).ticks] == ["1", "2", "5", "10"]


def test_one_probe_and_a_thousand_are_drawn_too() -> None:
    for count in (1, 1440):
        times = [NOW_S + PERIOD_S * at for at in range(count)]
        values = tuple(HEALTHY.relative_error for _ in times)
        chart = draw("parity", times, [Series("x", "y", values)], decades([1e-4, *values], plain))
        assert 1 <= len(chart.across) <= 5
        places = [tick.at for tick in chart.across]
        assert all(after - before > 70 for before, after in pairwise(places))
        assert "nan" not in chart.lines[0].path
