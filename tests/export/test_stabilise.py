"""Stabilisation: a choice in front of a network that moves with the picture."""

import shlex
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from nyquist.companion.references.network import load_reference, load_samples
from nyquist.export.build import main as build
from nyquist.export.derive import derive
from nyquist.export.errors import ExportError
from nyquist.export.graph.stabilise import stabilise
from nyquist.export.judge import Candidate, open_graph
from nyquist.export.model import export_spec
from nyquist.export.recipe.command import command_of
from nyquist.export.recipe.recipe import read_recipe, relaxed
from nyquist.models.loading import load_network
from nyquist.models.samples import read_samples
from nyquist.models.spec import (
    STABILISERS,
    Datatype,
    Limits,
    ModelSpec,
    Preprocessing,
    Stabilisation,
    Stabiliser,
)
from nyquist.models.stabilised import StabilisedNetwork
from nyquist.models.zoo import specs
from nyquist.server.artifact.manifest import MODEL_FILE, read_manifest

SIDE = 40
ON_CUDA = {
    *("Add", "Cast", "Clip", "Concat", "Div", "Equal", "GatherND", "Identity", "Mul", "Neg"),
    *("ReduceMax", "ReduceSum", "Reshape", "Round", "Slice", "Sub", "Transpose", "Where"),
}
"""Of onnxruntime's docs/OperatorKernels.md, at opset 18 and for the types that are used here."""


class Seen(nn.Module):
    """Answers with all that it sees."""

    def forward(self, image: Tensor) -> Tensor:
        return image.flatten(1).float()


def spec_of(kind: Stabiliser, datatype: Datatype = "UINT8", side: int = SIDE) -> ModelSpec:
    return ModelSpec(
        name="net",
        architecture="net.onnx",
        onnx=Path("net.onnx"),
        options={},
        weights=None,
        labels=(),
        samples="photographs",
        input=(3, side, side),
        datatype=datatype,
        preprocessing=Preprocessing("HWC" if datatype == "UINT8" else "CHW"),
        stabilisation=Stabilisation(kind),
    )


