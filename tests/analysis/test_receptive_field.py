from pathlib import Path

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nyquist.export.graph.export import export_graph
from nyquist.models.analysis.layer_graph import Edge, Layer, LayerGraph, Node
from nyquist.models.analysis.module_graph import module_graph
from nyquist.models.analysis.onnx_graph import onnx_graph
from nyquist.models.analysis.receptive_field import (
    AxisField,
    Field,
    closed_form,
    last_map,
    layer_fields,
    receptive_fields,
)
from nyquist.models.analysis.window import Window
from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.layers.downsampling import DownsamplingKind
from nyquist.models.layers.padding import PAD_MODES, PaddedConv2d, PadMode
from nyquist.models.networks.architectures import create
from tests.analysis.networks import Gated, Lambda, Style, resnet, resnet_graph, vgg16
from tests.analysis.references import backward_field

PICTURE = torch.zeros(1, 3, 224, 224)
SMALL_PICTURE = torch.zeros(1, 3, 64, 64)
WINDOWS = st.builds(
    Window,
    kernel=st.integers(1, 7),
    stride=st.integers(1, 4),
    pad_before=st.integers(0, 3),
    dilation=st.integers(1, 2),
)


def final_field(network: nn.Module, picture: Tensor = PICTURE) -> Field:
    graph = module_graph(network, picture)
    return receptive_fields(graph)[last_map(graph)]


def chain(windows: list[Window]) -> LayerGraph:
    nodes = [Node(Layer("input", "input", (1, 1, 9, 9)), (), 2, 3)]
    for at, window in enumerate(windows):
        edge = Edge(at, window, window)
        nodes.append(Node(Layer(f"{at}", "conv", (1, 1, 9, 9)), (edge,), 2, 3))
    return LayerGraph(tuple(nodes))


def centred_at(offset: float) -> tuple[float, float]:
    return offset, offset


@pytest.mark.parametrize(
    ("depth", "size"), [(18, 435), (34, 899), (50, 427), (101, 971), (152, 1451)]
)
def test_a_torchvision_resnet_has_its_known_field(depth: int, size: int) -> None:
    field = receptive_fields(resnet_graph(depth))[-1]

    assert (field.rows.size, field.rows.jump, field.rows.centres) == (size, 32, centred_at(0))
    assert field.rows == field.columns


@pytest.mark.parametrize("style", [Style(), Style(taps=4)])
def test_a_traced_resnet_50_has_the_field_of_its_description(style: Style) -> None:
    assert final_field(resnet(50, style)) == receptive_fields(resnet_graph(50, style))[-1]


@pytest.mark.parametrize(("depth", "size"), [(50, 483), (101, 1027), (152, 1507)])
def test_a_resnet_v1_has_the_field_that_araujo_et_al_publish(depth: int, size: int) -> None:
    field = receptive_fields(resnet_graph(depth, Style(strided_conv=1)))[-1]

    assert (field.rows.size, field.rows.jump, field.aligned) == (size, 32, True)


def test_vgg16_has_the_field_the_jump_and_the_padding_that_araujo_et_al_publish() -> None:
    field = final_field(vgg16()).rows

    assert (field.size, field.jump, field.padding) == (212, 32, 90)
    assert field.centres == centred_at(15.5)


@pytest.mark.parametrize(("taps", "size"), [(2, 455), (3, 485), (4, 515), (5, 545)])
def test_an_antialiased_resnet_50_has_a_field_that_grows_with_its_taps(
    taps: int, size: int
) -> None:
    field = receptive_fields(resnet_graph(50, Style(taps=taps)))[-1]

    assert field.rows.size == size
    assert field.aligned


@pytest.mark.parametrize(("taps", "drift"), [(0, -15.5), (3, -14.5), (4, 0.5)])
def test_only_an_even_blur_keeps_the_grid_of_a_resnet_50_in_the_middle(
    taps: int, drift: float
) -> None:
    graph = resnet_graph(50, Style(taps=taps))
    field = receptive_fields(graph)[-1]

    assert field.rows.drift(7, 224) == field.columns.drift(7, 224) == drift


