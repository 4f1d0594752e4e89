"""ONNX files of other exporters as sources: built, judged against themselves, and said to be so."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nyquist.companion.__main__ import main
from nyquist.companion.page.kit import report_folder
from nyquist.companion.references.network import load_reference, load_samples
from nyquist.export.build import main as build
from nyquist.export.judge import Candidate, judge
from nyquist.export.model import export_spec
from nyquist.models.loading import network_with_notes
from nyquist.models.samples import read_samples
from nyquist.models.spec import ModelSpec, Preprocessing
from nyquist.server.artifact.manifest import NO_PYTORCH, Manifest, read_manifest
from tests.processes import ROOT, start_server

DOCS = ROOT / "docs" / "export.md"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
"""Of ImageNet, in 0..255."""


def foreign(opset: int = 9, batch: str | int = "N", *, burnt_in: bool = False) -> onnx.ModelProto:
    """Return a file as exporters of 2019 wrote them: format 3, its weights are inputs too."""
    rng = np.random.default_rng(0)
    weights: dict[str, NDArray[Any]] = {
        "image": rng.standard_normal((4, 3, 3, 3), np.float32),  # a name that is ours
        "w": rng.standard_normal((16, 5), np.float32),
        "flat": np.array([1 if burnt_in else -1, 16], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["data", "image"], ["conv"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("AveragePool", ["relu"], ["pool"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Reshape", ["pool", "flat"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w"], ["out"], doc_string="/home/someone/net.py"),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, [batch, 3, 8, 8])]
    inputs += [helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in initializers]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 5])]
    graph = helper.make_graph(nodes, "foreign", inputs, outputs, initializers)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=3)


def save_apart(model: onnx.ModelProto, path: Path) -> None:
    """Save a file with its weights in w.bin beside it."""
    onnx.save_model(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)


def spec_of(path: Path) -> ModelSpec:
    return ModelSpec(
        name="products",
        architecture=path.name,
        onnx=path,
        options={},
        weights=None,
        labels=(),
        samples="photographs",
        input=(3, 8, 8),
        datatype="UINT8",
        preprocessing=Preprocessing("HWC", MEAN, STD),
        outputs=("logits", "probabilities"),
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelSpec, Path, Manifest]:
    """Build a file of opset 9 whose weights lie beside it; return spec, folder and manifest."""
    folder = tmp_path_factory.mktemp("onnx")
    save_apart(foreign(), folder / "net.onnx")
    repository = folder / "repository"
    command = re.search(r"^python export/build.py (--onnx [^`]*)", DOCS.read_text(), re.MULTILINE)
    assert command is not None
    words = shlex.split(command[1].replace("\\\n", " "))
    asked = {"net.onnx": str(folder / "net.onnx"), "3x224x224": "3x8x8"}
    arguments = [asked.get(word, word) for word in words]
    assert build([*arguments, "--output", str(repository)]) == 0
    artifact = repository / "products"
    return spec_of(folder / "net.onnx"), artifact, read_manifest(artifact, 1)


def test_an_artifact_of_an_onnx_file_is_that_file_and_says_that_pytorch_never_saw_it(
    built: tuple[ModelSpec, Path, Manifest],
) -> None:
    _, folder, manifest = built
    assert read_manifest(folder, 1).reference == NO_PYTORCH
    assert manifest.opset == 9
    assert manifest.origin.command[:2] == ("--onnx", "net.onnx")
    served = onnx.load(folder / "1" / "model.onnx")
    assert [value.name for value in served.graph.input] == ["image"]
    assert b"someone" not in served.SerializeToString()
    kept = onnx.load(folder / "1" / "reference.onnx")
    assert list(kept.graph.node) == list(foreign().graph.node)
    # 4 maps of 4 x 4 from 27 values, then 16 values to 5 classes
    assert manifest.figures.multiply_adds == 4 * 16 * 27 + 16 * 5
    assert manifest.figures.parameters == 4 * 27 + 16 * 5 + 2
    assert manifest.figures.parity < 1e-5


def shaped(values: tuple[float, ...]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32).reshape(3, 1, 1)


def test_the_companion_asks_the_file_as_it_came(built: tuple[ModelSpec, Path, Manifest]) -> None:
    _, folder, manifest = built
    pictures = load_samples(folder, manifest).images.numpy()
    logits = load_reference(folder, manifest).predict(pictures)
    x = (pictures.transpose(0, 3, 1, 2) - shaped(MEAN)) / shaped(STD)
    evaluator = onnx.reference.ReferenceEvaluator(foreign())
    wanted: NDArray[Any] = np.asarray(evaluator.run(["out"], {"data": x.astype(np.float32)}))[0]
    assert np.abs(logits - wanted).max() < 1e-4 * np.abs(wanted).max()


def test_a_graph_that_is_no_longer_its_file_is_not_published(
    built: tuple[ModelSpec, Path, Manifest],
) -> None:
    spec, _, _ = built
    subject = Candidate(spec, network_with_notes(spec)[0], read_samples(spec, spec.samples))
    exported = export_spec(subject)
    model = onnx.load_from_string(exported.graph)
    (weight,) = (each for each in model.graph.initializer if each.name == "network.image")
    turned = np.ascontiguousarray(numpy_helper.to_array(weight).swapaxes(2, 3))
    weight.CopyFrom(numpy_helper.from_array(turned, weight.name))
    misses = judge(subject, model.SerializeToString(), exported.graph, None).misses
    assert "differs by up to" in misses[0]
    assert any("parity first breaks in" in miss and "network.conv" in miss for miss in misses)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (foreign(batch=1), r"net.onnx has a fixed batch of 1: export it with dynamic_axes"),
        (foreign(burnt_in=True), r"net.onnx does not run with a batch of 2, export it with"),
        (foreign(opset=6), r"net.onnx has opset 6, 7 or newer is taken: onnx.version_converter"),
    ],
)
def test_what_could_not_be_served_is_refused_with_its_cure(
    model: onnx.ModelProto, reason: str, tmp_path: Path
) -> None:
    onnx.save_model(model, tmp_path / "net.onnx")
    spec = spec_of(tmp_path / "net.onnx")
    with pytest.raises(ValueError, match=reason):
        network_with_notes(spec)


def test_weights_that_are_not_beside_the_file_are_named(tmp_path: Path) -> None:
    save_apart(foreign(), tmp_path / "net.onnx")
    (tmp_path / "w.bin").unlink()
    with pytest.raises(ValueError, match=r"the weights of net.onnx cannot be read: .*w\.bin"):
        network_with_notes(spec_of(tmp_path / "net.onnx"))
    (tmp_path / "net.onnx").write_bytes(b"\xff\xff no graph")
    with pytest.raises(ValueError, match=r"net.onnx is no ONNX file"):
        network_with_notes(spec_of(tmp_path / "net.onnx"))


def test_opset_7_is_taken(tmp_path: Path) -> None:
    onnx.save_model(foreign(opset=7), tmp_path / "net.onnx")
    assert network_with_notes(spec_of(tmp_path / "net.onnx"))[1] == ()


def test_nyquist_check_holds_it_against_its_file_and_says_so(
    built: tuple[ModelSpec, Path, Manifest], capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder, _ = built
    server = start_server(folder.parent)
    try:
        command = ["check", "--target", server.target, "--repository", str(folder.parent)]
        assert main(command) == 0
    finally:
        server.stop()
    out = capsys.readouterr().out
    assert " ok" in out
    assert f"products: held against an {NO_PYTORCH}" in out
    page = (report_folder(folder.parent) / "products.html").read_text()
    assert NO_PYTORCH in page
    assert "PyTorch" not in page.replace(NO_PYTORCH, "").partition("<main")[2]
