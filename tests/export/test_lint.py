"""Every fault of a file gets its sentence, and a sound file none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import ModelProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from nyquist.export.graph.export import OPSET, strip_metadata
from nyquist.export.graph.lint import Promise, costs, fixed_pools, lint
from nyquist.models.zoo import specs
from tests.export.exporting import Exported, export, small_graph

PROMISE = Promise(OPSET, {"image": (1, 2, 2)}, {"logits": (4,)})
FLATTEN = helper.make_node("Flatten", ["image"], ["flat"])
GEMM = helper.make_node("Gemm", ["flat", "fc.weight"], ["logits"])
WEIGHT = np.eye(4, dtype=np.float32)


def sound() -> ModelProto:
    return small_graph(FLATTEN, GEMM, constants={"fc.weight": WEIGHT})


@pytest.mark.parametrize("name", sorted(specs()))
def test_every_built_model_is_clean(repository: Path, name: str) -> None:
    spec = specs()[name]
    promise = Promise(OPSET, {"image": spec.shape}, {"logits": (len(spec.labels),)})
    path = repository / name / "1" / "model.onnx"
    assert lint(onnx.load(path), promise) == []
    assert lint(onnx.load(path), promise, path) == []


def wrong_opset(model: ModelProto) -> None:
    model.opset_import[0].version = 19


def fixed_batch(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2


def open_height(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def expression(model: ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "((height - 7)//8) + 1"


def other_name(model: ModelProto) -> None:
    model.graph.output[0].name = "scores"
    model.graph.node[1].output[0] = "scores"


def dead_node(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["flat"], ["unread"]))


def unused_weight(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(WEIGHT, "left.over"))


def custom_domain(model: ModelProto) -> None:
    model.graph.node[1].domain = "com.microsoft"
    model.graph.node[1].op_type = "FusedGemm"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def function(model: ModelProto) -> None:
    inner = [helper.make_node("Relu", ["x"], ["y"])]
    opsets = [helper.make_opsetid("", OPSET)]
    model.functions.append(helper.make_function("local", "twice", ["x"], ["y"], inner, opsets))


def doc_string(model: ModelProto) -> None:
    model.graph.node[0].name = "node_flat"
    model.graph.node[0].doc_string = "/home/someone/network.py"


def stack_trace(model: ModelProto) -> None:
    model.graph.initializer[0].metadata_props.add(key="stack_trace", value="/home/someone")


def normalisation(model: ModelProto) -> None:
    names = ["scale", "shift", "mean", "variance"]
    del model.graph.node[:]
    model.graph.node.extend(
        [
            FLATTEN,
            helper.make_node("Gemm", ["flat", "fc.weight"], ["mixed"]),
            helper.make_node("BatchNormalization", ["mixed", *names], ["logits"]),
        ]
    )
    weights = [numpy_helper.from_array(np.ones(4, np.float32), name) for name in names]
    model.graph.initializer.extend(weights)


def shape_chain(model: ModelProto) -> None:
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(
        [
            helper.make_node("Shape", ["image"], ["shape"]),
            helper.make_node("Gather", ["shape", "first"], ["rows"]),
            helper.make_node("Concat", ["rows", "four"], ["target"], axis=0),
            helper.make_node("Reshape", ["image", "target"], ["logits"]),
        ]
    )
    for name, values in (("first", [0]), ("four", [4])):
        model.graph.initializer.append(numpy_helper.from_array(np.array(values), name))


def computed_index(model: ModelProto) -> None:
    del model.graph.node[1:], model.graph.initializer[:]
    model.graph.node.extend(
        [
            helper.make_node("ArgMax", ["flat"], ["best"], axis=0, keepdims=0),
            helper.make_node("Gather", ["flat", "best"], ["logits"], axis=0),
        ]
    )


def nonzero(model: ModelProto) -> None:
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(
        [
            helper.make_node("NonZero", ["image"], ["where"]),
            helper.make_node("Cast", ["where"], ["logits"], to=TensorProto.FLOAT),
        ]
    )


def invalid(model: ModelProto) -> None:
    model.graph.node[1].input[0] = "nowhere"


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (wrong_opset, "opset [19] instead of 18"),
        (fixed_batch, "input 'image' has a fixed batch of 2: name axis 0 in dynamic_shapes"),
        (open_height, "input 'image' has 'height' on axis 2, where 2 is promised"),
        (expression, "output 'logits' has '((height - 7)//8) + 1' on axis 1, where 4 is promised"),
        (other_name, "outputs ['scores'] instead of ['logits']: pass output_names"),
        (custom_domain, "operators of the domain 'com.microsoft' (FusedGemm)"),
        (function, "the function 'twice' is not inlined"),
        (doc_string, "'node_flat' and 0 more carry notes"),
        (stack_trace, "'fc.weight' and 0 more carry notes"),
        (invalid, "onnx.checker: Nodes in a graph must be topologically sorted"),
    ],
)
def test_a_fault_has_its_sentence(fault: Callable[[ModelProto], None], sentence: str) -> None:
    model = sound()
    assert lint(model, PROMISE) == []
    fault(model)
    found = lint(model, PROMISE)
    assert [each for each in found if each.startswith(sentence)], found


@pytest.mark.parametrize(
    ("cost", "sentence"),
    [
        (dead_node, "Relu 'unread' reaches no output"),
        (unused_weight, "the weight 'left.over' is not used"),
        (normalisation, "1 BatchNormalization stand by themselves"),
        (shape_chain, "1 Shape of 4 operators (25%) compute sizes"),
        (computed_index, "1 Gather of 3 operators (33%) compute sizes"),
        (nonzero, "1 NonZero: what runs depends on values"),
    ],
)
def test_what_is_slow_and_right_is_told_and_not_refused(
    cost: Callable[[ModelProto], None], sentence: str
) -> None:
    model = sound()
    assert costs(model, PROMISE) == []
    cost(model)
    assert [each for each in costs(model, PROMISE) if each.startswith(sentence)]
    assert not [each for each in lint(model, PROMISE) if "onnx.checker" not in each]


def test_a_file_out_of_order_is_told_so_and_its_nodes_are_not_called_dead() -> None:
    model = small_graph(GEMM, FLATTEN, constants={"fc.weight": WEIGHT})
    (sentence,) = lint(model, PROMISE)
    assert "topologically sorted" in sentence


def test_all_faults_are_told_and_not_the_first_alone() -> None:
    model = sound()
    for fault in (wrong_opset, fixed_batch, other_name, stack_trace):
        fault(model)
    assert len(lint(model, PROMISE)) == 4


def test_facts_about_the_model_itself_are_no_fault() -> None:
    model = sound()
    model.metadata_props.add(key="nyquist.model", value="fashion_blur")
    assert lint(model, PROMISE) == []


def test_an_open_size_may_compute_shapes_and_must_be_open() -> None:
    promise = replace(PROMISE, inputs={"image": (1, None, 2)})
    model = sound()
    assert lint(model, promise) == [
        "input 'image' has 2 burnt into axis 2: name that axis in dynamic_shapes"
    ]
    shape_chain(model)
    open_height(model)
    assert not [each for each in costs(model, promise) if "compute sizes" in each]


class ChannelsLast(nn.Module):
    """Takes bytes as cameras give them, and forgets .contiguous() behind the permute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, image: Tensor) -> Tensor:
        return self.pool(self.conv(image.permute(0, 3, 1, 2).float())).flatten(1)


