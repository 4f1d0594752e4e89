"""float16 and int8 graphs: what they compute, what stays in float32, and which recipe is chosen."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from nyquist.companion.measures.shift_consistency import circular_consistency
from nyquist.export.errors import PrecisionError
from nyquist.export.graph.export import OPSET, export_graph
from nyquist.export.precision.calibration import calibrate
from nyquist.export.precision.float16 import overflows, to_fp16
from nyquist.export.precision.int8 import (
    CALIBRATED,
    Recipe,
    blur_nodes,
    first_convolution,
    multiply_adds,
    quantise,
    quantised_nodes,
    share_of,
)
from nyquist.export.precision.ladder import LADDER, choose, fastest_first
from nyquist.models.layers.blur import blur_kernel
from nyquist.models.layers.polyphase import PolyphasePool2d
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.samples import fashion_calibration, fashion_samples
from nyquist.models.spec import Preprocessing
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution
from tests.processes import ROOT

ALL, BLUR_FLOAT, FIRST_FLOAT, BOTH_FLOAT, CONV_ONLY = LADDER
HALF, SINGLE, DOUBLE = TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE

DERIVE_BOTH = """
import sys
from hashlib import sha256
from pathlib import Path
from nyquist.export.precision.calibration import calibrate
from nyquist.export.precision.float16 import to_fp16
from nyquist.export.precision.int8 import CALIBRATED, quantise
from nyquist.export.precision.ladder import LADDER
from nyquist.models.samples import fashion_calibration
graph = Path(sys.argv[1]).read_bytes()
pictures = fashion_calibration().numpy()
calibrated = calibrate(graph, pictures, CALIBRATED)
for derived in (to_fp16(graph), quantise(graph, LADDER[0], calibrated)):
    print(sha256(derived).hexdigest())
"""


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.float32]:
    return fashion_samples().spread(32).images.numpy()


@pytest.fixture(scope="module")
def calibration() -> NDArray[np.float32]:
    return fashion_calibration().numpy()


@pytest.fixture(scope="module")
def blur(repository: Path) -> bytes:
    return model_file(repository, "fashion_blur").read_bytes()


@pytest.fixture(scope="module")
def polyphase(repository: Path) -> bytes:
    return model_file(repository, "fashion_polyphase").read_bytes()


def to_int8(graph: bytes, recipe: Recipe, pictures: NDArray[np.float32]) -> bytes:
    return quantise(graph, recipe, calibrate(graph, pictures, CALIBRATED))


def share_in_int8(graph: bytes, recipe: Recipe) -> float:
    model = onnx.load_from_string(graph)
    return share_of(multiply_adds(model), quantised_nodes(model.graph, recipe))


def model_file(repository: Path, name: str) -> Path:
    return repository / name / "1" / "model.onnx"


def predict(graph: bytes, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    engine = Engine(graph, Execution(provider="cpu", threads=1), max_batch_size=64)
    logits = engine.run(batch)["logits"]
    assert logits.dtype == np.float32
    return logits.astype(np.float32, copy=False)


def run_in_numpy(graph: bytes, batch: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute each node in its own type, as onnxruntime on the CPU does not for float16."""
    (output,) = ReferenceEvaluator(onnx.load_from_string(graph)).run(None, {"image": batch})
    return np.asarray(output, dtype=np.float32)


