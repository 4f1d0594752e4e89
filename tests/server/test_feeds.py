"""Models whose input is not simply one batch of numbers: several inputs, strings, scalars, BF16."""

import json
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import grpc
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto as T
from onnx import helper, numpy_helper

from nyquist.server.wire import tensors
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.foreign import make_graph, put_model
from tests.processes import RunningServer, start_server

Arrays = dict[str, NDArray[np.generic]]
node = helper.make_node

TWO = make_graph(  # y: sums of rows of x * scale; z = 2 ids
    [
        node("Mul", ["x", "scale"], ["m"]),
        node("ReduceSum", ["m", "axis"], ["y"], keepdims=0),
        node("Add", ["ids", "ids"], ["z"]),
    ],
    [("x", T.FLOAT, ["N", 4]), ("scale", T.FLOAT, ["N", 1]), ("ids", T.INT64, ["N"])],
    [("y", T.FLOAT, ["N"]), ("z", T.INT64, ["N"])],
    [numpy_helper.from_array(np.array([1]), "axis")],
)
STRINGS = make_graph(
    [node("Identity", ["s"], ["t"]), node("Identity", ["k"], ["u"])],
    [("s", T.STRING, ["N", 2]), ("k", T.INT32, ["N", 1])],
    [("t", T.STRING, ["N", 2]), ("u", T.INT32, ["N", 1])],
)
SCALARS = make_graph(
    [node("Mul", ["x", "by"], ["y"]), node("ReduceMax", ["y"], ["z"], keepdims=0)],
    [("x", T.FLOAT, ["L"]), ("by", T.FLOAT, [])],
    [("y", T.FLOAT, ["L"]), ("z", T.FLOAT, [])],
)
BRAIN = make_graph(
    [node("Identity", ["x"], ["y"]), node("Cast", ["x"], ["z"], to=T.FLOAT)],
    [("x", T.BFLOAT16, ["N", 3])],
    [("y", T.BFLOAT16, ["N", 3]), ("z", T.FLOAT, ["N", 3])],
)
HALF = make_graph(
    [node("Add", ["x", "b"], ["y"])],
    [("x", T.FLOAT16, ["N", 3]), ("b", T.FLOAT16, ["N", 3])],
    [("y", T.FLOAT16, ["N", 3])],
)
SQUARES = make_graph(
    [node("Transpose", ["x"], ["y"], perm=[0, 2, 1]), node("ReduceMax", ["x"], ["z"], keepdims=0)],
    [("x", T.FLOAT, [1, "H", "W"])],
    [("y", T.FLOAT, [1, "W", "H"]), ("z", T.FLOAT, [])],
)
COLUMN = make_graph([node("Neg", ["x"], ["y"])], [("x", T.FLOAT, ["N"])], [("y", T.FLOAT, ["N"])])

MODELS: dict[str, tuple[onnx.ModelProto, str | None]] = {
    "two": (TWO, None),
    "slow": (TWO, "max_batch_size: 8 dynamic_batching { max_queue_delay_microseconds: 500000 "
             "preferred_batch_size: 4 }"),
    "strings": (STRINGS, None),
    "scalars": (SCALARS, None),
    "brain": (BRAIN, None),
    "half": (HALF, None),
    "squares": (SQUARES, 'max_batch_size: 0 input { name: "x" dims: [-1, -1] reshape { shape: '
                '[1, -1, -1] } } output [{ name: "y" dims: [-1, -1] reshape { shape: [1, -1, -1] '
                '} }, { name: "z" dims: 1 reshape {} }]'),
    "column": (COLUMN, 'max_batch_size: 4 input { name: "x" dims: 1 reshape {} } '
               'output { name: "y" dims: 1 reshape {} }'),
}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("feeds")
    for name, (model, config) in MODELS.items():
        put_model(folder, name, model, config)
    running = start_server(folder, ["--drain-s", "0", "--provider", "cpu", "--threads", "1"])
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def stub(server: RunningServer) -> Iterator[stubs.GRPCInferenceServiceStub]:
    with grpc.insecure_channel(server.target) as channel:
        yield stubs.GRPCInferenceServiceStub(channel)


def strings_of(rows: int) -> NDArray[np.object_]:
    texts = [f"é {n}\0{'x' * n}" for n in range(2 * rows)]
    return np.array(texts, object).reshape(rows, 2)


