"""Heads other than logits of classes: found, built, served, and judged by what they are."""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from nyquist.client.classify import main
from nyquist.client.client import Client
from nyquist.companion.references.network import load_reference
from nyquist.companion.references.repository import References
from nyquist.companion.references.subjects import Subjects
from nyquist.companion.service.check import check_model
from nyquist.companion.service.validation import Validation
from nyquist.export.judge import Candidate
from nyquist.export.model import build_model, export_spec, reference_file
from nyquist.export.report.pages import write_pages
from nyquist.export.report.record import Shifts, read_report
from nyquist.models.loading import network_with_notes, settled
from nyquist.models.networks.architectures import create_from_module
from nyquist.models.onnx_network import OnnxNetwork
from nyquist.models.programs import read_program, write_program
from nyquist.models.samples import read_samples
from nyquist.models.spec import ModelSpec
from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.wire.head import CLASSES, Head, told_head
from nyquist.server.wire.pb import validation_pb2 as pb
from tests import heads
from tests.foreign import make_graph
from tests.processes import RunningServer, start_server


def spec(network: str, **fields: Any) -> ModelSpec:
    fixed: dict[str, Any] = {"options": {}, "weights": None, "labels": ()}
    fixed |= {"samples": "photographs", "input": (1, 16, 16), "max_batch_size": 4}
    return ModelSpec(name=network, architecture=f"{heads.__name__}:{network}", **fixed | fields)


