"""What is declared of a graph, held against what it gives; and the labels of each output."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from nyquist.server.runtime.session_plan import Execution
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.serving.loading import LoadedModel, load_model
from nyquist.server.serving.served_model import ServedModel
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.errors import ArtifactError, InferenceFailed, NyquistError
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pictures import ImageDecoder
from nyquist.server.wire.request_head import Incoming
from nyquist.server.wire.tensors import parse_bytes_elements
from tests.foreign import CLASSES, EMBEDDING, SHAPE, WEIGHTS, make_net, put_artifact

ON_CPU = Execution(provider="cpu", threads=1)
Y = ("y", "FP32", [CLASSES])
E = ("e", "FP32", [16])
S = ("s", "FP32", SHAPE)
LETTERS = list("abcde")


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ([("logits", "FP32", [5])], r"'logits' is declared, FP32 \[-1, 5\]; the graph has y"),
        (
            [("y", "FP32", [7])],
            r"'y' is declared as FP32 \[-1, 7\]; for a batch of 1 the graph gives float32 \[1, 5\]",
        ),
        ([("y", "FP16", [5])], r"'y' is declared as FP16 \[-1, 5\]; .* gives float32 \[1, 5\]"),
    ],
)
def test_an_output_that_is_not_what_was_declared_fails_the_load_and_says_both(
    repository: Path,
    tmp_path: Path,
    outputs: Sequence[tuple[str, str, Sequence[int]]],
    message: str,
) -> None:
    folder = put_artifact(repository, tmp_path, make_net(), outputs)
    with pytest.raises(ArtifactError, match=message):
        load_model(folder, ON_CPU)


def test_an_input_of_another_name_fails_the_load_and_says_both(
    repository: Path, tmp_path: Path
) -> None:
    model = make_net()
    model.graph.input[0].name = model.graph.node[0].input[0] = "pixels"
    folder = put_artifact(repository, tmp_path, model, [Y])
    with pytest.raises(ArtifactError, match="input 'x' is declared; the graph has 'pixels'"):
        load_model(folder, ON_CPU)


def test_an_input_of_another_type_is_told_in_onnxruntimes_words(
    repository: Path, tmp_path: Path
) -> None:
    model = make_net()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    cast = helper.make_node("Cast", ["x"], ["single"], to=TensorProto.FLOAT)
    model.graph.node[0].input[0] = "single"
    model.graph.node.insert(0, cast)
    folder = put_artifact(repository, tmp_path, model, [Y])
    with pytest.raises(InferenceFailed, match=r"float32 \[1, 3, 8, 8\]: .*expected.*double"):
        load_model(folder, ON_CPU)


def test_a_batch_that_the_graph_does_not_take_fails_the_load_and_says_both(
    repository: Path, tmp_path: Path
) -> None:
    folder = put_artifact(repository, tmp_path, make_net(batch=1), [Y])
    with pytest.raises(ArtifactError, match="takes batches of 1 alone, max_batch_size is 8"):
        load_model(folder, ON_CPU)


def highest(loaded: LoadedModel, output: str, pictures: np.ndarray) -> list[str]:
    """Ask for the two highest classes of an output."""
    request = pb.ModelInferRequest(model_name="net", raw_input_contents=[pictures.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=pictures.shape)
    request.outputs.add(name=output).parameters["classification"].int64_param = 2

    async def ask() -> pb.ModelInferResponse:
        metrics = Metrics().model("net", "1")
        served = ServedModel(loaded, metrics, ImageDecoder(), QueueBudget(1 << 20))
        try:
            incoming = Incoming(request.SerializeToString())
            return pb.ModelInferResponse.FromString(await served.infer(incoming, 0.0, None))
        finally:
            await served.close()

    answer = asyncio.run(ask())
    assert list(answer.outputs[0].shape) == [len(pictures), 2]
    return [one.decode() for one in parse_bytes_elements(answer.raw_output_contents[0])]


def named(values: np.ndarray, labels: Sequence[str] = ()) -> list[str]:
    """The two highest of each row, worked out one by one."""
    found = []
    for row in values.reshape(len(values), -1).tolist():
        ordered = sorted(enumerate(row), key=lambda one: (-one[1], one[0]))[:2]
        found += [":".join([f"{value:f}", str(k), *labels[k : k + 1]]) for k, value in ordered]
    return found


@pytest.fixture(params=["labelled", "unlabelled", "no outputs"])
def config(request: pytest.FixtureRequest) -> str:
    """What config.pbtxt says of the outputs."""
    if request.param == "no outputs":
        return ""
    label = 'label_filename: "labels.txt"' if request.param == "labelled" else ""
    return (
        'output { name: "e" data_type: TYPE_FP32 dims: 16 }\n'
        f'output {{ name: "y" data_type: TYPE_FP32 dims: 5 {label} }}\n'
        'output { name: "s" data_type: TYPE_FP32 dims: [3, 8, 8] }\n'
    ).replace("output", 'input { name: "x" data_type: TYPE_FP32 dims: [3, 8, 8] }\noutput', 1)


def test_the_classes_of_any_output_are_named_and_labelled_with_none_but_its_own(
    repository: Path, tmp_path: Path, config: str
) -> None:
    net = make_net(also="es")
    folder = put_artifact(repository, tmp_path, net, [E, Y, S], LETTERS, config)
    loaded = load_model(folder, ON_CPU)
    pictures = np.random.default_rng(3).normal(size=(2, *SHAPE)).astype(np.float32)
    means = pictures.mean(axis=(2, 3))
    unlabelled = bool(config) and "label_filename" not in config
    assert highest(loaded, "y", pictures) == named(means @ WEIGHTS, [] if unlabelled else LETTERS)
    assert highest(loaded, "e", pictures) == named(means @ EMBEDDING)
    assert highest(loaded, "s", pictures) == named(np.maximum(pictures, 0))


def test_labels_that_fit_no_output_are_refused(repository: Path, tmp_path: Path) -> None:
    folder = put_artifact(repository, tmp_path, make_net(also="e"), [E, Y], ["one", "two"])
    with pytest.raises(NyquistError, match="2 labels for 16 classes of 'e'"):
        load_model(folder, ON_CPU)


@pytest.mark.parametrize(
    "config",
    [
        'input { name: "x" data_type: TYPE_FP32 dims: [3, 8, 8] }',
        'output [{ name: "e" data_type: TYPE_FP32 dims: 16 }, '
        '{ name: "y" data_type: TYPE_FP32 dims: 5 label_filename: "labels.txt" }]',
    ],
)
def test_a_configuration_may_name_some_tensors_of_an_artifact_in_any_order(
    repository: Path, tmp_path: Path, config: str
) -> None:
    net = make_net(also="e")
    loaded = load_model(put_artifact(repository, tmp_path, net, [Y, E], LETTERS, config), ON_CPU)
    assert [output.name for output in loaded.described.outputs] == ["y", "e"]
    assert {output.name for output in loaded.config.output} == {"y", "e"}
    assert loaded.config.input[0].name == "x"
    assert dict(loaded.labels) == {"y": tuple(LETTERS)}


def test_a_configuration_of_another_datatype_is_refused_with_both(
    repository: Path, tmp_path: Path
) -> None:
    config = 'input { name: "x" data_type: TYPE_FP16 dims: [3, 8, 8] }'
    folder = put_artifact(repository, tmp_path, make_net(), [Y], LETTERS, config)
    with pytest.raises(ArtifactError, match=r"'x': \('FP16', .*its manifest .*'x': \('FP32'"):
        load_model(folder, ON_CPU)
