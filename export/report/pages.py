"""The pages of a model repository: an index and one for each model, whole files without links out.

manifests and report/<name>.json -> ModelPage -> families -> report/<name>.html, report/index.html
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import cos, floor, isfinite, log10, pi
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from export.report.record import (
    REPORT_FOLDER,
    ModelReport,
    SlidePicture,
    Spectra,
    Unmeasured,
    read_report,
    write_whole,
)
from server.errors import ArtifactError
from server.manifest import MODEL_FILE, Manifest, read_manifest
from server.repository import LABELS_FILE, latest_version, model_folders

TEMPLATES = Path(__file__).parent / "templates"
INDEX = "index"
CURVE_POINTS = 49
CEILINGS = ("parity", "_drop", "_error")
"""How the names of limits end that are the most allowed; the others are the least required."""


@dataclass(frozen=True)
class Gate:
    """One limit that the build held the model to.

    Attributes:
        name: of the limit and of the figure.
        limit: most allowed or least required.
        value: what was measured; None if the manifest does not say.
        at_most: whether the limit is a ceiling.
    """

    name: str
    limit: float
    value: float | None
    at_most: bool

    @property
    def held(self) -> bool | None:
        """Whether the value keeps to the limit; None if it is not known."""
        if self.value is None:
            return None
        return self.value <= self.limit if self.at_most else self.value >= self.limit


@dataclass(frozen=True)
class ModelPage:
    """What there is to say about one model.

    Attributes:
        manifest: of the version that is described.
        report: what was measured of it; None if that is missing.
        remark: what is wrong with the report; empty if nothing is.
        graph_bytes: size of model.onnx.
        gates: limits beside figures.
    """

    manifest: Manifest
    report: ModelReport | None
    remark: str
    graph_bytes: int
    gates: tuple[Gate, ...]

    @property
    def name(self) -> str:
        """Of the model."""
        return self.manifest.name

    @property
    def graph_sha256(self) -> str:
        """Of the model.onnx of the version that is described."""
        return graph_sha256(self.manifest)

    @property
    def held(self) -> bool:
        """Whether every gate whose value is known was held."""
        return all(gate.held is not False for gate in self.gates)

    @property
    def slides(self) -> tuple[SlidePicture, ...]:
        """Pictures that were followed; none if that was not measured."""
        if self.report is None or isinstance(self.report.shifts, Unmeasured):
            return ()
        return self.report.shifts.slides

    @property
    def blur_taps(self) -> tuple[int, ...]:
        """Lengths of the blur filters in front of strides, ascending."""
        if self.report is None or not isinstance(self.report.spectra, Spectra):
            return ()
        return tuple(sorted({line.taps for line in self.report.spectra.lines if line.taps}))

    @property
    def figures(self) -> dict[str, Any]:
        """Every figure of the manifest, nested ones under names with a dot."""
        return flattened(self.manifest.figures.model_dump())

    @property
    def parity_limit(self) -> float:
        """Largest difference of a logit that the gate allows."""
        return self.manifest.tolerances.parity


@dataclass(frozen=True)
class Run:
    """Neighbouring positions of a slide with one answer.

    Attributes:
        answer: the class.
        right: whether it is what the picture shows; of unlabelled pictures, whether it is the
            most common answer of the family.
        probabilities: of the answer, position by position.
    """

    answer: str
    right: bool
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class StripRow:
    """One model's answers along the strip.

    Attributes:
        name: of the model.
        runs: in order; together they are the positions.
        changed: how many of the followed pictures change their answer somewhere.
    """

    name: str
    runs: tuple[Run, ...]
    changed: int


@dataclass(frozen=True)
class Strip:
    """One picture that slides, and the answers of each model of a family under it.

    Attributes:
        picture: the one, of all that were followed, whose answers change most.
        positions: of the slide.
        followed: how many pictures every model was shown.
        rows: a row a model.
    """

    picture: SlidePicture
    positions: int
    followed: int
    rows: tuple[StripRow, ...]


@dataclass(frozen=True)
class Family:
    """Models that answer the same question about the same pictures.

    Attributes:
        pages: of its models, by name.
        strip: None if no picture was followed.
    """

    pages: tuple[ModelPage, ...]
    strip: Strip | None


def write_pages(repository: Path) -> Path:
    """Write report/<name>.html for each model of a repository, and the index; return its path.

    The same manifests and records give the same bytes. Pages and records of models that are gone
    are deleted.

    Args:
        repository: holds the models, and report/<name>.json of those that were measured.

    Raises:
        ArtifactError: the repository is no folder, or a manifest in it is damaged.
        OSError: a page cannot be written.
    """
    pages = [read_page(repository, folder) for folder in model_folders(repository)]
    families = group(pages)
    environment = _environment()
    folder = repository / REPORT_FOLDER
    for family in families:
        for page in family.pages:
            text = environment.get_template("model.html").render(page=page, family=family)
            write_whole(folder / f"{page.name}.html", text)
    text = environment.get_template("index.html").render(families=families, pages=pages)
    write_whole(folder / f"{INDEX}.html", text)
    _remove_strangers(folder, {INDEX, *(page.name for page in pages)})
    return folder / f"{INDEX}.html"


def read_page(repository: Path, folder: Path) -> ModelPage:
    """Read what there is about the model in `folder`: of the version that was measured, if any.

    Raises:
        ArtifactError: there is no complete version, or its manifest is damaged.
    """
    manifest = read_manifest(folder, latest_version(folder))
    remark = ""
    try:
        report: ModelReport | None = read_report(repository, folder.name)
    except ValueError as error:
        report, remark = None, f"Only the manifest is shown here: {error}."
    if report is not None and report.graph_sha256 != graph_sha256(manifest):
        older = _version_of(folder, report.graph_sha256)
        if older is None:
            remark = (
                f"Version {manifest.version} has not been measured: below its judgement, this page "
                f"shows a graph that is no longer here, sha256 {report.graph_sha256}."
            )
        else:
            remark = f"Version {manifest.version} is newer and has not been measured."
            manifest = older
    graph = folder / str(manifest.version) / MODEL_FILE
    return ModelPage(manifest, report, remark, graph.stat().st_size, tuple(gates(manifest)))


def gates(manifest: Manifest) -> Iterator[Gate]:
    """Yield every limit of a manifest with the figure of the same name."""
    figures = flattened(manifest.figures.model_dump())
    for name, limit in flattened(manifest.tolerances.model_dump()).items():
        if limit is not None:
            yield Gate(name, limit, figures.get(name), at_most=name.endswith(CEILINGS))


def flattened(values: dict[str, Any], before: str = "") -> dict[str, Any]:
    """Bring nested values to one level: {"a": {"b": 1}} -> {"a.b": 1}; lists count from 0."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list | tuple):
            value = dict(enumerate(value))
        if isinstance(value, dict):
            flat |= flattened({str(k): v for k, v in value.items()}, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat


def graph_sha256(manifest: Manifest) -> str:
    """Return the checksum of the graph of a manifest."""
    return manifest.files.get(f"{manifest.version}/{MODEL_FILE}", "")


def group(pages: Sequence[ModelPage]) -> list[Family]:
    """Put models with the same labels, input shape and followed pictures side by side."""
    alike: dict[tuple[object, ...], list[ModelPage]] = {}
    for page in pages:
        alike.setdefault(_family_key(page), []).append(page)
    return [Family(tuple(members), _strip(members)) for members in alike.values()]


def _family_key(page: ModelPage) -> tuple[object, ...]:
    manifest = page.manifest
    followed = tuple((slide.sha256, len(slide.answers)) for slide in page.slides)
    return (
        manifest.files.get(LABELS_FILE),
        manifest.input.shape,
        manifest.outputs[0].shape,
        followed,
    )


def _strip(pages: Sequence[ModelPage]) -> Strip | None:
    """Choose the picture whose answers change most often over the models of a family."""
    columns = list(zip(*(page.slides for page in pages), strict=True))
    if not columns:
        return None
    chosen = max(columns, key=lambda slides: sum(map(changes, slides)))
    expected = chosen[0].label or _most_common([slide.answers for slide in chosen])
    rows = [
        StripRow(
            page.name, tuple(_runs(slide, expected)), sum(map(bool, map(changes, page.slides)))
        )
        for page, slide in zip(pages, chosen, strict=True)
    ]
    return Strip(chosen[0], len(chosen[0].answers), len(columns), tuple(rows))


def changes(slide: SlidePicture) -> int:
    """Count the steps that change the answer."""
    return sum(before != after for before, after in pairwise(slide.answers))


def _runs(slide: SlidePicture, expected: str) -> Iterator[Run]:
    followed = zip(slide.answers, slide.probabilities, strict=True)
    for answer, positions in groupby(followed, key=lambda position: position[0]):
        yield Run(answer, answer == expected, tuple(probability for _, probability in positions))


def _most_common(answers: Sequence[Sequence[str]]) -> str:
    every = [answer for of_model in answers for answer in of_model]
    return max(dict.fromkeys(every), key=every.count)


def _version_of(folder: Path, sha256: str) -> Manifest | None:
    """Return the newest version of a model whose graph has this checksum, None if there is none."""
    numbers = [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]
    for number in sorted(numbers, reverse=True):
        try:
            manifest = read_manifest(folder, number)
        except ArtifactError:
            continue  # a version without a manifest is not complete
        if graph_sha256(manifest) == sha256:
            return manifest
    return None


def _remove_strangers(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        ours = path.suffix in (".html", ".json") and path.stem not in names
        if ours or path.name.endswith(".partial"):
            path.unlink()


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "compact": compact,
        "decade": decade,
        "figure": figure,
        "log10": log10,
        "milliseconds": milliseconds,
        "percent": percent,
        "short": short,
        "words": lambda name: name.replace("_", " ").replace(".", ", "),
    }
    environment.tests["plottable"] = lambda value: isfinite(value) and value > 0
    environment.globals["response"] = response
    return environment


def compact(count: float) -> str:
    """Write a count with three digits: 79866 -> 79.9 k."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def percent(share: float) -> str:
    """Write a share with one decimal: 0.967 -> 96.7%."""
    return f"{100 * share:.1f}%"


def short(value: float) -> str:
    """Write a number with two digits: 3.3379e-05 -> 3.3e-05."""
    return f"{value:.2g}"


def milliseconds(value: float) -> str:
    """Write a time with three digits, never as a power of ten."""
    digits = 2 - floor(log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 3)}f}"


def figure(value: object) -> str:
    """Write a figure of a manifest, whatever it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "not measured" if value is None else str(value)


def decade(exponent: int) -> str:
    """Write a power of ten: -5 -> 10⁻⁵."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def response(taps: int) -> list[tuple[float, float]]:
    """Return the gain of a binomial blur, cos(w / 2) ** (taps - 1), over w in units of pi."""
    places = [at / (CURVE_POINTS - 1) for at in range(CURVE_POINTS)]
    return [(place, cos(pi * place / 2) ** (taps - 1)) for place in places]
