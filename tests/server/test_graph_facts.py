"""What ONNX files say of themselves, read without onnx."""

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from nyquist.server.artifact.graph_facts import GraphFacts, GraphTensor, read_graph_facts
from nyquist.server.wire.errors import ArtifactError
from tests.foreign import make_net


def test_a_graph_is_read_with_its_opset_its_open_axes_and_its_datatypes() -> None:
    model = make_net(also="ea", opset=17)
    assert read_graph_facts(model.SerializeToString()) == GraphFacts(
        opset=17,
        inputs=(GraphTensor("x", "FP32", (-1, 3, 8, 8)),),
        outputs=(
            GraphTensor("y", "FP32", (-1, 5)),
            GraphTensor("e", "FP32", (-1, 16)),
            GraphTensor("a", "INT64", (-1,)),
        ),
    )


def test_weights_that_are_listed_as_inputs_need_not_be_sent() -> None:
    model = make_net(batch=1, opset=7, ir_version=3)
    assert len(model.graph.input) == 2
    facts = read_graph_facts(model.SerializeToString())
    assert [tensor.name for tensor in facts.inputs] == ["x"]
    assert facts.inputs[0].shape == (1, 3, 8, 8)


def test_the_opset_is_that_of_onnx_and_not_of_another_domain() -> None:
    model = make_net(opset=13)
    model.opset_import.insert(0, helper.make_opsetid("com.microsoft", 99))
    assert read_graph_facts(model.SerializeToString()).opset == 13


def test_what_the_file_does_not_say_is_not_made_up() -> None:
    model = make_net()
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    sequence = helper.make_tensor_sequence_value_info("q", TensorProto.FLOAT, None)
    model.graph.output.append(sequence)
    assert read_graph_facts(model.SerializeToString()).outputs == (
        GraphTensor("y", "FP32", None),
        GraphTensor("q", "", None),
    )


@pytest.mark.parametrize("datatype", ["FLOAT16", "DOUBLE", "BOOL", "STRING", "UINT16", "BFLOAT16"])
def test_every_datatype_is_spelled_as_the_protocol_does(datatype: str) -> None:
    spelled = {"FLOAT16": "FP16", "DOUBLE": "FP64", "STRING": "BYTES", "BFLOAT16": "BF16"}
    model = make_net()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DataType.Value(datatype)
    (tensor,) = read_graph_facts(model.SerializeToString()).inputs
    assert tensor.datatype == spelled.get(datatype, datatype)


def test_the_built_models_say_what_their_manifests_say(repository: Path) -> None:
    for graph in repository.glob("*/1/model.onnx"):
        facts = read_graph_facts(graph.read_bytes())
        expected = onnx.load(graph, load_external_data=False)
        assert facts.opset == expected.opset_import[0].version
        assert [one.name for one in facts.inputs] == [one.name for one in expected.graph.input]
        assert [one.name for one in facts.outputs] == [one.name for one in expected.graph.output]


@pytest.mark.parametrize(
    "content",
    [b"", b"not a model", b"\x3a\x7f", b"\x38\x01", b"\xff" * 11, b"\x0b", b"\x3a\x00" * 2],
)
def test_bytes_that_are_no_model_are_refused(content: bytes) -> None:
    with pytest.raises(ArtifactError, match="it is no ONNX file"):
        read_graph_facts(content)


def test_a_file_that_is_cut_off_is_refused() -> None:
    whole = make_net().SerializeToString()
    with pytest.raises(ArtifactError, match="it is no ONNX file: it ends within a field"):
        read_graph_facts(whole[: len(whole) // 2])
