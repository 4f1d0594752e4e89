"""Models without a manifest: folders that Triton serves, and what is refused of them."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.request import urlopen

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from nyquist.server.runtime.session_plan import Execution
from nyquist.server.serving.loading import load_model
from nyquist.server.wire import tensors
from nyquist.server.wire.errors import ArtifactError, InferenceFailed
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from nyquist.server.wire.pb import model_config_pb2
from tests.foreign import SHAPE, make_graph, make_net, put_model
from tests.processes import RunningServer, start_server

ON_CPU = Execution(provider="cpu", threads=1)
LETTERS = list("abcde")
ONE_INPUT = 'input { name: "x" data_type: TYPE_FP32 dims: [3, 8, 8] }\n'
FULL = (
    'platform: "onnxruntime_onnx"\nmax_batch_size: 8\n'
    + ONE_INPUT
    + 'output { name: "y" data_type: TYPE_FP32 dims: [5] label_filename: "labels.txt" }\n'
)


@dataclass(frozen=True)
class Case:
    """A model as somebody has it.

    Attributes:
        model: its graph.
        config: its config.pbtxt; None: it has none.
        batch: rows to send.
        most: rows that it takes at once: 0 for any number.
        outputs: that it has, in this order; answers have them by name, as Triton's.
    """

    model: onnx.ModelProto
    config: str | None = None
    batch: int = 3
    most: int = 4
    outputs: str = "y"


def typed_net(datatype: int) -> onnx.ModelProto:
    """A graph x -> y that gives back what it gets."""
    same = helper.make_node("Identity", ["x"], ["y"])
    return make_graph([same], [("x", datatype, ["N", 4])], [("y", datatype, ["N", 4])])


CASES = {
    "bare": Case(make_net()),
    "full": Case(make_net(), FULL, most=8),
    "named": Case(make_net(), 'name: "named"\n' + FULL, most=8),
    "backend": Case(make_net(), 'backend: "onnxruntime"\nmax_batch_size: 8\n', most=8),
    "empty": Case(make_net(), ""),
    "half": Case(make_net(also="e"), "max_batch_size: 8\n" + ONE_INPUT, most=8, outputs="ye"),
    "other_order": Case(
        make_net(also="e"),
        "max_batch_size: 8\n"
        'output [{ name: "e" data_type: TYPE_FP32 dims: 16 }, { name: "y" dims: 5 }]\n',
        most=8,
        outputs="ey",
    ),
    "a_part": Case(make_net(also="es"), 'output { name: "s" dims: [3, 8, 8] }', outputs="s"),
    "fixed": Case(make_net(batch=1), "max_batch_size: 0\n", batch=1, most=0),
    "fixed_of_three": Case(make_net(batch=3), batch=3, most=0),
    "fixed_with_dims": Case(
        make_net(batch=1),
        'max_batch_size: 0\ninput { name: "x" data_type: TYPE_FP32 dims: [1, 3, 8, 8] }\n',
        batch=1,
        most=0,
    ),
    "unbatched": Case(make_net(), "# as it comes\nmax_batch_size: 0\n", batch=9, most=0),
    "whole_dims": Case(make_net(), 'input { name: "x" dims: [-1, 3, 8, 8] }', batch=9, most=0),
    "without_a_batch": Case(make_net(also="t"), most=0, outputs="yt"),
    "with_int64": Case(make_net(also="a"), outputs="ya"),
    "old": Case(make_net(opset=7, ir_version=3)),
    "new": Case(make_net(opset=21, ir_version=10)),
    "on_cpu": Case(make_net(), "instance_group { count: 2 kind: KIND_CPU }\nmax_batch_size: 4\n"),
    "no_batching": Case(make_net(), "max_batch_size: 4"),
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign")
    for name, case in CASES.items():
        put_model(folder, name, case.model, case.config, LETTERS)
    put_model(folder, "other_file", make_net(), 'default_model_filename: "resnet.onnx"')
    (folder / "other_file" / "1" / "model.onnx").rename(folder / "other_file" / "1" / "resnet.onnx")
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("no model")
    (folder / "notes.txt").write_text("no folder")
    return folder


@pytest.fixture(scope="module")
def server(foreign: Path) -> Iterator[RunningServer]:
    running = start_server(foreign, ["--drain-s", "0", "--provider", "cpu", "--threads", "1"])
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[stubs.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.target) as channel:
        yield stubs.GRPCInferenceServiceStub(channel)


def request(model: str, pictures: np.ndarray) -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name=model, raw_input_contents=[pictures.tobytes()])
    asked.inputs.add(name="x", datatype="FP32", shape=pictures.shape)
    return asked


def pictures(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).normal(size=(batch, *SHAPE)).astype(np.float32)


@pytest.mark.parametrize("name", CASES)
def test_a_model_without_a_manifest_answers_what_onnxruntime_answers_bit_for_bit(
    stub: stubs.GRPCInferenceServiceStub, name: str
) -> None:
    case = CASES[name]
    sent = pictures(case.batch)
    answer = stub.ModelInfer(request(name, sent))
    by_name = sorted(case.outputs)
    assert [output.name for output in answer.outputs] == by_name
    session = ort.InferenceSession(case.model.SerializeToString())
    expected = session.run(by_name, {"x": sent})
    for output, raw, array in zip(
        answer.outputs, answer.raw_output_contents, expected, strict=True
    ):
        assert tuple(output.shape) == array.shape
        assert tensors.DTYPES[output.datatype] == array.dtype
        assert raw == array.tobytes()


@pytest.mark.parametrize("name", CASES)
def test_its_metadata_and_its_completed_configuration_agree(
    stub: stubs.GRPCInferenceServiceStub, name: str
) -> None:
    case = CASES[name]
    told = stub.ModelMetadata(pb.ModelMetadataRequest(name=name))
    config = stub.ModelConfig(pb.ModelConfigRequest(name=name)).config
    assert (config.name, config.platform, config.backend) == (
        name,
        "onnxruntime_onnx",
        "onnxruntime",
    )
    assert config.max_batch_size == case.most
    batching = case.most > 0 and "max_batch_size" not in (case.config or "")
    assert config.HasField("dynamic_batching") is batching
    front = [-1] if case.most else []
    for one, described in zip(
        (*config.input, *config.output), (*told.inputs, *told.outputs), strict=True
    ):
        assert one.name == described.name
        assert model_config_pb2.DataType.Name(one.data_type) == f"TYPE_{described.datatype}"
        assert [*front, *one.dims] == list(described.shape)
    assert list(told.versions) == ["1"]
    digest = sha256(case.model.SerializeToString()).hexdigest()
    assert told.parameters["sha256"].string_param == digest
    assert "image_formats" not in told.parameters


def test_a_batch_larger_than_the_model_takes_is_refused_with_the_number(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    for name, batch, reason in (
        ("bare", 5, "batch-size must be <= 4"),
        ("fixed", 2, r"Expected [1, 3, 8, 8], got [2, 3, 8, 8]"),
        ("fixed_of_three", 2, r"Expected [3, 3, 8, 8], got [2, 3, 8, 8]"),
    ):
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer(request(name, pictures(batch)))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert reason in str(refused.value.details())


def test_a_label_file_names_the_classes_of_its_output_alone(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    for name, parts in (("full", 3), ("bare", 2)):
        asked = request(name, pictures(1))
        asked.outputs.add(name="y").parameters["classification"].int64_param = 1
        (element,) = tensors.parse_bytes_elements(stub.ModelInfer(asked).raw_output_contents[0])
        value, index, *label = element.decode().split(":")
        assert len([value, index, *label]) == parts
        assert label in ([], [LETTERS[int(index)]])


def test_the_graphs_file_may_have_another_name(stub: stubs.GRPCInferenceServiceStub) -> None:
    stub.ModelInfer(request("other_file", pictures(1)))


def test_statistics_and_metrics_have_a_model_without_a_manifest(
    stub: stubs.GRPCInferenceServiceStub, server: RunningServer
) -> None:
    stub.ModelInfer(request("bare", pictures(2)))
    (counted,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="bare")).model_stats
    assert counted.inference_count >= 2
    with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as page:
        lines = page.read().decode().splitlines()
    (info,) = [line for line in lines if line.startswith("nyquist_model_info") and '"bare"' in line]
    digest = sha256(CASES["bare"].model.SerializeToString()).hexdigest()
    assert f'sha256="{digest}"' in info
    assert 'opset="13"' in info


def test_what_is_no_model_is_neither_listed_nor_complained_of(
    stub: stubs.GRPCInferenceServiceStub, server: RunningServer
) -> None:
    listed = stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
    assert {model.name for model in listed} == {*CASES, "other_file"}
    assert {model.state for model in listed} == {"READY"}
    assert not [line for line in server.log if "report" in line or "notes" in line]


@pytest.mark.parametrize(
    ("onnx_type", "datatype", "values"),
    [
        (TensorProto.INT64, "INT64", [-(2**40), 2**40, 0, 1]),
        (TensorProto.INT32, "INT32", [-7, 7, 0, 1]),
        (TensorProto.INT8, "INT8", [-128, 127, 0, 1]),
        (TensorProto.UINT16, "UINT16", [65535, 7, 0, 1]),
        (TensorProto.UINT64, "UINT64", [2**63, 7, 0, 1]),
        (TensorProto.DOUBLE, "FP64", [0.1, -1e300, 0.0, 1.0]),
        (TensorProto.BOOL, "BOOL", [True, False, False, True]),
    ],
)
def test_every_datatype_of_numbers_goes_in_and_comes_out_raw_and_typed(
    tmp_path: Path, onnx_type: int, datatype: str, values: list[float]
) -> None:
    put_model(tmp_path, "same", typed_net(onnx_type))
    running = start_server(tmp_path, ["--drain-s", "0", "--provider", "cpu", "--threads", "1"])
    array = np.array([values], tensors.DTYPES[datatype])
    raw = pb.ModelInferRequest(model_name="same", raw_input_contents=[array.tobytes()])
    raw.inputs.add(name="x", datatype=datatype, shape=[1, 4])
    typed = pb.ModelInferRequest(model_name="same")
    tensor = typed.inputs.add(name="x", datatype=datatype, shape=[1, 4])
    field = tensors.TYPED_FIELDS[datatype]
    getattr(tensor.contents, field).extend(values)
    with grpc.insecure_channel(running.target) as channel:
        own = stubs.GRPCInferenceServiceStub(channel)
        assert own.ModelInfer(raw).raw_output_contents[0] == array.tobytes()
        (output,) = own.ModelInfer(typed).outputs
        assert list(getattr(output.contents, field)) == values
    assert running.stop() == 0


def no_input(model: onnx.ModelProto) -> None:
    del model.graph.input[:]


def complex_numbers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.COMPLEX64


def shapeless(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.ClearField("shape")


def fixed(model: onnx.ModelProto) -> None:
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1


def turned(model: onnx.ModelProto) -> None:
    model.CopyFrom(make_net(also="t"))


def nothing(model: onnx.ModelProto) -> None:
    del model


@pytest.mark.parametrize(
    ("change", "config", "reason"),
    [
        (no_input, None, "the graph has no input"),
        (complex_numbers, None, "'x' is no dense tensor, which is not served; choices are FP32"),
        (shapeless, None, "the graph does not say the shape of 'y'; dims in config.pbtxt may"),
        (
            turned,
            "max_batch_size: 2",
            r"'t' has the shape \[5, -1\] in the graph, whose first axis",
        ),
        (fixed, "max_batch_size: 2", r"\[1, 3, 8, 8\] .* no open batch; .* max_batch_size: 0"),
        (
            nothing,
            'max_batch_size: 2 input { name: "x" data_type: TYPE_FP16 dims: [3, 8, 8] }',
            "'x' is configured as TYPE_FP16, in the graph it is FP32",
        ),
        (
            nothing,
            'max_batch_size: 2 input { name: "x" data_type: TYPE_FP32 dims: [3, 9, 8] }',
            r"configured as \[-1, 3, 9, 8\], in the graph it is \[-1, 3, 8, 8\]",
        ),
        (
            nothing,
            'max_batch_size: 2 output { name: "logits" data_type: TYPE_FP32 dims: 5 }',
            r"output 'logits' is configured; the graph has \['y'\]",
        ),
        (
            nothing,
            'max_batch_size: 2 input { name: "x" dims: [190] reshape { shape: [3, 8, 8] } }',
            r"configured as \[-1, 190\] with a reshape to \[-1, 3, 8, 8\], which has not as many",
        ),
        (nothing, 'name: "other"', "is for a model 'other', its folder is 'net'"),
        (nothing, 'default_model_filename: "b.onnx"', "no N/manifest.json, no N/b.onnx"),
        (
            nothing,
            'output { name: "y" dims: 5 label_filename: "../../secret" }',
            "'../../secret' is named, a model's files stay in its folder",
        ),
    ],
)
def test_what_is_not_served_is_refused_with_what_is(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None], config: str | None, reason: str
) -> None:
    model = make_net()
    change(model)
    folder = put_model(tmp_path, "net", model, config)
    with pytest.raises(ArtifactError, match=reason):
        load_model(folder, ON_CPU)


def test_an_axis_that_the_graph_leaves_open_takes_any_size_or_that_of_the_configuration(
    tmp_path: Path,
) -> None:
    model = make_net()
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = "side"
    bare = load_model(put_model(tmp_path, "open", model), ON_CPU)
    assert bare.described.inputs[0].shape == (3, -1, -1)
    assert bare.described.inputs[0].fits((3, 5, 999))
    config = 'input { name: "x" dims: [3, 8, 16] }'
    fixed_size = load_model(put_model(tmp_path, "sized", model, config), ON_CPU)
    assert fixed_size.described.inputs[0].shape == (3, 8, 16)
    assert not fixed_size.described.inputs[0].fits((3, 5, 999))


def test_a_model_of_open_size_is_warmed_with_the_size_that_its_warm_up_names(
    tmp_path: Path,
) -> None:
    model = make_net()
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = "side"
    slicing = helper.make_node("Reshape", ["x", "to"], ["eight"])  # takes 8 x 8 alone
    model.graph.node[0].input[0] = "eight"
    model.graph.node.insert(0, slicing)
    model.graph.initializer.append(helper.make_tensor("to", TensorProto.INT64, [4], [0, 3, 8, 8]))
    with pytest.raises(Exception, match=r"does not run the model on float32 \[1, 3, 224, 224\]"):
        load_model(put_model(tmp_path, "guessed", model), ON_CPU)
    warmup = (
        'model_warmup { name: "w" batch_size: 1 inputs { key: "x" value '
        "{ data_type: TYPE_FP32 dims: [3, 8, 8] zero_data: true } } }"
    )
    load_model(put_model(tmp_path, "told", model, warmup), ON_CPU)


def sample(data: str, dims: str = "[3, 8, 8]", rest: str = "batch_size: 2") -> str:
    tensor = f"data_type: TYPE_FP32 dims: {dims} {data}"
    return f'model_warmup {{ name: "w" {rest} inputs {{ key: "x" value {{ {tensor} }} }} }}'


@pytest.mark.parametrize(
    ("data", "runs"),
    [
        ("zero_data: true", True),
        ("random_data: true", False),
        ('input_data_file: "rows"', True),
        ('input_data_file: "row"', True),
        ('input_data_file: "wrong"', False),
    ],
)
def test_the_requests_of_a_warm_up_are_run_and_their_failure_is_that_of_the_load(
    tmp_path: Path, data: str, runs: bool
) -> None:
    table = helper.make_tensor("table", TensorProto.FLOAT, [4], [0.0, 1.0, 2.0, 3.0])
    look_up = helper.make_node("Gather", ["table", "x"], ["y"])
    net = make_graph(
        [look_up],
        [("x", TensorProto.INT64, ["N", 2])],
        [("y", TensorProto.FLOAT, ["N", 2])],
        [table],
    )
    config = sample(data, "2", "batch_size: 2 count: 2").replace("FP32", "INT64")
    folder = put_model(tmp_path, "net", net, f"max_batch_size: 2 {config}")
    (folder / "warmup").mkdir()
    for name, ids in (("rows", [3, 2, 1, 0]), ("row", [1, 2]), ("wrong", [0, 1, 2, 4])):
        (folder / "warmup" / name).write_bytes(np.array(ids).tobytes())
    if runs:
        load_model(folder, ON_CPU)
    else:
        with pytest.raises(
            InferenceFailed, match=r"model_warmup 'w': onnxruntime does not run .*idx="
        ):
            load_model(folder, ON_CPU)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            sample("zero_data: true", rest="batch_size: 5"),
            "batch_size is 5, max_batch_size is 4",
        ),
        (sample("zero_data: true", "[3, 8, 9]"), r"'x' is FP32 \[2, 3, 8, 9\], the model takes"),
        (sample(""), "'x' has no data: zero_data, random_data or input_data_file has"),
        (sample('input_data_file: "none"'), "warmup/none cannot be read: No such file"),
        (sample('input_data_file: "../../x"'), "a model's files stay in its folder"),
        (sample('input_data_file: "short"'), "has 12 elements, .* takes 384"),
        (sample("zero_data: true").replace('"x"', '"z"'), r"the inputs \['z'\], the model \['x'\]"),
    ],
)
def test_a_warm_up_that_is_no_request_of_the_model_fails_the_load_with_the_reason(
    tmp_path: Path, config: str, reason: str
) -> None:
    folder = put_model(tmp_path, "net", make_net(), f"max_batch_size: 4 {config}")
    (folder / "warmup").mkdir()
    (folder / "warmup" / "short").write_bytes(bytes(48))
    with pytest.raises(ArtifactError, match=f"model_warmup 'w': .*{reason}"):
        load_model(folder, ON_CPU)


def test_an_artifact_that_still_lacks_its_manifest_is_not_served_as_a_bare_graph(
    repository: Path, tmp_path: Path
) -> None:
    source = repository / "fashion_strided"
    manifest = json.loads((source / "1" / "manifest.json").read_text())
    folder = put_model(tmp_path, "fashion_strided", onnx.load(source / "1" / "model.onnx"))
    assert load_model(folder, ON_CPU).described.inputs[0].shape == (1, 48, 48)
    for path in (one for one in manifest["files"] if one.startswith("1/") and "model" not in one):
        (folder / path).write_bytes((source / path).read_bytes())
        with pytest.raises(ArtifactError, match="has no complete version"):
            load_model(folder, ON_CPU)
        (folder / path).unlink()


@pytest.mark.parametrize("place", ["model.onnx.data", "weights/all.bin"])
def test_weights_beside_the_graph_are_read_and_stay_in_its_folder(
    tmp_path: Path, place: str
) -> None:
    folder = put_model(tmp_path, "net", make_net())
    (folder / "1" / place).parent.mkdir(exist_ok=True)
    onnx.save(
        make_net(),
        folder / "1" / "model.onnx",
        save_as_external_data=True,
        location=place,
        size_threshold=0,
    )
    sent = pictures(2)
    expected = ort.InferenceSession(make_net().SerializeToString()).run(None, {"x": sent})[0]
    engine = load_model(folder, ON_CPU).engines[0]
    assert engine.run(sent)["y"].tobytes() == expected.tobytes()
    secret = tmp_path.with_name(f"{tmp_path.name}.bin")
    (folder / "1" / place).rename(secret)
    (folder / "1" / place).symlink_to(secret)
    with pytest.raises(ArtifactError, match=f"{place} leads to .*, which is outside"):
        load_model(folder, ON_CPU)


@pytest.mark.parametrize("place", ["../../secret", "/etc/passwd", ""])
def test_weights_that_a_graph_names_outside_its_folder_are_refused(
    tmp_path: Path, place: str
) -> None:
    model = make_net()
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location=place)
    model.graph.initializer[0].ClearField("raw_data")
    folder = put_model(tmp_path, "net", make_net())
    (folder / "1" / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=f"weights in '{place}', they stay in its folder"):
        load_model(folder, ON_CPU)
