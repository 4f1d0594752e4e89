"""The pages of the report: whole, closed in themselves, and true to what was measured."""

import re
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from nyquist.companion.page.kit import report_folder
from nyquist.companion.page.kit.wording import built, decade, milliseconds, percent, share
from nyquist.companion.references.network import load_reference, load_samples
from nyquist.export.report.families import group
from nyquist.export.report.measurement import collect
from nyquist.export.report.model_page import Gate, flattened, gates, read_page
from nyquist.export.report.pages import write_pages
from nyquist.export.report.record import (
    Cost,
    Flips,
    Gradients,
    Latency,
    ModelReport,
    MoveLine,
    Moves,
    ReceptiveField,
    Shifts,
    SlidePicture,
    Spectra,
    Unmeasured,
    read_report,
)
from nyquist.export.report.speed import measure_speed
from nyquist.export.report.wording import MEANINGS, compact, figure
from nyquist.models.loading import load_network
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.zoo import specs
from nyquist.server.artifact.built import circular_of, one_pixel_of
from nyquist.server.artifact.manifest import Stabilisation, read_manifest
from tests.export.pages import Page
from tests.processes import ROOT

MEASURED = ("fashion_strided", "fashion_max_blur")
UNMEASURED = "fashion_blur"
MOST_BYTES = 500_000
HOSTILE = '<script>alert("1")</script>'


def record(folder: Path) -> ModelReport:
    """Measure a built model on ten of its pictures, PyTorch against itself."""
    spec = specs()[folder.name]
    manifest = read_manifest(folder, 1)
    network = load_network(spec)
    return collect(
        spec,
        network,
        PreprocessedNetwork(network, spec.preprocessing).eval(),
        load_reference(folder, manifest).predict,
        load_samples(folder, manifest).spread(10),
        manifest.files["1/model.onnx"],
    )


