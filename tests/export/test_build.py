"""Building one model for real, and what happens when it must not be published."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import onnx
import pytest
import torch
from google.protobuf import text_format

from nyquist.companion.page.kit import report_folder
from nyquist.export.errors import ExportError, GateMissed
from nyquist.export.graph.export import OPSET, export_graph, strip_metadata
from nyquist.export.model import build_model
from nyquist.models.spec import Limits, ModelSpec
from nyquist.models.zoo import specs
from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.serving.loading import load_model
from nyquist.server.wire.pb import model_config_pb2 as pb
from tests.processes import ROOT, run

NAME = "fashion_blur"
WORKERS = 3  # that which builds, which keeps the queue of its stations, and multiprocessing's own


def ignore(station: str) -> None:
    """Watch no stations."""


def build(spec: ModelSpec, output: Path) -> Path:
    build_model(spec, output, ignore)
    return output / spec.name


@pytest.fixture(scope="module")
def stations() -> list[str]:
    """The stations of the build of `folder`, once that is done."""
    return []


@pytest.fixture(scope="module")
def folder(stations: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("repository")
    build_model(specs()[NAME], repository, stations.append)
    return repository / NAME


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model built again, where the remains of another lay."""
    repository = tmp_path_factory.mktemp("rebuilt")
    old = repository / NAME / "1"
    old.mkdir(parents=True)
    (old / "stale.bin").write_bytes(b"old")
    return build(specs()[NAME], repository)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_stations_are_reported_in_their_order(folder: Path, stations: list[str]) -> None:
    assert folder.is_dir()
    assert stations == ["weights", "export", "judge", "publish"]


def test_an_artifact_holds_these_files_and_nothing_else_is_left(folder: Path) -> None:
    assert sorted(contents(folder)) == [
        "1/labels.txt",
        "1/manifest.json",
        "1/model.onnx",
        "1/reference.safetensors",
        "1/samples.safetensors",
        "config.pbtxt",
        "labels.txt",
    ]
    assert [entry.name for entry in folder.parent.iterdir()] == [NAME]


def test_the_manifest_has_the_checksum_of_every_other_file(folder: Path) -> None:
    manifest = read_manifest(folder, 1)
    found = {path: sha256(content).hexdigest() for path, content in contents(folder).items()}
    del found["1/manifest.json"]
    assert manifest.files == found


def test_what_was_measured_is_in_the_manifest_and_within_its_promise(folder: Path) -> None:
    manifest = read_manifest(folder, 1)
    figures, tolerances = manifest.figures, manifest.tolerances
    assert figures.parameters == 79_866
    assert figures.multiply_adds > 1e6
    assert 0 < figures.parity <= tolerances.parity == 1e-4
    assert 0 < figures.mean_abs_error < figures.max_abs_error
    assert figures.agreement == 1.0
    assert figures.accuracy is not None
    assert tolerances.accuracy <= figures.accuracy < 1
    assert tolerances.consistency <= figures.consistency < 1
    assert figures.torch_accuracy == figures.accuracy
    assert (figures.labelled, figures.samples) == (500, 500)


def test_building_again_gives_the_same_bytes(folder: Path, rebuilt: Path) -> None:
    assert contents(rebuilt) == contents(folder)


def test_the_built_repository_is_the_one_that_is_served(folder: Path, repository: Path) -> None:
    assert contents(repository / NAME) == contents(folder)


def test_the_server_loads_what_was_built(folder: Path) -> None:
    assert load_model(folder, Execution(provider="cpu")).described == read_manifest(folder, 1)


def test_the_configuration_is_in_the_schema_that_triton_documents(folder: Path) -> None:
    config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
    assert (config.name, config.platform, config.max_batch_size) == (NAME, "onnxruntime_onnx", 64)
    (picture,), (output,) = config.input, config.output
    assert (picture.name, picture.data_type, list(picture.dims)) == (
        "image",
        pb.TYPE_FP32,
        [1, 48, 48],
    )
    assert (output.name, list(output.dims), output.label_filename) == ("logits", [10], "labels.txt")
    assert config.HasField("dynamic_batching")


def test_the_graph_is_one_file_at_opset_18_without_a_trace_of_its_build(folder: Path) -> None:
    content = (folder / "1" / "model.onnx").read_bytes()
    model = onnx.load_from_string(content)
    onnx.checker.check_model(model, full_check=True)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", OPSET)}
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == ["logits"]
    assert model.graph.node
    assert all(not node.metadata_props and not node.doc_string for node in model.graph.node)
    assert not any(len(entry.external_data) for entry in model.graph.initializer)
    for trace in (str(ROOT).encode(), b"stack_trace", b".py"):
        assert trace not in content


@pytest.mark.parametrize("name", sorted(specs()))
def test_no_classifier_computes_shapes_at_run_time(repository: Path, name: str) -> None:
    model = onnx.load(str(repository / name / "1" / "model.onnx"))
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"Shape", "Range", "Loop", "If", "BatchNormalization"}