def test_a_real_export_that_falls_into_the_trap_of_channels_last_is_told_its_cost() -> None:
    picture = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    model = export(ChannelsLast().eval(), picture).model_proto
    strip_metadata(model)
    promise = Promise(OPSET, {"image": (8, 8, 3)}, {"logits": (4,)})
    assert lint(model, promise) == []
    (sentence,) = costs(model, promise)
    assert "Range" in sentence
    assert ".contiguous() behind a permute" in sentence


def test_an_export_that_was_not_stripped_is_told_so() -> None:
    model = export(nn.Flatten().eval(), torch.zeros(2, 1, 2, 2)).model_proto
    (sentence,) = lint(model, PROMISE)
    assert "carry notes of the exporter" in sentence


def test_a_map_promised_at_7x7_is_refused_where_the_graph_computes_its_size(
    pooled_to_7: Exported,
) -> None:
    model = onnx.load_from_string(pooled_to_7.graph)
    onnx.checker.check_model(model, full_check=True)
    promise = Promise(OPSET, {"image": (3, None, None)}, {"logits": (8, 7, 7)})
    rows, columns = lint(model, promise)
    assert "output 'logits' has '" in rows
    assert "height" in rows
    assert "on axis 2, where 7 is promised: its size changes with the picture's" in rows
    assert "width" in columns


class Hidden(nn.Module):
    """Pools to a fixed size by a function, where no module and no output shows it."""

    def __init__(self, size: int | tuple[int | None, int | None]) -> None:
        super().__init__()
        self.size = size
        self.head = nn.Linear(3, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(image, self.size).mean((2, 3)))


@pytest.mark.parametrize("size", [112, 56])
@pytest.mark.parametrize("pooled", [7, 6])
def test_an_adaptive_pool_to_a_fixed_size_is_refused_by_its_name(size: int, pooled: int) -> None:
    network = nn.Sequential(nn.ReLU(), nn.Sequential(nn.AdaptiveAvgPool2d(pooled), nn.Flatten()))
    (sentence,) = fixed_pools(network.eval(), torch.zeros(2, 3, size, size))
    assert sentence.startswith(f"1.0 pools to a fixed {pooled}x{pooled}, which no graph does for")
    assert "AdaptiveAvgPool2d(1), or x.mean((2, 3))" in sentence


