"""Ten ONNX files as other exporters write them: as files, in folders, and with a configuration."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper

from nyquist.server.__main__ import main
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from nyquist.server.wire.tensors import DTYPES
from tests.foreign import CLASSES, SHAPE, make_graph, make_net, put_model
from tests.processes import RunningServer, start_server

ROWS = 2


def two_inputs() -> onnx.ModelProto:
    model = make_net(opset=17)
    model.graph.input.append(helper.make_tensor_value_info("b", T.FLOAT, ["N", CLASSES]))
    model.graph.output.append(helper.make_tensor_value_info("z", T.FLOAT, ["N", CLASSES]))
    model.graph.node.append(helper.make_node("Add", ["y", "b"], ["z"]))
    return model


def half() -> onnx.ModelProto:
    node = helper.make_node("GlobalMaxPool", ["x"], ["y"])
    taken: list[int | str] = ["N", *SHAPE]
    given: list[int | str] = ["N", 3, 1, 1]
    return make_graph([node], [("x", T.FLOAT16, taken)], [("y", T.FLOAT16, given)])


def any_size() -> onnx.ModelProto:
    model = make_net(opset=13)
    for axis in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        axis.dim_param = "side"
    return model


FILES = {
    "opset7": make_net(opset=7),
    "weights_as_inputs": make_net(opset=7, ir_version=3),
    "opset9_fixed": make_net(opset=9, batch=ROWS),
    "opset11_int64": make_net(opset=11, also="a"),
    "opset13_two_outputs": make_net(opset=13, also="es"),
    "opset17_two_inputs": two_inputs(),
    "opset21": make_net(opset=21, ir_version=10),
    "float16": half(),
    "any_size": any_size(),
    "external": make_net(opset=18),
}
CONFIG = 'backend: "onnxruntime"\nmax_batch_size: {most}\ninstance_group {{ kind: KIND_CPU }}\n'


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    for name, model in FILES.items():
        copy = onnx.ModelProto.FromString(model.SerializeToString())
        onnx.save(
            copy,
            folder / f"{name}.onnx",
            save_as_external_data=name == "external",
            location=f"{name}.data",
            size_threshold=0,
        )
    return folder


@pytest.fixture(scope="module")
def server(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    repository = tmp_path_factory.mktemp("repository")
    for name, model in FILES.items():
        most = 0 if "fixed" in name else 8
        put_model(repository, f"{name}_bare", model)
        put_model(repository, f"{name}_configured", model, CONFIG.format(most=most))
    named = [str(files / f"{name}.onnx") for name in FILES]
    options = ["--drain-s", "0", "--provider", "cpu", "--threads", "1", *named]
    running = start_server(repository, options)
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[stubs.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.target) as channel:
        yield stubs.GRPCInferenceServiceStub(channel)


def inputs_of(session: ort.InferenceSession) -> dict[str, NDArray[np.generic]]:
    dtypes = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    noise = np.random.default_rng(5)
    return {
        one.name: noise.normal(
            size=[ROWS, *(n if isinstance(n, int) else 8 for n in one.shape[1:])]
        ).astype(dtypes[one.type])
        for one in session.get_inputs()
    }


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["", "_bare", "_configured"])
def test_a_file_of_any_exporter_answers_what_onnxruntime_answers_bit_for_bit(
    stub: stubs.GRPCInferenceServiceStub, name: str, how: str
) -> None:
    session = ort.InferenceSession(FILES[name].SerializeToString())
    sent = inputs_of(session)
    asked = pb.ModelInferRequest(model_name=f"{name}{how}")
    for key, array in sent.items():
        datatype = {2: "FP16", 4: "FP32"}[array.dtype.itemsize]
        asked.inputs.add(name=key, datatype=datatype, shape=array.shape)
        asked.raw_input_contents.append(array.tobytes())
    answer = stub.ModelInfer(asked)
    expected = dict(
        zip([one.name for one in session.get_outputs()], session.run(None, sent), strict=True)
    )
    assert [one.name for one in answer.outputs] == sorted(expected)
    for output, raw in zip(answer.outputs, answer.raw_output_contents, strict=True):
        array = expected[output.name]
        assert (tuple(output.shape), DTYPES[output.datatype]) == (array.shape, array.dtype)
        assert raw == array.tobytes()


def test_named_files_are_checked_like_a_repository(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [str(files / f"{name}.onnx") for name in ("external", "opset7")]
    assert main(["check", "--provider", "cpu", *named]) == 0
    assert "2 of 2 models can be served" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["none.onnx"], "none.onnx cannot be read: No such file or directory"),
        (["text.onnx"], "text.onnx: it is no ONNX file"),
        (["opset7.onnx", "sub/opset7.onnx"], "two files are called opset7.onnx"),
    ],
)
def test_a_named_file_that_cannot_be_served_ends_the_command_with_the_reason(
    files: Path, names: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "text.onnx").write_text("no graph")
    (files / "sub").mkdir(exist_ok=True)
    (files / "sub" / "opset7.onnx").write_bytes((files / "opset7.onnx").read_bytes())
    assert main(["check", *(str(files / name) for name in names)]) == 1
    assert reason in capsys.readouterr().err
