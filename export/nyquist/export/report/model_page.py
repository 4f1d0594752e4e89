"""What there is to say about one model: its manifest, its record, and what the two make of it."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nyquist.export.report.record import (
    ModelReport,
    Parity,
    SlidePicture,
    Spectra,
    Unmeasured,
    read_report,
)
from nyquist.server.artifact.layout import complete_versions, latest_version
from nyquist.server.artifact.manifest import MODEL_FILE, Manifest, read_manifest
from nyquist.server.wire.errors import ArtifactError

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
    def steadiness(self) -> float:
        """The one-pixel figure, 0..1, by which models are sorted; -1 where it was not measured."""
        measured = self.manifest.figures.one_pixel
        return -1.0 if measured is None else measured

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
        """Largest difference that the limit allows logits of the deviation in the report."""
        measured = self.report.parity if self.report else None
        spread = measured.spread if isinstance(measured, Parity) else 1.0
        return self.manifest.tolerances.parity * spread


def read_page(repository: Path, folder: Path) -> ModelPage:
    """Read what there is about the model in `folder`: of the version that was measured, if any.

    Raises:
        ArtifactError: there is no complete version, or its manifest is damaged.
        FileNotFoundError: there is no model.onnx.
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
    """Yield every limit of a manifest with the figure of the same name.

    What is called X_drop is torch_X less X.
    """
    figures = flattened(manifest.figures.model_dump())
    for name, limit in flattened(manifest.tolerances.model_dump()).items():
        value = figures.get(name)
        base = name.removesuffix("_drop")
        served, reference = figures.get(base), figures.get(f"torch_{base}")
        if base != name and served is not None and reference is not None:
            value = reference - served
        yield Gate(name, limit, value, at_most=name.endswith(CEILINGS))


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


def _version_of(folder: Path, sha256: str) -> Manifest | None:
    """Return the newest version of a model whose graph has this checksum, None if there is none."""
    for number in reversed(complete_versions(folder)):
        try:
            manifest = read_manifest(folder, number)
        except ArtifactError:
            continue  # an old version that nothing reads any more
        if graph_sha256(manifest) == sha256:
            return manifest
    return None