def inputs_of(model: str, rows: int) -> Arrays:
    noise = np.random.default_rng(rows)
    wide = noise.normal(size=(rows, 4)).astype(np.float32)
    inputs: dict[str, Arrays] = {
        "two": {"x": wide, "scale": wide[:, :1] + 2, "ids": np.arange(rows)},
        "strings": {"s": strings_of(rows), "k": np.arange(rows, dtype=np.int32)[:, None]},
        "scalars": {"x": wide.ravel(), "by": np.array(3, np.float32)},
        "half": {"x": wide[:, :3].astype(np.float16), "b": wide[:, 1:].astype(np.float16)},
    }
    return inputs[model]


def raw(array: NDArray[np.generic]) -> bytes:
    if array.dtype.kind == "O":
        return tensors.bytes_elements(str(text).encode() for text in array.flat)
    return array.tobytes()


def datatype_of(array: NDArray[np.generic]) -> str:
    return next(name for name, dtype in tensors.DTYPES.items() if dtype == array.dtype)


def request(model: str, arrays: Arrays, datatype: str = "") -> pb.ModelInferRequest:
    asked = pb.ModelInferRequest(model_name=model)
    for name, array in arrays.items():
        kind = datatype or datatype_of(array)
        asked.inputs.add(name=name, datatype=kind, shape=array.shape)
        asked.raw_input_contents.append(raw(array))
    return asked


def check(answer: pb.ModelInferResponse, expected: Sequence[NDArray[np.generic]]) -> None:
    assert [tuple(one.shape) for one in answer.outputs] == [array.shape for array in expected]
    assert list(answer.raw_output_contents) == [raw(array) for array in expected]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("model", ["two", "strings", "scalars", "half"])
def test_several_inputs_are_answered_as_onnxruntime_answers_bit_for_bit(
    stub: stubs.GRPCInferenceServiceStub, model: str, rows: int
) -> None:
    sent = inputs_of(model, rows)
    expected = ort.InferenceSession(MODELS[model][0].SerializeToString()).run(None, sent)
    check(stub.ModelInfer(request(model, sent)), [np.asarray(one) for one in expected])
    backwards = request(model, dict(reversed(sent.items())))
    check(stub.ModelInfer(backwards), [np.asarray(one) for one in expected])


def test_requests_of_several_inputs_share_a_batch_and_get_each_its_own_rows(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    sent = [inputs_of("two", 1) | {"ids": np.array([n])} for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda one: stub.ModelInfer(request("slow", one)), sent))
    assert [np.frombuffer(one.raw_output_contents[1], np.int64)[0] for one in answers] == [
        0,
        2,
        4,
        6,
    ]
    assert len({one.raw_output_contents[0] for one in answers}) == 1
    (counted,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="slow")).model_stats
    assert (counted.inference_count, counted.execution_count) == (4, 1)


def test_strings_travel_typed_too_and_must_be_utf8(stub: stubs.GRPCInferenceServiceStub) -> None:
    asked = pb.ModelInferRequest(model_name="strings")
    texts = asked.inputs.add(name="s", datatype="BYTES", shape=[1, 2])
    texts.contents.bytes_contents.extend([b"one", "zwö".encode()])
    asked.inputs.add(name="k", datatype="INT32", shape=[1, 1]).contents.int_contents.append(-1)
    answer = stub.ModelInfer(asked)
    assert list(answer.outputs[0].contents.bytes_contents) == [b"one", "zwö".encode()]
    assert list(answer.outputs[1].contents.int_contents) == [-1]
    texts.contents.bytes_contents[1] = b"\xff"
    refused(stub, asked, "a string of input 's' for model 'strings' is no UTF-8")


def test_bf16_goes_in_and_comes_out_as_its_bits(stub: stubs.GRPCInferenceServiceStub) -> None:
    bits = np.array([[0x3F80, 0xC000, 0x4049], [0, 0x7F80, 0x8000]], np.uint16)
    asked = request("brain", {"x": bits}, "BF16")
    values = (bits.astype(np.uint32) << 16).view(np.float32)
    check(stub.ModelInfer(asked), [bits, values])
    asked.outputs.add(name="y").parameters["classification"].int64_param = 1
    (raw_classes,) = stub.ModelInfer(asked).raw_output_contents
    assert tensors.parse_bytes_elements(raw_classes) == [b"3.140625:2", b"inf:1"]