@pytest.fixture(scope="module")
def measured(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a repository of three models, two of them measured."""
    folder = tmp_path_factory.mktemp("measured")
    for name in (*MEASURED, UNMEASURED):
        shutil.copytree(repository / name, folder / name)
    torch.manual_seed(0)
    for name in MEASURED:
        record(folder / name).write(folder)
    measure_speed(folder, [read_manifest(folder / name, 1) for name in MEASURED])
    return folder


@pytest.fixture
def folder(measured: Path, tmp_path: Path) -> Path:
    """Return a copy of that repository and its report, to do harm to."""
    folder = Path(shutil.copytree(measured, tmp_path / "repository"))
    shutil.copytree(report_folder(measured), report_folder(folder))
    return folder


def written(folder: Path) -> dict[str, Page]:
    write_pages(folder)
    pages = {path.stem: Page(path.read_text()) for path in report_folder(folder).glob("*.html")}
    assert "index" in pages
    assert len(pages) > 1
    return pages


def change(folder: Path, name: str, **parts: Any) -> ModelReport:
    changed = read_report(folder, name).model_copy(update=parts)
    changed.write(folder)
    return changed


def test_latency_is_that_of_one_eight_and_the_largest_batch(folder: Path) -> None:
    for name in MEASURED:
        latency = read_report(folder, name).latency
        assert isinstance(latency, Latency)
        assert [line.batch for line in latency.lines] == [1, 8, 64]
        for line in latency.lines:
            assert 0 < line.low <= line.median <= line.high
            assert line.runs >= 3


def test_a_model_served_in_batches_below_eight_has_an_empty_cell_for_eight(folder: Path) -> None:
    latency = read_report(folder, MEASURED[0]).latency
    assert isinstance(latency, Latency)
    one = latency.lines[0]
    two = one.model_copy(update={"batch": 2})
    change(folder, MEASURED[0], latency=latency.model_copy(update={"lines": (one, two)}))
    row = written(folder)["index"].words.split(MEASURED[0])[1].split("version")[1]
    time = milliseconds(one.median)
    assert f" {time} {time} at 2" in row


def test_there_is_an_index_and_a_page_for_each_model_and_nothing_else(folder: Path) -> None:
    assert write_pages(folder) == report_folder(folder) / "index.html"
    assert sorted(path.name for path in report_folder(folder).iterdir()) == [
        "fashion_blur.html",
        "fashion_max_blur.html",
        "fashion_max_blur.json",
        "fashion_strided.html",
        "fashion_strided.json",
        "index.html",
    ]


def test_pages_are_written_without_torch(folder: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from nyquist.export.report.pages import write_pages;"
        "write_pages(Path(sys.argv[1])); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0


def test_the_same_measurements_give_the_same_bytes(folder: Path) -> None:
    def contents() -> dict[str, bytes]:
        write_pages(folder)
        return {path.name: path.read_bytes() for path in report_folder(folder).iterdir()}

    assert contents() == contents()


def test_every_tag_is_closed_and_every_reference_within_a_page_is_met(folder: Path) -> None:
    for name, page in written(folder).items():
        identifiers = page.attributes("id")
        assert len(identifiers) == len(set(identifiers)), name
        named = page.attributes("aria-labelledby")
        named += [link[1:] for link in page.attributes("href") if link.startswith("#")]
        assert len(named) > 2
        assert set(named) <= set(identifiers), name


def test_a_page_asks_for_nothing_outside_the_report(folder: Path) -> None:
    pages = written(folder)
    for name, page in pages.items():
        assert not {"script", "iframe", "object", "embed"} & {x.tag for x in page.elements}, name
        sources = page.attributes("src") + page.attributes("xlink:href") + page.attributes("href")
        sources += re.findall(r"url\(\s*[\"']?([^\"')]+)", page.source)
        assert sources
        for source in sources:
            local = source.removesuffix(".html") in pages
            assert local or source.startswith(("#", "data:")), source
        assert "@import" not in page.source
        assert not [x for x in page.elements if any(key.startswith("on") for key in x.attributes)]
        policy = next(x for x in page.elements if "http-equiv" in x.attributes)
        assert policy.attributes["content"] == (
            "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        )
        assert len(page.source.encode()) < MOST_BYTES


def test_sections_have_titles_in_order_and_what_scrolls_can_be_reached_by_keyboard(
    folder: Path,
) -> None:
    for name, page in written(folder).items():
        levels = [int(x.tag[1]) for x in page.elements if re.fullmatch(r"h[1-6]", x.tag)]
        assert levels.count(1) == 1
        assert levels[0] == 1
        assert all(after <= before + 1 for before, after in pairwise(levels)), (name, levels)
        scrolling = [x for x in page.elements if "scroll" in x.attributes.get("class", "").split()]
        assert scrolling
        for region in scrolling:
            assert region.attributes["tabindex"] == "0"
            assert region.attributes["aria-label"]
        for picture in page.elements:
            if picture.tag == "svg":
                assert picture.attributes["role"] == "img"
                assert picture.attributes["aria-label"]
        assert {"header", "main", "nav", "footer"} <= {x.tag for x in page.elements}


def test_a_page_names_the_version_and_the_checksum_of_the_graph_it_describes(folder: Path) -> None:
    for name, page in written(folder).items():
        if name == "index":
            continue
        manifest = read_manifest(folder / name, 1)
        graph = manifest.files["1/model.onnx"]
        assert f"Of {name} version 1, graph {graph}" in page.words


def test_the_figures_of_a_page_are_those_that_were_measured(folder: Path) -> None:
    words = written(folder)["fashion_strided"].words
    report = read_report(folder, "fashion_strided")
    assert isinstance(report.shifts, Shifts)
    assert len(report.shifts.consistency) >= 2
    assert len(report.shifts.stability) >= 2
    for line in report.shifts.consistency:
        assert line.served is not None
        value, error = line.served.value, line.served.standard_error
        shown = share(value, error, report.shifts.pictures, line.each)
        assert f"{line.how} {shown}" in words
    manifest = read_manifest(folder / "fashion_strided", 1)
    circular = built(circular_of(manifest))
    assert f"of all 500 samples; the limit above is of this one {circular}" in words
    one_pixel = one_pixel_of(manifest)
    assert one_pixel
    assert f"windows of 500 larger pictures, one pixel apart {built(one_pixel)}" in words
    for line in report.shifts.stability:
        assert line.served is not None
        value = line.served.value
        error, count = line.served.standard_error, report.shifts.pictures
        shown = share(value, error, count, line.each) if line.unit == "share" else f"{value:.2f} ±"
        assert f"{line.how} {shown}" in words


def test_tables_hold_the_lines_that_were_measured(folder: Path) -> None:
    words = written(folder)["fashion_strided"].words
    report = read_report(folder, "fashion_strided")
    assert isinstance(report.cost, Cost)
    assert isinstance(report.latency, Latency)
    assert isinstance(report.gradients, Gradients)
    assert isinstance(report.spectra, Spectra)
    assert isinstance(report.field, ReceptiveField)
    for table in (report.cost, report.latency, report.gradients, report.spectra, report.field):
        assert table.lines
    expected = [
        *(f"{x.layer} {x.kind} " for x in report.cost.lines),
        *(f"{x.multiply_adds:,} {x.parameters:,}" for x in report.cost.lines),
        *(f"{milliseconds(x.low)} to {milliseconds(x.high)}" for x in report.latency.lines),
        *(f"{x.batch} {milliseconds(x.median)} " for x in report.latency.lines),
        *(f"{x.magnitude:.2e} {x.deviation:.2e}" for x in report.gradients.lines),
        *(f"{percent(x.entering)} {percent(x.sampled or 0)}" for x in report.spectra.lines),
        *(f"{x.layer} {x.op}" for x in report.field.lines),
        f"95% square {report.field.side} px",
        f"looked through {report.field.layer} at row {report.field.position[0]}",
    ]
    for part in expected:
        assert part in words, part


def test_every_figure_and_limit_of_the_manifest_is_on_the_page(folder: Path) -> None:
    words = written(folder)["fashion_blur"].words
    manifest = read_manifest(folder / "fashion_blur", 1)
    assert len(flattened(manifest.figures.model_dump())) > 10
    assert len(manifest.tolerances.model_dump()) >= 3
    for name, value in flattened(manifest.figures.model_dump()).items():
        assert f"{' '.join(MEANINGS[name])} {figure(value)}" in words, name
    for name, limit in manifest.tolerances.model_dump().items():
        assert " ".join(MEANINGS[name]) in words
        assert re.search(rf"at (most|least) {re.escape(figure(limit))} held", words), name


def test_a_limit_on_a_share_stands_beside_what_was_counted(folder: Path) -> None:
    path = folder / "fashion_blur" / "1" / "manifest.json"
    manifest = read_manifest(folder / "fashion_blur", 1)
    few = {"accuracy": 1.0, "labelled": 2, "samples": 5, "consistency": 1.0, "agreement": 1.0}
    figures = manifest.figures.model_copy(update={**few, "consistency_error": 0.0})
    path.write_text(manifest.model_copy(update={"figures": figures}).to_json())
    words = written(folder)["fashion_blur"].words
    for name, counted in (
        ("accuracy", "2 of 2"),
        ("agreement", "5 of 5"),
        ("consistency", "20 of 20"),
    ):
        assert f"{' '.join(MEANINGS[name])} {counted} at least" in words


def test_nested_figures_come_to_one_level() -> None:
    nested = {"a": 1, "b": {"c": None, "d": [2.0, {"e": "x"}]}}
    assert flattened(nested) == {"a": 1, "b.c": None, "b.d.0": 2.0, "b.d.1.e": "x"}


def test_a_limit_meets_the_figure_of_its_name_and_a_drop_that_of_two(folder: Path) -> None:
    manifest = read_manifest(folder / "fashion_blur", 1)
    figures = manifest.figures.model_copy(
        update={"torch_accuracy": 0.9, "accuracy": 0.875, "confidence": None, "parity": 2e-4}
    )
    found = {gate.name: gate for gate in gates(manifest.model_copy(update={"figures": figures}))}
    assert found["accuracy_drop"].value == pytest.approx(0.025)
    assert found["accuracy_drop"].at_most
    assert found["accuracy_drop"].held is False
    assert found["accuracy"] == Gate("accuracy", 0.82, 0.875, at_most=False)
    assert found["accuracy"].held is True
    assert found["parity"].held is False
    assert found["confidence"].held is None


def test_a_missed_limit_is_told_on_the_page_and_on_the_index(folder: Path) -> None:
    before = written(folder)
    assert "3 models, 3 of which hold every limit" in before["index"].words
    path = folder / "fashion_blur" / "1" / "manifest.json"
    path.write_text(re.sub(r'"accuracy": 0.82', '"accuracy": 0.99', path.read_text()))
    pages = written(folder)
    assert "limit missed" in pages["fashion_blur"].words
    assert "at least 0.99 missed" in pages["fashion_blur"].words
    assert "3 models, 2 of which hold every limit" in pages["index"].words


def test_what_was_not_measured_is_said_with_its_reason(folder: Path) -> None:
    parts = ("parity", "shifts", "field", "gradients", "spectra", "cost", "latency")
    reasons = {part: Unmeasured(reason=f"the {part} is not known") for part in parts}
    change(folder, "fashion_strided", **reasons)
    words = written(folder)["fashion_strided"].words
    for part in parts:
        assert f"Not measured: the {part} is not known" in words, part
    assert words.count("Not measured") == len(parts) + 1  # no picture was followed, either


def test_a_stabilised_model_stands_beside_the_plain_one_and_says_when_not_to_use_it(
    folder: Path,
) -> None:
    name = MEASURED[0]
    manifest = read_manifest(folder / name, 1)
    stabilisation = Stabilisation(kind="crop", period=32, boxes=(4, 16), corners=())
    stable = manifest.model_copy(update={"stabilisation": stabilisation})
    (folder / name / "1" / "manifest.json").write_text(stable.to_json())
    often = Flips(count=13, share=0.217, standard_error=0.053)
    lines = (
        MoveLine(
            name="one pixel",
            how="moved",
            pairs=60,
            plain=often,
            stable=often.model_copy(update={"count": 0, "share": 0.0, "standard_error": 0.0}),
        ),
        MoveLine(name="JPEG 90", how="compressed", pairs=60, plain=often, stable=often),
    )
    moves = Moves(
        photographs=5,
        lines=lines,
        agreement=often,
        pairs=60,
        sure_agreement=often.model_copy(update={"count": 4}),
        sure_pairs=5,
        cpu_ratio=1.1,
    )
    change(folder, name, moves=moves)
    pages = written(folder)
    words = pages[name].words
    assert "one pixel moved 21.7% ± 5.3 0 of 60" in words
    assert "13 of 60 pictures" in words
    assert "4 of 5, a probability of 80% or more" in words
    assert "On these pictures nothing is gained under: JPEG 90." in words
    assert "the network sees a crop that the picture chooses, smaller by 32 pixels" in words
    assert "Beside the plain network" not in pages[MEASURED[1]].words


def test_a_model_without_a_record_has_a_page_of_its_manifest(folder: Path) -> None:
    words = written(folder)[UNMEASURED].words
    assert (
        "Only the manifest is shown here: "
        f"repository_report/{UNMEASURED}.json cannot be read: No such file or directory." in words
    )
    assert words.count("Not measured: there is no report of this model.") == 8


def test_a_damaged_record_costs_its_model_the_measurements_and_no_other(folder: Path) -> None:
    (report_folder(folder) / "fashion_strided.json").write_text('{"name": "fashion_strided"')
    pages = written(folder)
    assert "_report/fashion_strided.json is no report" in pages["fashion_strided"].words
    assert "Not measured" not in pages["fashion_max_blur"].words


def test_a_damaged_manifest_costs_its_model_the_page_and_no_other(folder: Path) -> None:
    write_pages(folder)
    (folder / "fashion_strided" / "1" / "manifest.json").write_text("{}")
    (folder / "fashion_blur" / "1" / "model.onnx").unlink()
    pages = written(folder)
    words = pages["index"].words
    assert "fashion_strided has no page: fashion_strided/1/manifest.json: name: Field req" in words
    assert "fashion_blur has no page: [Errno 2] No such file or directory" in words
    assert str(folder) not in pages["index"].source
    assert "1 model, 1 of which holds every limit" in words
    assert set(pages) == {"index", "fashion_max_blur"}
    assert (report_folder(folder) / "fashion_strided.json").is_file()
    assert "Not measured" not in pages["fashion_max_blur"].words


def test_measurements_of_another_graph_are_not_taken_for_those_of_this_one(folder: Path) -> None:
    change(folder, "fashion_strided", graph_sha256="f" * 64)
    words = written(folder)["fashion_strided"].words
    assert "Version 1 has not been measured" in words
    assert "sha256 " + "f" * 64 in words


def test_a_page_describes_the_version_that_was_measured(folder: Path) -> None:
    model = folder / "fashion_strided"
    shutil.copytree(model / "1", model / "2")
    text = (model / "2" / "manifest.json").read_text().replace('"1/', '"2/')
    text = text.replace('"version": 1', '"version": 2')
    graph = read_manifest(model, 1).files["1/model.onnx"]
    (model / "2" / "manifest.json").write_text(text.replace(graph, "0" * 64))
    words = written(folder)["fashion_strided"].words
    assert "Version 2 is newer and has not been measured." in words
    assert f"Of fashion_strided version 1, graph {graph}" in words


def test_the_page_and_the_record_of_a_model_that_is_gone_go_too(folder: Path) -> None:
    write_pages(folder)
    shutil.rmtree(folder / "fashion_strided")
    (report_folder(folder) / ".index.html.1.partial").write_text("half")
    write_pages(folder)
    left = {path.name for path in report_folder(folder).iterdir()}
    assert not [name for name in left if "strided" in name or "partial" in name]
    assert "fashion_max_blur.json" in left


def test_names_from_outside_are_text_and_never_markup(folder: Path) -> None:
    report = read_report(folder, "fashion_strided")
    assert isinstance(report.shifts, Shifts)
    assert not isinstance(report.cost, Unmeasured)
    slides = tuple(
        slide.model_copy(update={"label": HOSTILE, "answers": (HOSTILE,) * len(slide.answers)})
        for slide in report.shifts.slides
    )
    lines = tuple(line.model_copy(update={"layer": HOSTILE}) for line in report.cost.lines)
    change(
        folder,
        "fashion_strided",
        shifts=report.shifts.model_copy(update={"slides": slides}),
        cost=report.cost.model_copy(update={"lines": lines}),
        field=Unmeasured(reason=HOSTILE),
    )
    pages = written(folder)
    for name in ("fashion_strided", "index"):
        assert not [x for x in pages[name].elements if x.tag == "script"]
        assert HOSTILE in pages[name].words
        assert HOSTILE not in pages[name].source


def test_models_of_the_same_pictures_and_labels_slide_under_one_picture(folder: Path) -> None:
    pages = [read_page(folder, folder / name) for name in MEASURED]
    (family,) = group(pages)
    assert family.strip is not None
    assert [row.name for row in family.strip.rows] == list(MEASURED)
    chosen = [
        next(slide for slide in page.slides if slide.sha256 == family.strip.picture.sha256)
        for page in pages
    ]
    for row, slide in zip(family.strip.rows, chosen, strict=True):
        shown = [run.answer for run in row.runs for _ in run.probabilities]
        assert shown == list(slide.answers)
        assert row.runs
        assert all(run.right == (run.answer == slide.label) for run in row.runs)
    most = sum(map(changes, chosen))
    for slides in zip(*(page.slides for page in pages), strict=True):
        assert sum(map(changes, slides)) <= most
    words = written(folder)["index"].words
    for row in family.strip.rows:
        assert f"{row.name} changes on {row.changed} of {family.strip.followed}" in words


def changes(slide: SlidePicture) -> int:
    return sum(before != after for before, after in pairwise(slide.answers))


def test_models_of_other_pictures_are_no_family(folder: Path) -> None:
    report = read_report(folder, "fashion_strided")
    assert isinstance(report.shifts, Shifts)
    first, *rest = report.shifts.slides
    slides = (first.model_copy(update={"sha256": "0" * 64}), *rest)
    change(folder, "fashion_strided", shifts=report.shifts.model_copy(update={"slides": slides}))
    families = group([read_page(folder, folder / name) for name in (*MEASURED, UNMEASURED)])
    assert [[page.name for page in family.pages] for family in families] == [
        ["fashion_strided"],
        ["fashion_max_blur"],
        ["fashion_blur"],
    ]
    assert families[2].strip is None


def test_figures_are_written_shortly() -> None:
    assert [compact(n) for n in (0, 999, 79_866, 4_652_008, 4.09e9)] == [
        "0",
        "999",
        "79.9 k",
        "4.65 M",
        "4.09 G",
    ]
    assert [milliseconds(t) for t in (0.0, 0.4351, 3.841, 48.4, 443.2)] == [
        "0",
        "0.435",
        "3.84",
        "48.4",
        "443",
    ]
    assert [figure(x) for x in (True, None, 79_866, 0.9, "int8")] == [
        "yes",
        "not measured",
        "79,866",
        "0.9",
        "int8",
    ]
    assert decade(-12) == "10⁻¹²"


def test_shares_say_how_far_they_are_known() -> None:
    assert share(0.65, 0.08, 5, 4) == "13 of 20"  # few: how many pairs of how many
    assert share(0.65, 0.08, 5, 0) == "65.0% ± 8.0"  # a mean of what is no yes or no
    assert share(0.65, 0.08, 50, 4) == "65.0% ± 8.0"
    assert share(1, None, 2) == "2 of 2"
    assert share(0.878, None, 500) == "87.8% ± 1.5"
    assert share(1, 0, 5) == "5 of 5"
    assert share(1, 0, 64) == "100.0%, at least 94.3%"  # Wilson: 64 / (64 + 1.96 ** 2)
    assert share(0, 0, 40) == "0.0%, at most 8.8%"


def test_the_index_has_the_steadiest_first_and_says_where_bars_begin(folder: Path) -> None:
    path = folder / MEASURED[0] / "1" / "manifest.json"
    manifest = read_manifest(folder / MEASURED[0], 1)
    steadier = manifest.figures.model_copy(update={"one_pixel": 0.999, "consistency": 0.9})
    path.write_text(manifest.model_copy(update={"figures": steadier}).to_json())
    page = written(folder)["index"]
    rows = [one for one in page.attributes("href") if one.removesuffix(".html") in MEASURED]
    assert rows[:2] == [f"{name}.html" for name in MEASURED]  # not in the order of their names
    other = read_manifest(folder / MEASURED[1], 1)
    one_pixel = one_pixel_of(other)
    assert one_pixel
    assert f"{built(one_pixel)} {built(circular_of(other))}" in page.words  # it leads
    assert "one pixel, bars from 9" in page.words
    assert {"limits", "accuracy", "one pixel", "circular"} <= {*page.attributes("data-path")}


def test_every_figure_and_limit_of_a_manifest_is_told_in_words(folder: Path) -> None:
    manifest = read_manifest(folder / MEASURED[0], 1)
    keys = {*type(manifest.figures).model_fields, *type(manifest.tolerances).model_fields}
    assert keys == MEANINGS.keys()
    words = written(folder)[MEASURED[0]].words
    assert "index margin" not in words
    assert "margin of the grid how much stronger the grid that a polyphase layer takes" in words