@pytest.mark.parametrize(
    ("network", "found"),
    [
        (Hidden(7), ["the network itself pools to a fixed 7x7"]),
        (nn.Sequential(nn.ReLU(), Hidden((1, 7))), ["1 pools to a fixed 1x7"]),
        (nn.AdaptiveMaxPool2d((None, 3)), ["the network itself pools to a fixed Nonex3"]),
        (nn.AdaptiveMaxPool2d(2, return_indices=True), ["the network itself pools to a fixed 2x2"]),
        (nn.AdaptiveAvgPool2d(1), []),
        (Hidden((None, 1)), []),
        (nn.AvgPool2d(7), []),
    ],
)
def test_functions_and_maxima_are_found_too_and_global_pools_are_not(
    network: nn.Module, found: list[str]
) -> None:
    sentences = fixed_pools(network, torch.zeros(2, 3, 14, 14))
    assert [sentence.split(",")[0] for sentence in sentences] == found


def outside(folder: Path) -> tuple[ModelProto, Path]:
    """Write a sound model whose weight lies in weights.bin, beside it."""
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(sound(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return onnx.load(path, load_external_data=False), path


def point_to(model: ModelProto, **entries: str) -> None:
    for entry in model.graph.initializer[0].external_data:
        entry.value = entries.get(entry.key, entry.value)


def test_weights_beside_the_model_are_allowed_only_where_its_path_is_known(tmp_path: Path) -> None:
    model, path = outside(tmp_path)
    assert lint(model, PROMISE, path) == []
    assert lint(model, PROMISE) == [
        "'fc.weight' lies in another file: save with external_data=False"
    ]


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("../weights.bin", "is no plain file name"),
        ("/etc/hostname", "is no plain file name"),
        ("", "is no plain file name"),
        (".", "is no plain file name"),
        ("*/_ORT_MEM_ADDR_/*", "is no plain file name"),
        ("missing.bin", "cannot be read (No such file or directory)"),
        ("folder", "is no regular file"),
        ("symbolic.bin", "is a symbolic link"),
        ("hard.bin", "has 2 names (a hard link)"),
    ],
)
def test_weights_that_lie_elsewhere_are_refused(tmp_path: Path, location: str, reason: str) -> None:
    secret = tmp_path / "weights.bin"
    secret.write_bytes(bytes(64))
    model, path = outside(tmp_path / "model")
    (path.parent / "folder").mkdir()
    (path.parent / "symbolic.bin").symlink_to(secret)
    (path.parent / "hard.bin").hardlink_to(secret)
    point_to(model, location=location)
    assert lint(model, PROMISE, path) == [
        f"'fc.weight' lies in {location!r}, which {reason}: save the model again"
    ]


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"offset": "-64"}, "has 64 bytes, and 64 from -64 on are asked for"),
        ({"length": "65"}, "has 64 bytes, and 65 from 0 on are asked for"),
        ({"offset": "1"}, "has 64 bytes, and 64 from 1 on are asked for"),
        ({"length": "all"}, "has an offset or a length that is no number"),
    ],
)
def test_weights_beyond_their_file_are_refused(
    tmp_path: Path, entries: dict[str, str], reason: str
) -> None:
    model, path = outside(tmp_path)
    point_to(model, **entries)
    (sentence,) = lint(model, PROMISE, path)
    assert reason in sentence


def test_every_weight_that_lies_outside_is_named() -> None:
    bias = numpy_helper.from_array(np.zeros(4, np.float32), "bias")
    model = small_graph(FLATTEN, GEMM, constants={"fc.weight": WEIGHT})
    model.graph.initializer.append(bias)
    for tensor in model.graph.initializer:
        tensor.data_location = TensorProto.EXTERNAL
    found = lint(model, PROMISE)
    named = [sentence.split()[0] for sentence in found if "lies in another file" in sentence]
    assert named == ["'fc.weight'", "'bias'"]


def hidden_weight() -> onnx.NodeProto:
    constant = numpy_helper.from_array(WEIGHT, "hidden")
    constant.data_location = TensorProto.EXTERNAL
    return helper.make_node("Constant", [], ["fc.weight"], value=constant)


def branch() -> onnx.NodeProto:
    given = helper.make_tensor_value_info("fc.weight", TensorProto.FLOAT, [4, 4])
    graph = helper.make_graph([hidden_weight()], "branch", [], [given])
    return helper.make_node("If", ["flat"], ["fc.weight"], then_branch=graph, else_branch=graph)


@pytest.mark.parametrize("node", [hidden_weight(), branch()])
def test_a_weight_within_an_operator_may_not_lie_outside_either(node: onnx.NodeProto) -> None:
    found = lint(small_graph(FLATTEN, node, GEMM), PROMISE)
    assert any("'hidden' lies in another file" in sentence for sentence in found)