def test_a_missed_gate_says_by_how_much_and_leaves_the_old_artifact(
    folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder, tmp_path / NAME)
    before = contents(tmp_path / NAME)
    strict = Limits(parity=1e-12, consistency=1.0, accuracy=0.99)
    with pytest.raises(ExceptionGroup, match="fashion_blur is not published") as missed:
        build(replace(specs()[NAME], limits=strict), tmp_path)
    assert missed.group_contains(
        GateMissed, match="differs by up to .* at most .*e-1[12] is allowed"
    )
    assert missed.group_contains(GateMissed, match=r"consistency 0\.9")
    assert missed.group_contains(GateMissed, match=r"accuracy 0\.[89]")
    assert contents(tmp_path / NAME) == before
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


def test_a_rebuild_replaces_the_old_artifact_whole(folder: Path, rebuilt: Path) -> None:
    assert "1/stale.bin" not in contents(rebuilt)
    assert contents(rebuilt).keys() == contents(folder).keys()
    assert [entry.name for entry in rebuilt.parent.iterdir()] == [NAME]


class Doubler(torch.nn.Module):
    """The smallest network that exports."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x.flatten(1)


class Huge(torch.nn.Module):
    """A network of 2.4 GB that takes no memory: one number, repeated."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(1).expand(600_000_000))


def test_weights_that_do_not_fit_into_one_file_are_refused_before_the_export() -> None:
    with pytest.raises(ExportError, match=r"the weights take 2.40 GB, one ONNX file holds 2.15"):
        export_graph(Huge(), torch.zeros(2, 1, 2, 2))


def test_stripping_leaves_no_metadata() -> None:
    model = onnx.load_from_string(export_graph(Doubler(), torch.zeros(2, 1, 2, 2)).graph)
    model.graph.node[0].metadata_props.add(key="stack_trace", value="/home/someone/x.py")
    model.graph.node[0].doc_string = "/home/someone"
    strip_metadata(model)
    assert b"someone" not in model.SerializeToString()


def test_list_names_every_model() -> None:
    listed = run("nyquist.export.build", "--list")
    assert listed.stdout.split() == list(specs())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "fashion_blurr"], "unknown model 'fashion_blurr'; did you mean fashion_blur?"),
        (["--jobs", "0"], "argument --jobs: must be at least 1, got 0"),
    ],
)
def test_a_wrong_option_names_the_right_ones(options: list[str], message: str) -> None:
    ended = run("nyquist.export.build", *options)
    assert ended.returncode == 2
    assert message in ended.stderr


def test_the_script_builds_prints_its_table_and_ends_with_0(tmp_path: Path) -> None:
    command = [sys.executable, "export/build.py", "--only", "fashion_strided"]
    environment = os.environ | {"COLUMNS": "80"}
    ended = subprocess.run(
        [*command, "--output", str(tmp_path)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=240,
    )
    lines = [line.split() for line in ended.stdout.splitlines()]
    headers = ["model", "MMAC", "parity", "right", "shift", "MB", "ms", "b1", "ms", "b8", "s"]
    assert headers in lines
    (row,) = (line for line in lines if line[:1] == ["fashion_strided"] and len(line) == 9)
    assert row[3] == "422/500"
    assert row[4] == "91.1%±0.9"
    assert min(float(row[6]), float(row[7])) > 0  # milliseconds of one picture, and of eight
    assert (report_folder(tmp_path) / "fashion_strided.html").is_file()
    assert max(len(line) for line in ended.stdout.splitlines()) <= 80
    assert "1 of 1 models in " in ended.stdout
    assert (tmp_path / "fashion_strided" / "1" / "manifest.json").is_file()


def test_a_repository_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = run(
        "nyquist.export.build", "--only", "fashion_strided", "--output", str(tmp_path / "file")
    )
    assert ended.returncode == 1
    assert "error:" in ended.stdout
    assert "File exists" in ended.stdout


def test_ctrl_c_leaves_no_half_artifact(tmp_path: Path) -> None:
    command = [sys.executable, "export/build.py", "--only", "fashion_max_blur"]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    gives_up = time.monotonic() + 120
    while len(children.read_text().split()) < WORKERS:  # at work, or over: then the read fails
        assert time.monotonic() < gives_up, "the build has not begun"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    line = "interrupted: models that were finished are published, others untouched"
    assert " ".join(told.decode().split()).endswith(line)
    assert b"Traceback" not in told
    assert [path.name for path in tmp_path.rglob("*")] == [".lock"]


def test_a_manifest_is_readable_by_people(folder: Path) -> None:
    text = (folder / "1" / "manifest.json").read_text()
    assert text.startswith("{\n  ")
    assert json.loads(text)["origin"]["built_with"]["torch"].startswith("2.13.0")