def seen_graph(spec: ModelSpec, opset: int = 18) -> bytes:
    """Return a graph that answers with all that it sees, as a network of `spec.plain`."""
    plain = spec.plain
    kind = TensorProto.UINT8 if plain.datatype == "UINT8" else TensorProto.FLOAT
    size = int(np.prod(plain.shape))
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["values"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["values", "flat"], ["logits"]),
        ],
        "seen",
        [helper.make_tensor_value_info("image", kind, ["batch", *plain.shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", size])],
        [numpy_helper.from_array(np.array([-1, size], np.int64), "flat")],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def run(graph: bytes, pictures: NDArray[Any]) -> NDArray[Any]:
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {"image": pictures})
    return np.asarray(answer)


def views(spec: ModelSpec, pictures: NDArray[Any], opset: int = 18) -> NDArray[Any]:
    """Return what the network sees of pictures in onnxruntime."""
    seen = run(stabilise(seen_graph(spec, opset), spec), pictures)
    return seen.reshape(len(pictures), *spec.plain.shape)


def reference(spec: ModelSpec, pictures: NDArray[Any]) -> NDArray[Any]:
    assert spec.stabilisation is not None
    network = StabilisedNetwork(Seen(), spec.stabilisation, spec.preprocessing.layout)
    found = network(torch.from_numpy(pictures))
    return found.numpy().reshape(len(pictures), *spec.plain.shape)


def awkward(spec: ModelSpec) -> NDArray[Any]:
    """Return noise, and pictures most of whose scores are equal: two levels, plain, periodic."""
    rng = np.random.default_rng(0)
    _, height, width = spec.served
    board = np.add.outer(np.arange(height), np.arange(width))[..., None] // 8 % 2 * 255
    maps = [
        rng.integers(0, 256, (height, width, 3)),
        rng.integers(0, 2, (height, width, 3)) * 255,
        np.full((height, width, 3), 7),
        np.broadcast_to(board, (height, width, 3)),
        np.eye(height)[..., None] * np.array([255, 255, 255]),
    ]
    pixels = np.stack(maps).astype(np.uint8)
    if spec.datatype == "UINT8":
        return pixels
    floats = np.moveaxis(pixels.astype(np.float32) / 255, 3, 1)
    return np.ascontiguousarray(np.concatenate([floats, rng.random(floats.shape, np.float32)]))


def moving(side: int, down: int, right: int) -> NDArray[np.uint8]:
    """Return a frame of a noisy scene with one bright square, seen further down and right."""
    scene = np.random.default_rng(1).integers(0, 99, (200, 200, 3), dtype=np.uint8)
    scene[80:84, 85:89] = 255
    return scene[None, 50 + down : 50 + down + side, 50 + right : 50 + right + side]


@pytest.mark.parametrize("opset", [13, 17, 18, 21])
@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
@pytest.mark.parametrize("kind", STABILISERS)
def test_onnxruntime_and_pytorch_choose_alike_whatever_ties(
    kind: Stabiliser, datatype: Datatype, opset: int
) -> None:
    spec = spec_of(kind, datatype)
    pictures = awkward(spec)
    ours, theirs = reference(spec, pictures), views(spec, pictures, opset)
    if kind == "average":
        np.testing.assert_allclose(theirs, ours, rtol=1e-6)
    else:
        np.testing.assert_array_equal(theirs, ours)


def test_the_brightest_square_is_where_the_crop_begins_modulo_32() -> None:
    spec = spec_of("crop")
    picture = np.zeros((1, *spec.shape), np.uint8)
    picture[0, 45:49, 13:17] = 255  # its place is that of the box of 16 around it, 6 before
    row, column = (45 - 6) % 32, 13 - 6
    cropped = picture[0, row : row + SIDE, column : column + SIDE]
    np.testing.assert_array_equal(views(spec, picture)[0], cropped)


def test_what_is_seen_stays_while_the_picture_moves() -> None:
    spec = spec_of("crop")
    side = spec.served[1]
    first = views(spec, moving(side, 0, 0))
    for down, right in ((1, 0), (0, 1), (-1, 0), (0, -1), (7, 2)):
        np.testing.assert_array_equal(views(spec, moving(side, down, right)), first)


def test_what_is_seen_stays_however_a_picture_is_rolled() -> None:
    spec = spec_of("circular")
    picture = moving(SIDE, 20, 20)
    first = views(spec, picture)
    assert not np.array_equal(first[0], picture[0])
    for offset in ((1, 0), (0, 39), (17, 23)):
        rolled = np.roll(picture, offset, (1, 2))
        np.testing.assert_array_equal(views(spec, rolled), first)


def test_an_average_is_that_of_the_answers_to_its_crops() -> None:
    spec = replace(spec_of("average"), outputs=("logits", "probabilities"))
    assert spec.stabilisation is not None
    pictures = awkward(spec)
    crops = [
        pictures[:, row : row + SIDE, column : column + SIDE]
        for row, column in spec.stabilisation.corners
    ]
    graph = stabilise(seen_graph(spec), spec)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(["logits", "probabilities"], {"image": pictures})
    expected = np.mean(crops, axis=0).reshape(len(pictures), -1)
    np.testing.assert_allclose(logits, expected, rtol=1e-6)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        probabilities, powers / powers.sum(axis=1, keepdims=True), rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("datatype", ["UINT8", "FP32"])
@pytest.mark.parametrize("kind", STABILISERS)
def test_every_operator_in_front_has_a_kernel_on_cuda(kind: Stabiliser, datatype: Datatype) -> None:
    spec = spec_of(kind, datatype)
    graph = onnx.load_from_string(stabilise(seen_graph(spec), spec)).graph
    used = Counter(node.op_type for node in graph.node)
    assert set(used) <= ON_CUDA, used


def test_a_file_of_an_older_opset_is_refused_with_what_brings_it_there() -> None:
    spec = spec_of("crop")
    with pytest.raises(ExportError, match=r"opset 13 or newer, the file has 12: .*convert_version"):
        stabilise(seen_graph(spec, 12), spec)


def test_a_foreign_file_is_stabilised_in_one_command(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], strides=[4, 4]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(rng.standard_normal((5, 3, 5, 5), np.float32), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    command = (
        f"--onnx {tmp_path / 'net.onnx'} --name products --input 3x64x64 --input-type uint8 "
        f"--stabilise crop --output {tmp_path / 'repository'}"
    )
    assert build(shlex.split(command)) == 0
    folder = tmp_path / "repository" / "products"
    manifest = read_manifest(folder, 1)
    assert manifest.stabilisation is not None
    assert (manifest.stabilisation.kind, manifest.stabilisation.period) == ("crop", 32)
    assert manifest.input.shape == (96, 96, 3)
    assert manifest.picture.crop_share == 1.0
    assert "--stabilise" in manifest.origin.command
    pictures = load_samples(folder, manifest).images.numpy()
    served = open_graph((folder / "1" / MODEL_FILE).read_bytes(), 16)
    ours = load_reference(folder, manifest).predict(pictures)
    np.testing.assert_allclose(served(pictures), ours, atol=1e-4 * ours.std())


def test_the_choice_stays_exact_in_front_of_a_network_in_float16() -> None:
    plain = replace(specs()["fashion_strided"], limits=Limits(), max_batch_size=1)
    spec = relaxed(replace(plain, stabilisation=Stabilisation("crop")), "fp16")
    samples = read_samples(spec, spec.samples).spread(4)
    subject = Candidate(spec, load_network(spec), samples)
    found = derive(subject, export_spec(subject.plain))
    assert found.judgement.misses == ()
    half = {
        tensor.name
        for tensor in onnx.load_from_string(found.graph).graph.initializer
        if tensor.data_type == TensorProto.FLOAT16
    }
    assert half
    assert not any(name.startswith("choice.") for name in half)


def test_the_choice_stays_exact_in_front_of_a_network_in_int8() -> None:
    plain = replace(specs()["fashion_strided"], limits=Limits(), max_batch_size=1)
    spec = relaxed(replace(plain, stabilisation=Stabilisation("crop")), "int8")
    samples = read_samples(spec, spec.samples).spread(4)
    subject = Candidate(spec, load_network(spec), samples)
    found = derive(subject, export_spec(subject.plain))
    assert found.judgement.misses == ()
    assert found.judgement.figures.int8_share > 0.5
    nodes = onnx.load_from_string(found.graph).graph.node
    assert any(name.startswith("choice.") for node in nodes for name in node.output)
    rounded = [name for one in nodes if one.op_type == "QuantizeLinear" for name in one.input]
    assert rounded
    assert not any(name.startswith("choice.") for name in rounded)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"stabilise": "crops"}, "unknown stabilisation 'crops'; did you mean crop?"),
        (
            {"stabilise": "crop", "sizes": ["32x32"]},
            "is chosen out of pictures of one size; leave out sizes and resize",
        ),
        (
            {"stabilise": "circular", "input": "3x8x8"},
            "compares squares of 16 pixels, and input is 8x8",
        ),
        (
            {"stabilise": "average", "outputs": "logits,features"},
            "averages the logits alone; leave features out",
        ),
    ],
)
def test_what_cannot_be_stabilised_is_refused_by_name(
    fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    asked = {"name": "net", "arch": "compact", "input": "3x64x64"} | fields
    _, problems = read_recipe(asked, tmp_path)
    assert any(one.place == ("stabilise",) and message in one.message for one in problems), problems


def test_a_recipe_reads_pictures_at_the_scale_that_the_network_knows(tmp_path: Path) -> None:
    asked = {"name": "net", "arch": "compact", "input": "3x224x224", "stabilise": "crop"}
    (spec,), problems = read_recipe(asked, tmp_path)
    assert not problems
    read = spec.picture_input(3)
    assert (read.height, read.width, read.framing.crop_share) == (256, 256, 1.0)
    assert command_of(spec)[-2:] == ("--stabilise", "crop")
    assert "--crop-share" not in command_of(spec)
