"""What is measured of a model for its page."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nyquist.companion.page.kit import report_folder
from nyquist.companion.references.network import Reference
from nyquist.export.judge import open_graph
from nyquist.export.report.effort import effort_for
from nyquist.export.report.measurement import collect, compare_logits
from nyquist.export.report.record import (
    Cost,
    Gradients,
    ModelReport,
    Parity,
    ReceptiveField,
    Shifts,
    Spectra,
    Unmeasured,
    read_report,
)
from nyquist.export.report.shifting import grown
from nyquist.models.loading import load_network
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.samples import UNLABELLED, Samples, read_samples
from nyquist.models.spec import ModelSpec, Preprocessing
from nyquist.models.zoo import specs
from nyquist.server.artifact.manifest import read_manifest

SIZE = 16


class Flat(nn.Module):
    """A classifier without a map: no field, no stride."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE * SIZE, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(1))


class Torn(nn.Module):
    """Strides by slicing, and uses an operator that the receptive field does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.flip(-1)).mean(dim=(2, 3))


def small_spec(**changes: object) -> ModelSpec:
    spec = replace(specs()["fashion_blur"], name="small", labels=("a", "b", "c"), max_batch_size=4)
    return replace(spec, **changes)  # type: ignore[arg-type] # by name, in each test


def small_samples(count: int = 6, margin: int = 0) -> Samples:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, SIZE - 2 * margin, SIZE - 2 * margin, generator=generator)
    images = nn.functional.pad(images, (margin,) * 4)
    return Samples(images, torch.arange(count) % 3)


def collect_small(
    network: nn.Module, samples: Samples, spec: ModelSpec | None = None, wider: Tensor | None = None
) -> ModelReport:
    spec = spec or small_spec()
    preprocessed = PreprocessedNetwork(network, spec.preprocessing).eval()
    served = Reference(preprocessed).predict
    return collect(spec, network, preprocessed, served, samples, "0" * 64, wider=wider)


def shifts_of(report: ModelReport) -> Shifts:
    assert isinstance(report.shifts, Shifts)
    return report.shifts


@pytest.fixture(scope="module")
def polyphase(repository: Path) -> ModelReport:
    spec = specs()["fashion_polyphase"]
    folder = repository / spec.name
    manifest = read_manifest(folder, 1)
    network = load_network(spec)
    return collect(
        spec,
        network,
        PreprocessedNetwork(network, spec.preprocessing).eval(),
        open_graph(manifest.read_file(folder, "1/model.onnx"), spec.max_batch_size),
        read_samples(spec, spec.samples),
        manifest.files["1/model.onnx"],
    )


def test_every_part_of_a_model_of_the_zoo_is_measured(polyphase: ModelReport) -> None:
    parts = {
        "parity": Parity,
        "shifts": Shifts,
        "field": ReceptiveField,
        "gradients": Gradients,
        "spectra": Spectra,
        "cost": Cost,
    }
    for name, kind in parts.items():
        assert isinstance(getattr(polyphase, name), kind), getattr(polyphase, name)


def test_a_report_is_the_same_after_it_was_written_and_read(
    polyphase: ModelReport, tmp_path: Path
) -> None:
    path = polyphase.write(tmp_path)
    assert path == report_folder(tmp_path) / "fashion_polyphase.json"
    assert read_report(tmp_path, "fashion_polyphase") == polyphase
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_polyphase_sampling_holds_every_whole_shift_on_both_paths(polyphase: ModelReport) -> None:
    shifts = shifts_of(polyphase)
    lines = {line.name: line for line in shifts.consistency}
    for name in ("one pixel", "zero padded", "random crops", "worst case, unchanged"):
        line = lines[name]
        assert line.served is not None
        assert line.reference is not None
        assert (line.served.value, line.reference.value) == (1, 1), name
    fractional = lines["half a pixel"].served
    assert fractional is not None
    assert fractional.value < 1
    assert shifts.slides
    assert all(len(set(slide.answers)) == 1 for slide in shifts.slides)
    flips = next(line for line in shifts.stability if line.name == "flips")
    assert flips.served is not None
    assert flips.served.value == 0


def test_parity_is_counted_logit_by_logit(polyphase: ModelReport) -> None:
    parity = polyphase.parity
    assert isinstance(parity, Parity)
    logits = 10 * (parity.pictures + parity.noise)
    assert sum(parity.counts) + parity.equal + parity.unbounded == logits
    assert parity.largest is not None
    assert parity.edges[0] < parity.largest < parity.edges[-1]


def test_differences_fall_into_their_bins() -> None:
    ours = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)
    theirs = ours + np.array([[0.5, 0.5], [0.25, 0.0]], np.float32)
    parity = compare_logits(ours, theirs, pictures=1)
    counted = {
        (low, high): count
        for low, high, count in zip(parity.edges, parity.edges[1:], parity.counts, strict=False)
        if count
    }
    assert sorted(counted.values()) == [1, 2]
    for (low, high), count in counted.items():
        assert low <= (0.5 if count == 2 else 0.25) < high
    assert (parity.equal, parity.unbounded, parity.largest) == (1, 0, 0.5)
    assert parity.mean == pytest.approx(1.25 / 4)
    assert parity.spread == pytest.approx(np.std([0, 1, 2, 3]))
    assert (parity.pictures, parity.noise, parity.agreement) == (1, 1, 1)


def test_a_logit_that_is_not_finite_is_counted_and_bounds_nothing() -> None:
    ours = np.array([[0.0, 1.0]], np.float32)
    parity = compare_logits(ours, np.array([[np.nan, 1.0]], np.float32), pictures=1)
    assert (parity.unbounded, parity.equal, parity.largest, parity.mean) == (1, 1, None, None)


def test_equal_logits_need_no_bins() -> None:
    ours = np.array([[0.0, 1.0]], np.float32)
    parity = compare_logits(ours, ours, pictures=1)
    assert (parity.counts, parity.equal) == ((), 2)


def test_a_network_without_maps_says_which_part_is_missing_and_why() -> None:
    report = collect_small(Flat(), small_samples())
    assert isinstance(report.field, Unmeasured)
    assert "no module puts out a map" in report.field.reason
    assert report.spectra == Spectra(lines=(), pictures=6)
    assert isinstance(report.cost, Cost)
    assert report.cost.multiply_adds == SIZE * SIZE * 3
    assert isinstance(report.gradients, Gradients)
    assert [line.layer for line in report.gradients.lines] == ["linear"]


def test_an_operator_that_is_not_known_costs_the_field_alone() -> None:
    report = collect_small(Torn(), small_samples())
    assert isinstance(report.field, Unmeasured)
    assert "flip" in report.field.reason
    assert isinstance(report.shifts, Shifts)
    assert isinstance(report.cost, Cost)


def test_frozen_networks_have_a_gradient_flow_too_and_keep_none() -> None:
    network = Torn().requires_grad_(requires_grad=False)
    report = collect_small(network, small_samples())
    assert isinstance(report.gradients, Gradients)
    assert report.gradients.lines[0].magnitude > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_pictures_that_fill_the_frame_have_no_crops_unless_wider_ones_are_given() -> None:
    def crops(report: ModelReport) -> tuple[bool, str]:
        line = next(x for x in shifts_of(report).consistency if x.name == "random crops")
        return line.served is not None, line.reason or line.how

    measured, why = crops(collect_small(Flat(), small_samples()))
    assert not measured
    assert "what lies beyond their edges is not known" in why
    assert crops(collect_small(Flat(), small_samples(margin=2))) == (
        True,
        "out of the pictures, their plain ground continued by 3 pixels, corners in 0..6",
    )
    wider = torch.rand(2, 1, SIZE + 4, SIZE + 4)
    assert crops(collect_small(Flat(), small_samples(), wider=wider)) == (
        True,
        "out of larger pictures, corners in 0..4",
    )


def test_a_picture_grows_where_each_channel_has_one_value_along_the_edge() -> None:
    picture = np.zeros((1, 4, 4, 2), np.uint8)
    picture[..., 1] = 7
    picture[0, 1:3, 1:3] = 255
    larger = grown(picture, axes=(1, 2), margin=2)
    assert larger is not None
    assert larger.shape == (1, 8, 8, 2)
    assert (larger[0, :3, :, 0] == 0).all()
    assert (larger[0, :3, :, 1] == 7).all()
    assert (larger[0, 2:6, 2:6] == picture[0]).all()
    picture[0, 0, 2, 0] = 1
    assert grown(picture, axes=(1, 2), margin=2) is None


def test_what_needs_labels_says_that_there_are_none() -> None:
    samples = small_samples()
    unlabelled = Samples(samples.images, torch.full((6,), UNLABELLED))
    shifts = shifts_of(collect_small(Flat(), unlabelled))
    lines = {line.name: line for line in (*shifts.consistency, *shifts.stability)}
    for name in ("worst case, correct", "deviation"):
        assert lines[name].reason == "not every sample is labelled"
    assert lines["worst case, unchanged"].served is not None
    assert shifts.slides
    assert all(slide.label is None for slide in shifts.slides)


def test_classes_without_names_go_by_their_number() -> None:
    shifts = shifts_of(collect_small(Flat(), small_samples(), small_spec(labels=())))
    answers = {answer for slide in shifts.slides for answer in slide.answers}
    assert answers <= {"class 0", "class 1", "class 2"}
    assert [slide.label for slide in shifts.slides][:3] == ["class 0", "class 1", "class 2"]


def test_pictures_of_bytes_are_taken_as_they_are_served() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, SIZE, SIZE, 1), generator=generator, dtype=torch.uint8)
    spec = small_spec(
        datatype="UINT8", preprocessing=Preprocessing(layout="HWC", mean=127.0, scale=128.0)
    )
    report = collect_small(Flat(), Samples(images, torch.arange(6) % 3), spec)
    assert shifts_of(report).slides[0].size == (SIZE, SIZE)
    assert isinstance(report.parity, Parity)
    assert report.parity.equal == 3 * 12


def test_a_gradient_that_is_not_finite_survives_the_file(tmp_path: Path) -> None:
    network = Flat()
    with torch.no_grad():
        network.linear.bias.fill_(torch.nan)
    report = collect_small(network, small_samples())
    report.write(tmp_path)
    gradients = read_report(tmp_path, "small").gradients
    assert isinstance(gradients, Gradients)
    assert np.isnan(gradients.lines[0].magnitude)


def test_a_large_network_is_measured_on_fewer_pictures() -> None:
    small, large = effort_for(8e6), effort_for(4.1e9)
    assert small.pictures > large.pictures
    assert small.analysed > large.analysed
    assert effort_for(float("inf")) == large


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "_report/small.json cannot be read: No such file or directory"),
        ("{", "_report/small.json is no report: the file: Invalid JSON"),
        ('{"name": "small"}', "_report/small.json is no report: graph_sha256: Field requ"),
    ],
)
def test_a_damaged_record_says_what_is_wrong(
    tmp_path: Path, content: str | None, message: str
) -> None:
    if content is not None:
        report_folder(tmp_path).mkdir()
        (report_folder(tmp_path) / "small.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_report(tmp_path, "small")