@pytest.mark.parametrize(
    ("kernels", "sizes"),
    [([(3, 1), (2, 2)] * 4, [3, 4, 8, 10, 18, 22, 38, 46]), ([(3, 2)] * 4, [3, 7, 15, 31])],
)
def test_the_field_grows_layer_by_layer_as_worked_by_hand(
    kernels: list[tuple[int, int]], sizes: list[int]
) -> None:
    windows = [Window(kernel, stride) for kernel, stride in kernels]

    assert [closed_form(windows[: n + 1]).size for n in range(len(windows))] == sizes


def test_two_convolutions_a_stage_with_the_second_strided_see_61_pixels() -> None:
    assert closed_form([Window(3), Window(3, 2)] * 4).size == 61


@settings(deadline=None)
@given(st.lists(WINDOWS, min_size=1, max_size=8))
def test_closed_form_forward_and_backward_recursion_agree_on_a_chain(
    windows: list[Window],
) -> None:
    graph = chain(windows)

    forward = receptive_fields(graph)[-1].rows
    backward = backward_field(graph, len(windows)).rows

    assert forward == backward == closed_form(windows)


@pytest.mark.parametrize("style", [Style(), Style(taps=4)])
def test_forward_and_backward_recursion_agree_at_every_node_of_a_residual_graph(
    style: Style,
) -> None:
    graph = resnet_graph(152, style)

    for index, forward in enumerate(receptive_fields(graph)):
        backward = backward_field(graph, index)
        for axis in ("rows", "columns"):
            ahead, back = getattr(forward, axis), getattr(backward, axis)
            assert (ahead.size, ahead.jump, ahead.start) == (back.size, back.jump, back.start)