def test_a_reshape_is_heeded_on_both_sides(stub: stubs.GRPCInferenceServiceStub) -> None:
    square = np.arange(6, dtype=np.float32).reshape(2, 3)
    for _ in range(2):  # the second by the head of the first
        check(
            stub.ModelInfer(request("squares", {"x": square})),
            [square.T, square.max(keepdims=True)[0]],
        )
        column = square.reshape(6, 1)[:4]
        check(stub.ModelInfer(request("column", {"x": column})), [-column])
    told = stub.ModelMetadata(pb.ModelMetadataRequest(name="column"))
    assert [list(one.shape) for one in (*told.inputs, *told.outputs)] == [[-1, 1], [-1, 1]]


def test_what_does_not_fit_several_inputs_is_refused_with_what_does(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    sent = inputs_of("two", 2)
    missing = {name: sent[name] for name in ("x", "ids")}
    refused(stub, request("two", missing), "missing required input(s) ['scale']")
    refused(
        stub, request("two", sent | {"mask": sent["x"]}), "unexpected inference input(s) ['mask']"
    )
    apart = sent | {"ids": np.arange(3)}
    refused(stub, request("two", apart), "input 'ids' batch size does not match other inputs")
    wrong = request("two", sent)
    del wrong.raw_input_contents[2]
    refused(stub, wrong, "expected 3 raw_input_contents, one for each input, got 2")
    scalar = inputs_of("scalars", 1) | {"by": np.ones(1, np.float32)}
    refused(stub, request("scalars", scalar), "Expected [], got [1]")
    strings = request("strings", inputs_of("strings", 1))
    strings.outputs.add(name="t").parameters["classification"].int64_param = 1
    refused(stub, strings, "output 't' is of strings and has no highest classes")


def refused(stub: stubs.GRPCInferenceServiceStub, asked: pb.ModelInferRequest, reason: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        stub.ModelInfer(asked)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert reason in str(error.value.details())


def over_rest(
    server: RunningServer, model: str, arrays: Arrays, binary: Collection[str] = ()
) -> list[NDArray[np.generic]]:
    """Send inputs over HTTP, some as bytes behind the JSON, and return the outputs from JSON."""
    inputs: list[dict[str, object]] = []
    for name, array in arrays.items():
        one = {"name": name, "shape": list(array.shape), "datatype": datatype_of(array)}
        if name in binary:
            inputs.append(one | {"parameters": {"binary_data_size": len(raw(array))}})
        else:
            inputs.append(one | {"data": array.tolist()})
    told = json.dumps({"inputs": inputs}).encode()
    body = told + b"".join(raw(arrays[name]) for name in arrays if name in binary)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=20)
    length = {"Inference-Header-Content-Length": str(len(told))}
    connection.request("POST", f"/v2/models/{model}/infer", body, length)
    answer = connection.getresponse()
    content = json.loads(answer.read())
    connection.close()
    assert answer.status == 200, content
    return [
        np.array(one["data"], tensors.DTYPES[one["datatype"]]).reshape(one["shape"])
        for one in content["outputs"]
    ]


@pytest.mark.parametrize("binary", [(), ("scale",), ("ids", "x"), ("x", "scale", "ids")])
def test_several_inputs_travel_over_rest_as_json_as_bytes_or_both(
    server: RunningServer, binary: tuple[str, ...]
) -> None:
    arrays = inputs_of("two", 3)
    sums, doubled = over_rest(server, "two", arrays, binary)
    expected = (arrays["x"].astype(np.float32) * arrays["scale"].astype(np.float32)).sum(axis=1)
    assert sums.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert doubled.tolist() == [0, 2, 4]


@pytest.mark.parametrize("binary", [(), ("s", "k")])
def test_strings_travel_over_rest(server: RunningServer, binary: tuple[str, ...]) -> None:
    arrays = inputs_of("strings", 2)
    texts, numbers = over_rest(server, "strings", arrays, binary)
    assert texts.tolist() == arrays["s"].tolist()
    assert numbers.tolist() == [[0], [1]]