BUILT = (
    spec("binary", labels=("free", "taken")),
    spec("labels", labels=("cat", "dog", "grass"), head="multi-label", threshold=0.48),
    spec("softmax", labels=("cat", "dog", "grass"), outputs=("logits", "probabilities")),
    spec("named", head="embedding", outputs=("embedding",)),
    spec("several", outputs=("logits", "map"), picks=(("logits", "1"), ("map", "0"))),
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = tmp_path_factory.mktemp("heads")
    for one in BUILT:
        build_model(one, repository, lambda _station: None, report=one.name == "labels")
    return repository


@pytest.fixture(scope="module")
def headed(built: Path) -> Iterator[RunningServer]:
    running = start_server(built)
    yield running
    assert running.stop() == 0


@pytest.fixture
def client(headed: RunningServer) -> Iterator[Client]:
    with Client(headed.target) as client:
        yield client


@pytest.mark.parametrize(
    ("asked", "head", "notes"),
    [
        (spec("labels"), Head(), []),
        (spec("named"), Head(), []),
        (spec("binary"), Head("binary"), ["its head is binary: a label applies above 0.5"]),
        (
            spec("softmax"),
            Head(values="probabilities"),
            ["the network ends in softmax: its output is probabilities, not logits"],
        ),
        (
            spec("sigmoid", threshold=0.9),
            Head("multi-label", "probabilities", 0.9),
            [
                "the network ends in sigmoid: its output is probabilities, not logits",
                "its head is multi-label: a label applies above 0.9",
            ],
        ),
        (
            spec("sigmoid", head="classes"),
            Head(values="probabilities"),
            ["the network"],
        ),
        (spec("single_sigmoid", head="binary"), Head("binary", "probabilities"), ["the network"]),
    ],
    ids=lambda value: value.name if isinstance(value, ModelSpec) else "",
)
def test_a_head_is_seen_in_the_answers(asked: ModelSpec, head: Head, notes: list[str]) -> None:
    network, _ = network_with_notes(asked)
    found, told = settled(asked, network, torch.rand(4, 1, 16, 16))
    assert found.answers == head
    assert found.outputs == (head.output,)
    assert len(told) == len(notes)
    assert all(line.startswith(note) for line, note in zip(told, notes, strict=True))


def test_a_logit_that_happens_to_lie_between_0_and_1_is_no_probability() -> None:
    network = create_from_module("tests.heads:binary")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.head.bias.fill_(0.4)  # type: ignore[union-attr,operator] # a linear layer
    found, _ = settled(spec("binary"), network, torch.rand(4, 1, 16, 16))
    assert found.answers == Head("binary")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (spec("hidden"), r"it gave a dict of maps, and none is 'logits': choose with --outputs"),
        (spec("several"), r"a tuple of 0=\(batch, 1, 4, 4\), 1=\(batch, 3\): choose with"),
        (spec("several", picks=(("logits", "x"),)), r"--outputs logits=x: the network gives 0="),
        (spec("binary", head="classes"), r"gives 1 numbers a picture, head is classes: binary"),
        (spec("labels", head="binary"), r"gives 3 numbers .* classes, multi-label or embedding"),
        (spec("binary", labels=("a", "b", "c")), r"3 labels, and logits of 1 classes"),
        (
            spec("labels", head="embedding", outputs=("embedding",), labels=("a", "b", "c")),
            r"an embedding has no labels, and there are 3",
        ),
    ],
)
def test_a_head_that_does_not_fit_is_one_sentence(asked: ModelSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network_with_notes(asked)


def test_the_manifest_says_the_head_and_no_softmax_is_applied_twice(
    built: Path, client: Client
) -> None:
    manifests = [read_manifest(built / one.name, 1) for one in BUILT]
    assert [manifest.head for manifest in manifests] == [
        Head("binary"),
        Head("multi-label", threshold=0.48),
        Head(values="probabilities"),
        Head("embedding"),
        Head(),
    ]
    names = [[output.name for output in manifest.outputs] for manifest in manifests]
    assert names == [["logits"], ["logits"], ["probabilities"], ["embedding"], ["logits", "map"]]
    pictures = np.random.default_rng(0).random((2, 1, 16, 16), np.float32)
    model = client.describe("softmax")
    network, _ = network_with_notes(spec("softmax"))
    with torch.inference_mode():
        expected = network(torch.from_numpy(pictures)).numpy()
    assert client.infer(model, pictures) == pytest.approx(expected, abs=1e-5)


def test_of_several_tensors_those_that_were_named_are_served(built: Path, client: Client) -> None:
    manifest = read_manifest(built / "several", 1)
    assert manifest.outputs[1].shape == (1, 4, 4)
    assert ("--outputs", "logits=1,map=0") in pairwise(manifest.origin.command)
    pictures = np.random.default_rng(0).random((2, 1, 16, 16), np.float32)
    logits = load_reference(built / "several", manifest).predict(pictures)
    found = client.infer(client.describe("several"), pictures)
    assert found == pytest.approx(logits, abs=1e-5)
    maxima = pictures.reshape(2, 1, 4, 4, 4, 4).max(axis=(3, 5))
    assert (client.infer(client.describe("several"), pictures, "map") == maxima).all()


def maxima_and_labels() -> onnx.ModelProto:
    """Return a file that gives a map of maxima, and three labels behind a sigmoid."""
    weights = np.random.default_rng(0).normal(size=(256, 3)).astype(np.float32)
    return make_graph(
        [
            onnx.helper.make_node("MaxPool", ["x"], ["map"], kernel_shape=[4, 4], strides=[4, 4]),
            onnx.helper.make_node("Flatten", ["x"], ["flat"]),
            onnx.helper.make_node("MatMul", ["flat", "w"], ["numbers"]),
            onnx.helper.make_node("Sigmoid", ["numbers"], ["shares"]),
            onnx.helper.make_node("Identity", ["shares"], ["out"]),
        ],
        [("x", onnx.TensorProto.FLOAT, ["N", 1, 16, 16])],
        [
            ("map", onnx.TensorProto.FLOAT, ["N", 1, 4, 4]),
            ("out", onnx.TensorProto.FLOAT, ["N", 3]),
        ],
        [onnx.numpy_helper.from_array(weights, "w")],
    )


@pytest.mark.parametrize("source", ["program", "onnx"])
def test_programs_and_onnx_files_name_their_outputs_likewise(source: str, tmp_path: Path) -> None:
    path, example = tmp_path / f"net.{source}", torch.rand(2, 1, 16, 16)
    if source == "program":
        path.write_bytes(write_program(heads.several().eval(), example))
    else:
        onnx.save(maxima_and_labels(), path)
    picks = (("logits", "1"), ("map", "0" if source == "program" else "map"))
    asked = spec("own", outputs=("logits", "map"), picks=picks, **{source: path})
    found, _ = network_with_notes(asked)
    asked, _ = settled(asked, found, example)
    assert asked.answers.kind == ("classes" if source == "program" else "multi-label")
    subject = Candidate(asked, found, read_samples(asked, asked.samples))
    answers = Engine(export_spec(subject).graph, Execution(provider="cpu"), 4).run(example.numpy())
    assert (answers["map"] == torch.nn.functional.max_pool2d(example, 4).numpy()).all()
    with torch.inference_mode():
        assert answers[asked.outputs[0]] == pytest.approx(found(example).numpy(), abs=1e-5)
    (kept,) = reference_file(subject).values()
    alone = read_program(kept, "kept") if source == "program" else OnnxNetwork(kept, "kept")
    with torch.inference_mode():
        assert torch.equal(alone(example), found(example))
    wrong = spec("own", picks=(("logits", "7"),), **{source: path})
    with pytest.raises(ValueError, match=r"--outputs logits=7: the network gives .*\(batch, 3\)"):
        network_with_notes(wrong)


def test_a_companion_judges_a_head_by_what_it_is(built: Path, client: Client) -> None:
    validation = Validation(Subjects(client, References(built)))
    for one in BUILT:
        row = check_model(validation, pb.Subject(model_name=one.name), lambda _done, _all: None)
        figures = read_manifest(built / one.name, 1).figures
        assert row.misses == ()
        assert row.parity.argmax_agreement == pytest.approx(1, abs=1e-6)
        assert row.consistency.measured[0].served == pytest.approx(figures.consistency, abs=0.2)
    # a single logit has a highest class that never changes, and an answer that does
    assert read_manifest(built / "binary", 1).figures.consistency < 1
    assert 0 < read_manifest(built / "named", 1).figures.consistency < 1


def test_what_follows_one_class_is_not_on_the_page_of_labels(built: Path) -> None:
    shifts = read_report(built, "labels").shifts
    assert isinstance(shifts, Shifts)
    measured = [line.served.value for line in shifts.consistency if line.served is not None]
    assert min(measured) < 1
    assert (shifts.stability, shifts.slides) == ((), ())
    pages = write_pages(built)
    assert "Stability" not in (pages.parent / "labels.html").read_text()


def test_labels_are_shown_with_what_applies(
    headed: RunningServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "noise.png"
    noise = np.random.default_rng(1).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(noise).save(path)
    for model, names in (("binary", {"taken"}), ("labels", {"cat", "dog", "grass"})):
        command = [str(path), "--model", model, "--target", headed.target]
        assert main([*command, "--json"]) == 0
        (answer,) = json.loads(capsys.readouterr().out)
        lines = answer["shifts"][0]["classes"]
        assert {line["label"] for line in lines} == names
        threshold = 0.48 if model == "labels" else 0.5
        for line in lines:
            assert line["probability"] == pytest.approx(1 / (1 + np.exp(-line["logit"])))
            assert line["applies"] is (line["probability"] > threshold)
        assert main([*command, "--shift", "3"]) == 0
        assert "of 3 shifts leave the answer as it was" in capsys.readouterr().out
    assert main([str(path), "--model", "softmax", "--target", headed.target, "--json"]) == 0
    (answer,) = json.loads(capsys.readouterr().out)
    lines = answer["shifts"][0]["classes"]
    assert sum(line["probability"] for line in lines) == pytest.approx(1, abs=1e-4)
    assert all("logit" not in line for line in lines)
    assert main([str(path), "--model", "named", "--target", headed.target]) == 1
    assert "named gives an embedding; classes it has none" in capsys.readouterr().err


def test_the_same_is_what_a_head_calls_the_same() -> None:
    first, second = np.array([[0.2, 0.9], [0.2, 0.9]]), np.array([[0.4, 0.9], [0.6, 0.9]])
    assert Head().same(first, second).tolist() == [1, 1]
    assert Head("multi-label", "probabilities").same(first, second).tolist() == [1, 0]
    assert Head("multi-label", "probabilities", 0.3).same(first, second).tolist() == [0, 0]
    assert Head("multi-label", "probabilities").same(second, first, 0.11).tolist() == [1, 1]
    directions = Head("embedding").same(
        np.array([[3.0, 4.0]] * 3), np.array([[6, 8], [4, -3], [-3, -4]])
    )
    assert directions.tolist() == pytest.approx([1, 0, 0])
    assert Head("embedding").same(np.zeros((1, 2)), np.ones((1, 2))).tolist() == [0]


def test_a_binary_head_is_of_two_classes_with_the_threshold_between() -> None:
    head = Head("binary", threshold=0.8)
    numbers = np.array([[head.cut - 0.1], [head.cut + 0.1]])
    assert head.class_logits(numbers).argmax(axis=1).tolist() == [0, 1]
    given = Head("binary", "probabilities", 0.8)
    assert given.class_logits(np.array([[0.79], [0.81]])).argmax(axis=1).tolist() == [0, 1]
    assert np.isfinite(given.class_logits(np.array([[0.0], [1.0]]))).all()
    with pytest.raises(ValueError, match="a head of kind multi-label has no classes"):
        Head("multi-label").class_logits(numbers)


@pytest.mark.parametrize("head", [CLASSES, Head("multi-label", "probabilities", 0.25)])
def test_a_server_tells_its_clients_of_a_head(head: Head) -> None:
    assert told_head(head.parameters()) == head
    with pytest.raises(ValueError, match="unknown head 'heads'"):
        told_head({"head": "heads"})