def convolutions(*weights: NDArray[np.float32], size: int) -> bytes:
    """Return a graph that is a chain of unpadded convolutions, `conv0`, `conv1`, ..."""
    names = ["image", *(f"map{i}" for i in range(len(weights) - 1)), "logits"]
    channels = first_channels = weights[0].shape[1]
    chain = []
    for i, weight in enumerate(weights):
        groups = channels // weight.shape[1]
        source, target = names[i : i + 2]
        chain.append(
            onnx.helper.make_node("Conv", [source, f"w{i}"], [target], f"conv{i}", group=groups)
        )
        channels = weight.shape[0]
    graph = onnx.helper.make_graph(
        chain,
        "chain",
        [onnx.helper.make_tensor_value_info("image", SINGLE, ["N", first_channels, size, size])],
        [onnx.helper.make_tensor_value_info("logits", SINGLE, ["N", channels, None, None])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10)
    return model.SerializeToString()


def learnt(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def binomial(channels: int, taps: int) -> NDArray[np.float32]:
    return np.tile(blur_kernel(taps).numpy(), (channels, 1, 1, 1))


def types(graph: bytes) -> dict[str, int]:
    """Return the element type of every tensor."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph))
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    found = {value.name: value.type.tensor_type.elem_type for value in values}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def nodes(graph: bytes, *operators: str) -> list[onnx.NodeProto]:
    return [node for node in onnx.load_from_string(graph).graph.node if node.op_type in operators]


def in_int8(graph: bytes) -> set[str]:
    """Return the nodes whose input and weight both come out of 8 bits."""
    dequantised = {node.output[0] for node in nodes(graph, "DequantizeLinear")}
    return {node.name for node in nodes(graph, "Conv", "Gemm") if {*node.input[:2]} <= dequantised}


def set_weight(graph: bytes, node: onnx.NodeProto, value: float) -> tuple[bytes, str]:
    """Put a value into the weight of a node; return the graph and the weight's name."""
    model = onnx.load_from_string(graph)
    (tensor,) = (t for t in model.graph.initializer if t.name == node.input[1])
    array = numpy_helper.to_array(tensor).copy()
    array.flat[0] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString(), tensor.name


@pytest.fixture(scope="module", params=["float16", "int8"])
def derived(request: pytest.FixtureRequest, blur: bytes, calibration: NDArray[np.float32]) -> bytes:
    return to_fp16(blur) if request.param == "float16" else to_int8(blur, ALL, calibration)


def test_a_derived_graph_takes_and_gives_what_its_source_does(blur: bytes, derived: bytes) -> None:
    source, model = onnx.load_from_string(blur), onnx.load_from_string(derived)
    onnx.checker.check_model(model, full_check=True)
    assert list(model.graph.input) == list(source.graph.input)
    assert list(model.graph.output) == list(source.graph.output)
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", OPSET)}
    assert not model.metadata_props
    assert not model.graph.value_info


@pytest.mark.parametrize("size", [1, 3])
def test_a_derived_graph_takes_any_batch(
    derived: bytes, pictures: NDArray[np.float32], size: int
) -> None:
    logits = predict(derived, pictures[:size])
    assert logits.shape == (size, 10)


def test_another_process_derives_the_same_bytes_in_silence_and_leaves_nothing(
    repository: Path, blur: bytes, calibration: NDArray[np.float32], tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", DERIVE_BOTH, str(model_file(repository, "fashion_blur"))],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    expected = [to_fp16(blur), to_int8(blur, ALL, calibration)]
    assert ended.stdout.split() == [sha256(graph).hexdigest() for graph in expected]
    assert ended.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_float16_halves_the_file_and_hardly_moves_the_logits(
    blur: bytes, pictures: NDArray[np.float32]
) -> None:
    half = to_fp16(blur)
    assert len(half) < 0.55 * len(blur)
    found = types(half)
    assert all(found[node.input[1]] == HALF for node in nodes(half, "Conv", "Gemm"))
    expected, logits = predict(blur, pictures), predict(half, pictures)
    assert 0 < np.abs(logits - expected).max() <= 0.02 * expected.std()


def test_float16_keeps_sums_and_squares_in_wider_types(polyphase: bytes) -> None:
    half = to_fp16(polyphase)
    found = types(half)
    assert [found[node.input[0]] for node in nodes(half, "ReduceMean")] == [SINGLE]
    assert [found[node.input[0]] for node in nodes(half, "Pow")] == [SINGLE] * 4
    assert [found[node.input[0]] for node in nodes(half, "ReduceSum")] == [DOUBLE] * 4
    assert [found[node.output[0]] for node in nodes(half, "Pow")] == [SINGLE] * 4


def test_polyphase_selects_the_right_grid_where_squares_pass_the_end_of_float16() -> None:
    conv = nn.Conv2d(1, 1, 1, bias=False)
    network = nn.Sequential(conv, PolyphasePool2d(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph = export_graph(network.eval(), torch.zeros(2, 1, 4, 4)).graph
    graph, _ = set_weight(graph, nodes(graph, "Conv")[0], 300.0)
    picture = np.ones((1, 1, 4, 4), dtype=np.float32)
    picture[..., 1::2, 1::2] = 2  # the squares are 90,000 and 360,000
    expected, logits = run_in_numpy(graph, picture), run_in_numpy(to_fp16(graph), picture)
    assert np.abs(logits - expected).max() <= 2e-3 * np.abs(expected).max()


def test_float16_keeps_preprocessing_in_float32() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    served = PreprocessedNetwork(network, Preprocessing("HWC", 123.675, 58.395)).eval()
    half = to_fp16(export_graph(served, torch.zeros(2, 8, 8, 3, dtype=torch.uint8)).graph)
    found = types(half)
    for node in nodes(half, "Sub", "Div"):
        assert {found[name] for name in (*node.input, *node.output)} == {SINGLE}
    assert found["image"] == TensorProto.UINT8
    (conv,) = nodes(half, "Conv")
    assert found[conv.input[0]] == HALF


def test_a_weight_beyond_float16_is_refused_by_its_name(blur: bytes) -> None:
    graph, name = set_weight(blur, nodes(blur, "Conv")[2], -7e4)
    with pytest.raises(PrecisionError, match=f"65504: weight '{name}' reaches 70000"):
        to_fp16(graph)


def test_an_activation_beyond_float16_is_named(blur: bytes, pictures: NDArray[np.float32]) -> None:
    assert overflows(blur, pictures) == []
    second = nodes(blur, "Conv")[2]
    graph, _ = set_weight(blur, second, 6e4)
    found = overflows(graph, pictures)
    assert any(miss.startswith(f"activation '{second.output[0]}' reaches") for miss in found)
    assert found
    assert all(miss.endswith("float16 ends at 65504") for miss in found)


@pytest.mark.parametrize("recipe", LADDER, ids=lambda recipe: recipe.name)
def test_a_recipe_quantises_its_nodes_and_no_others(
    blur: bytes, calibration: NDArray[np.float32], recipe: Recipe
) -> None:
    filters, first = {node.name for node in nodes(blur, "Conv")[1::2]}, nodes(blur, "Conv")[0]
    expected = {node.name for node in nodes(blur, *recipe.operators)}
    if recipe.float_blur:
        expected -= filters
    if recipe.float_first:
        expected -= {first.name}
    graph = to_int8(blur, recipe, calibration)
    assert in_int8(graph) == expected
    found = types(graph)
    for node in nodes(graph, "Conv", "Gemm"):
        if node.name not in expected:
            assert node.input[1] in types(blur)  # the weight itself
            assert found[node.input[1]] == SINGLE


def test_weights_use_seven_bits_and_activations_eight(
    blur: bytes, calibration: NDArray[np.float32]
) -> None:
    graph = to_int8(blur, ALL, calibration)
    found = types(graph)
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in onnx.load_from_string(graph).graph.initializer
    }
    producers = {node.output[0]: node for node in nodes(graph, "DequantizeLinear")}
    for node in nodes(graph, "Conv", "Gemm"):
        activation, weight = (producers[name] for name in node.input[:2])
        assert found[activation.input[0]] == TensorProto.UINT8
        assert found[weight.input[0]] == TensorProto.INT8
        assert np.abs(stored[weight.input[0]].astype(int)).max() == 64
        assert len(stored[weight.input[1]]) == len(stored[weight.input[0]])  # a scale each


def test_the_activation_behind_a_quantised_convolution_is_absorbed(
    blur: bytes, calibration: NDArray[np.float32]
) -> None:
    assert len(nodes(blur, "Relu")) == 4
    assert not nodes(to_int8(blur, ALL, calibration), "Relu")
    assert len(nodes(to_int8(blur, FIRST_FLOAT, calibration), "Relu")) == 1


def test_logits_are_not_rounded_to_steps(blur: bytes, calibration: NDArray[np.float32]) -> None:
    graph = to_int8(blur, ALL, calibration)
    assert [node.output[0] for node in nodes(graph, "Gemm")] == ["logits"]


def test_integer_kernels_compute_what_the_graph_says(
    repository: Path, calibration: NDArray[np.float32], pictures: NDArray[np.float32]
) -> None:
    source = model_file(repository, "fashion_max_pool").read_bytes()
    graph = to_int8(source, ALL, calibration)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    in_float32 = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (expected,) = in_float32.run(None, {"image": pictures})
    assert np.abs(predict(graph, pictures) - expected).max() <= 0.03 * expected.std()


@pytest.mark.parametrize("recipe", LADDER, ids=lambda recipe: recipe.name)
def test_polyphase_answers_every_circular_shift_alike_in_int8(
    polyphase: bytes,
    calibration: NDArray[np.float32],
    pictures: NDArray[np.float32],
    recipe: Recipe,
) -> None:
    graph = to_int8(polyphase, recipe, calibration)
    engine = Engine(graph, Execution(provider="cpu", threads=1), max_batch_size=64)
    found = circular_consistency(
        lambda batch: engine.run(batch)["logits"], pictures, (2, 3), pairs=2
    )
    assert found.share == 1.0


def test_polyphase_answers_every_circular_shift_alike_in_float16(
    polyphase: bytes, pictures: NDArray[np.float32]
) -> None:
    engine = Engine(to_fp16(polyphase), Execution(provider="cpu", threads=1), max_batch_size=64)
    found = circular_consistency(
        lambda batch: engine.run(batch)["logits"], pictures, (2, 3), pairs=2
    )
    assert found.share == 1.0


def test_a_blur_is_known_by_its_weights_and_a_learnt_depthwise_convolution_is_none() -> None:
    weights = (binomial(2, 5), learnt(4, 2, 1, 1), learnt(4, 1, 3, 3), binomial(4, 2))
    graph = onnx.load_from_string(convolutions(*weights, size=16)).graph
    assert blur_nodes(graph) == {"conv0", "conv3"}
    first = first_convolution(graph)
    assert first is not None
    assert first.name == "conv1"
    assert quantised_nodes(graph, BOTH_FLOAT) == {"conv2"}


def test_the_share_in_int8_counts_multiply_adds() -> None:
    weights = (learnt(2, 1, 3, 3), binomial(2, 3), learnt(4, 1, 3, 3))  # the last in two groups
    costs = (36 * 2 * 9, 16 * 2 * 9, 4 * 4 * 9)  # on maps of 6x6, 4x4 and 2x2
    graph = convolutions(*weights, size=8)
    assert share_in_int8(graph, ALL) == 1.0
    assert share_in_int8(graph, FIRST_FLOAT) == pytest.approx(1 - costs[0] / sum(costs))
    assert share_in_int8(graph, BLUR_FLOAT) == pytest.approx(1 - costs[1] / sum(costs))
    assert share_in_int8(graph, BOTH_FLOAT) == pytest.approx(costs[2] / sum(costs))


def test_a_matrix_product_counts_by_its_inner_length(polyphase: bytes) -> None:
    costs = multiply_adds(onnx.load_from_string(polyphase))
    (last,) = nodes(polyphase, "Gemm")
    assert costs[last.name] == 96 * 10
    assert sum(costs.values()) == 7_631_808  # as nyquist.models.analysis.cost


def test_the_logits_of_an_average_picture_stay_where_they_were(
    blur: bytes, calibration: NDArray[np.float32]
) -> None:
    expected = predict(blur, calibration)
    logits = predict(to_int8(blur, ALL, calibration), calibration)
    assert np.abs(logits.mean(axis=0) - expected.mean(axis=0)).max() <= 0.02 * expected.std()
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9


@pytest.mark.parametrize("operators", [(), ("Conv", "ReduceMean")])
def test_a_recipe_of_other_operators_is_refused(operators: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be of \('Conv', 'Gemm'\), got"):
        Recipe("test", operators)


def test_a_recipe_that_finds_nothing_is_an_error(calibration: NDArray[np.float32]) -> None:
    graph = convolutions(learnt(4, 1, 3, 3), size=48)
    with pytest.raises(PrecisionError, match="'conv; first conv and blur float' finds nothing"):
        to_int8(graph, CONV_ONLY, calibration)


def test_calibration_needs_a_picture(blur: bytes, calibration: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        to_int8(blur, ALL, calibration[:0])


def test_the_first_recipe_without_a_miss_is_chosen_and_earlier_misses_are_kept(
    blur: bytes, calibration: NDArray[np.float32]
) -> None:
    def judge(graph: bytes) -> list[str]:
        return ["blur in int8"] if len(in_int8(graph)) > 5 else []

    chosen = choose(blur, calibration, judge)
    assert [(rung.recipe, rung.misses) for rung in chosen.rungs] == [
        (FIRST_FLOAT, ("blur in int8",)),
        (ALL, ("blur in int8",)),
        (BOTH_FLOAT, ()),
    ]
    assert chosen.recipe == BOTH_FLOAT
    assert chosen.graph == to_int8(blur, BOTH_FLOAT, calibration)
    assert [rung.share for rung in chosen.rungs] == [
        share_in_int8(blur, recipe) for recipe in (FIRST_FLOAT, ALL, BOTH_FLOAT)
    ]


def test_if_no_recipe_passes_the_error_names_each_with_its_misses(
    polyphase: bytes, calibration: NDArray[np.float32]
) -> None:
    with pytest.raises(PrecisionError) as failed:
        choose(polyphase, calibration, lambda graph: [f"{len(in_int8(graph))} nodes", "slow"])
    assert str(failed.value) == (
        "no recipe for int8 passes. conv, gemm; first conv float: 4 nodes, slow; "
        "conv, gemm: 5 nodes, slow; conv; first conv and blur float: 3 nodes, slow"
    )


@pytest.mark.parametrize(
    ("kernel_size", "expected"),
    [
        (3, [ALL, BLUR_FLOAT, FIRST_FLOAT, BOTH_FLOAT]),  # 36 products a value
        (2, [FIRST_FLOAT, ALL, BOTH_FLOAT, BLUR_FLOAT]),  # 16
    ],
)
def test_a_thin_first_convolution_is_left_float_before_it_is_tried_in_int8(
    kernel_size: int, expected: list[Recipe]
) -> None:
    first = learnt(8, 4, kernel_size, kernel_size)
    graph = convolutions(first, binomial(8, 4), learnt(8, 8, 3, 3), size=16)
    assert fastest_first(onnx.load_from_string(graph), LADDER) == expected