@settings(deadline=None, max_examples=30)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
)
def test_the_gradient_of_one_position_fills_exactly_its_field(
    kernel: int, stride: int, padding: int, dilation: int
) -> None:
    first = nn.Conv2d(1, 1, kernel, stride, padding, bias=False)
    second = nn.Conv2d(1, 1, 2, 1, padding, dilation, bias=False)
    for layer in (first, second):
        nn.init.ones_(layer.weight)
    pads = Window(kernel, stride, padding), Window(2, 1, padding, dilation=dilation), Window(2)
    field = closed_form(pads)
    position = -(-field.padding // field.jump)  # the first whose field lies inside
    x = torch.zeros(1, 1, 40, 40, requires_grad=True)

    nn.functional.avg_pool2d(second(first(x)), 2, 1)[0, 0, position, position].backward()

    assert x.grad is not None
    seen = x.grad[0, 0].sum(1).nonzero().flatten().tolist()
    begin = field.start + position * field.jump
    assert (seen[0], seen[-1]) == (begin, begin + field.size - 1)


def test_paths_with_different_centres_are_reported_as_unaligned() -> None:
    blur, plain = create("compact", downsampling="blur", taps=4), nn.MaxPool2d(2)
    field = final_field(Lambda(lambda x: nn.functional.avg_pool2d(x, 3, 2, 1) + plain(x)), PICTURE)

    assert not field.aligned
    assert field.rows == AxisField(3, 2, -1, (0.0, 0.5))
    assert final_field(blur, torch.zeros(1, 1, 48, 48)).aligned


@pytest.mark.parametrize("pad_mode", PAD_MODES)
def test_a_pad_moves_the_field_whatever_it_continues_the_map_with(pad_mode: PadMode) -> None:
    network = nn.Sequential(PaddedConv2d(3, 3, 5, 2, pad_mode), BlurPool2d(4, 2, pad_mode))

    assert final_field(network).rows == AxisField(11, 4, -4, centred_at(1))


def test_paths_with_different_jumps_are_refused() -> None:
    shrunk = Lambda(lambda x: x[:, :, ::2, ::2] + x[:, :, :112, :112])

    with pytest.raises(ValueError, match=r"jumps of \[1, 2\] pixels meet"):
        final_field(shrunk)


def test_global_pooling_and_a_linear_layer_end_the_grid_and_see_all_of_it() -> None:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    graph = module_graph(nn.Sequential(nn.Conv2d(3, 4, 7, 32, 3), head), PICTURE)
    last = layer_fields(graph)[-1]

    assert last.op == "linear"
    assert last.grid == (1, 1)
    assert last.field.rows.size == 7 + 6 * 32


def test_a_gate_sees_the_whole_picture_beside_its_local_field() -> None:
    field = final_field(Gated())

    assert field.rows.whole
    assert field.rows.size == 3


@pytest.mark.parametrize("flatten", [True, False])
def test_a_patch_embedding_sees_its_patch_and_attention_sees_all(flatten: bool) -> None:
    embed = nn.Conv2d(3, 8, 16, 16)
    graph = module_graph(
        nn.Sequential(embed, nn.Flatten(2)) if flatten else nn.Sequential(embed), PICTURE
    )
    fields = receptive_fields(graph)

    assert fields[1].rows == AxisField(16, 16, 0, centred_at(7.5))
    assert fields[-1].rows.size == (224 if flatten else 16)


def test_channels_last_layers_keep_rows_and_columns() -> None:
    network = Lambda(lambda x: nn.functional.layer_norm(x.permute(0, 2, 3, 1), (3,)))
    graph = module_graph(nn.Sequential(nn.Conv2d(3, 3, 4, 4), network), PICTURE)

    assert graph.nodes[-1].grid == (56, 56)
    assert receptive_fields(graph)[-1].rows == AxisField(4, 4, 0, centred_at(1.5))


def test_an_unknown_operator_is_named() -> None:
    with pytest.raises(ValueError, match="no receptive field is known for the operator 'flip'"):
        final_field(Lambda(lambda x: x.flip(2)))


def test_the_mode_of_every_module_stays_as_it_was() -> None:
    network = resnet(18)
    network[1].eval()
    module_graph(network, SMALL_PICTURE)

    assert network.training
    assert not network[1].training
    assert network[0].training


@pytest.mark.parametrize("kind", ["blur", "polyphase"])
def test_the_exported_file_has_the_field_of_its_network(
    kind: DownsamplingKind, tmp_path: Path
) -> None:
    network, picture = create("compact", downsampling=kind).eval(), torch.zeros(2, 1, 48, 48)
    path = tmp_path / "model.onnx"
    path.write_bytes(export_graph(network, picture).graph)
    graph = onnx_graph(path)

    field = receptive_fields(graph)[last_map(graph)]

    assert field == final_field(network, picture[:1])
    assert field.rows.whole == (kind == "polyphase")


def test_an_exported_residual_network_has_the_field_of_its_network(tmp_path: Path) -> None:
    stem, layers, _ = resnet(18, Style(taps=4)).children()
    network = nn.Sequential(stem, *list(layers.children())[:3], nn.Flatten()).eval()
    path = tmp_path / "model.onnx"
    path.write_bytes(export_graph(network, torch.zeros(2, 3, 64, 64)).graph)
    graph = onnx_graph(path)

    fields = [backward_field(graph, last_map(graph)), receptive_fields(graph)[last_map(graph)]]

    assert fields == [final_field(network, SMALL_PICTURE)] * 2


def one_convolution(path: Path, **attributes: str | list[int]) -> Path:
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"])
    node.attribute.extend(onnx.helper.make_attribute(*item) for item in attributes.items())
    shape: list[str | int | None] = [1, 1, "H", "W"]
    graph = onnx.helper.make_graph(
        [node],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 1, None, None])],
        [onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [1, 1, 3, 3], [1.0] * 9)],
    )
    opset = [onnx.helper.make_opsetid("", 18)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset), path)
    return path


@pytest.mark.parametrize(("mode", "start"), [("SAME_UPPER", 0), ("SAME_LOWER", -1)])
def test_a_file_that_pads_by_itself_and_leaves_its_size_open(
    tmp_path: Path, mode: str, start: int
) -> None:
    path = one_convolution(tmp_path / "m.onnx", strides=[2, 2], auto_pad=mode)

    field = receptive_fields(onnx_graph(path, size=(8, 8)))[-1]

    assert (field.rows.size, field.rows.jump, field.rows.start) == (3, 2, start)


def test_an_open_size_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is open; give size="):
        onnx_graph(one_convolution(tmp_path / "m.onnx"))


def test_an_unknown_layer_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no layer 'stem'; choose from input, 0"):
        chain([Window(3)]).index("stem")
