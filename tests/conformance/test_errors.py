"""Every situation in which Triton's users expect a certain status and text."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from nyquist.server.wire import tensors
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import add_version, copy_model
from tests.processes import start_server
from tests.requests import fashion_request, image_request

pytestmark = pytest.mark.usefixtures("transport")

MODEL = "fashion_strided"
UNLOADED = "fashion_blur"
FULL = "fashion_avg_pool"
Mutation = Callable[[pb.ModelInferRequest], object]
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def own(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, transport: str
) -> Iterator[stubs.GRPCInferenceServiceStub]:
    """A server with a model unloaded, one half unloaded, and one with room for one to wait."""
    folder = tmp_path_factory.mktemp("repository")
    for name in (MODEL, UNLOADED, FULL):
        copy_model(repository, folder, name)
    add_version(folder / MODEL, 2)
    config = folder / FULL / "config.pbtxt"
    config.write_text(config.read_text().replace("max_queue_size: 1024", "max_queue_size: 1"))
    running = start_server(folder, ("--drain-s", "0", "--transport", transport))
    with grpc.insecure_channel(running.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=UNLOADED))
        shutil.rmtree(folder / MODEL / "2")
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=MODEL))
        yield stub
    assert running.stop() == 0


def asks(**fields: Any) -> Mutation:
    """Set fields of the request itself."""

    def mutate(request: pb.ModelInferRequest) -> None:
        for name, value in fields.items():
            setattr(request, name, value)

    return mutate


def shaped(*shape: int) -> Mutation:
    return lambda request: request.inputs[0].shape.__setitem__(slice(None), shape)


def files(*elements: bytes, shape: tuple[int, ...], cut: int = 0) -> Mutation:
    """Send BYTES elements, the last of them cut short."""

    def mutate(request: pb.ModelInferRequest) -> None:
        body = tensors.bytes_elements(elements)
        request.CopyFrom(image_request([], MODEL))
        request.inputs[0].shape[:] = shape
        request.raw_input_contents[0] = body[: len(body) - cut]

    return mutate


def no_inputs(request: pb.ModelInferRequest) -> None:
    del request.inputs[:]


def other_datatype(request: pb.ModelInferRequest) -> None:
    request.inputs[0].datatype = "INT32"


def short_body(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents[0] = bytes(4)


def both_contents(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.fp32_contents.append(1)


def no_contents(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]


def wrong_contents(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.int64_contents.extend([0] * 48 * 48)


def wrong_classification(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="logits").parameters["classification"].string_param = "1"


def reserved_key(request: pb.ModelInferRequest) -> None:
    request.parameters["triton_x"].bool_param = True


def twice(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="logits")
    request.outputs.add(name="logits")


INFER: list[tuple[str, Mutation, Code, str]] = [
    ("unknown model", asks(model_name="x"), Code.NOT_FOUND,
     "Request for unknown model: 'x' is not found"),
    ("unknown version", asks(model_version="99"), Code.NOT_FOUND,
     f"Request for unknown model: '{MODEL}' version 99 is not found"),
    ("no ready version", asks(model_name=UNLOADED), Code.NOT_FOUND,
     f"Request for unknown model: '{UNLOADED}' has no available versions"),
    ("version not ready", asks(model_version="2"), Code.UNAVAILABLE,
     f"Request for unknown model: '{MODEL}' version 2 is not at ready state"),
    ("bad version string", asks(model_version="abc"), Code.INVALID_ARGUMENT,
     "failed to get model version from specified version string 'abc', "
     "version should be an integral value > 0"),
    ("missing input", no_inputs, Code.INVALID_ARGUMENT,
     f"[request id: 7] expected 1 inputs but got 0 inputs for model '{MODEL}'. Got input(s) [], "
     "but missing required input(s) ['image']. Please provide all required input(s)."),
    ("wrong datatype", other_datatype, Code.INVALID_ARGUMENT,
     f"[request id: 7] inference input 'image' data-type is 'INT32', but model '{MODEL}' expects "
     "'FP32'"),
    ("wrong shape", shaped(1, 1, 10, 10), Code.INVALID_ARGUMENT,
     f"unexpected shape for input 'image' for model '{MODEL}'. Expected [-1, 1, 48, 48], got "
     "[1, 1, 10, 10]. NOTE: "),
    ("wildcard in the shape", shaped(-1, 1, 48, 48), Code.INVALID_ARGUMENT,
     f"All input dimensions should be specified for input 'image' for model '{MODEL}', got "
     "[-1, 1, 48, 48]"),
    ("byte size", short_body, Code.INVALID_ARGUMENT,
     f"input byte size mismatch for input 'image' for model '{MODEL}'. Expected 9216, got 4"),
    ("batch too large", shaped(65, 1, 48, 48), Code.INVALID_ARGUMENT,
     f"inference request batch-size must be <= 64 for '{MODEL}'"),
    ("no batch dimension", shaped(), Code.INVALID_ARGUMENT,
     f"input 'image' has no shape but model requires batch dimension for '{MODEL}'"),
    ("BYTES: length cut off", files(b"", shape=(1,), cut=2), Code.INVALID_ARGUMENT,
     f"incomplete string length indicator for inference input 'image' for model '{MODEL}', "
     "expecting 4 bytes but only 2 bytes available"),
    ("BYTES: element cut off", files(b"abc", shape=(1,), cut=2), Code.INVALID_ARGUMENT,
     f"incomplete string data for inference input 'image' for model '{MODEL}', "
     "expecting string of length 3 but only 1 bytes available"),
    ("BYTES: too many elements", files(b"a", b"b", shape=(1,)), Code.INVALID_ARGUMENT,
     f"unexpected number of string elements 2 for inference input 'image' for model '{MODEL}', "
     "expecting 1"),
    ("BYTES: too few elements", files(b"a", shape=(2, 1)), Code.INVALID_ARGUMENT,
     f"expected 2 string elements for inference input 'image' for model '{MODEL}', got 1"),
    ("contents and raw", both_contents, Code.INVALID_ARGUMENT,
     "contents field must not be specified when using raw_input_contents for 'image' for model "
     f"'{MODEL}'"),
    ("no data", no_contents, Code.INVALID_ARGUMENT,
     f"unable to find data for input tensor 'image' for model '{MODEL}' in request."),
    ("wrong contents field", wrong_contents, Code.INVALID_ARGUMENT,
     f"unexpected explicit tensor data for input tensor 'image' for model '{MODEL}'"),
    ("type of classification", wrong_classification, Code.INVALID_ARGUMENT,
     "'classification' parameter, expected int64_param"),
    ("reserved parameter", reserved_key, Code.INVALID_ARGUMENT,
     "parameter keys starting with 'triton_' are reserved"),
    ("duplicated output", twice, Code.INVALID_ARGUMENT, "requested more than once"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("mutate", "code", "text"), [row[1:] for row in INFER], ids=[row[0] for row in INFER]
)
def test_a_request_gets_the_status_and_the_text_that_triton_gives(
    own: stubs.GRPCInferenceServiceStub, mutate: Mutation, code: Code, text: str
) -> None:
    request = fashion_request(model=MODEL, request_id="7")
    mutate(request)
    with pytest.raises(grpc.RpcError) as failure:
        own.ModelInfer(request)
    assert failure.value.code() is code
    assert text in (failure.value.details() or "")


def test_readiness_of_an_unknown_model_is_an_answer(own: stubs.GRPCInferenceServiceStub) -> None:
    assert not own.ModelReady(pb.ModelReadyRequest(name="x")).ready


def test_a_full_queue_is_unavailable_and_names_the_request(
    own: stubs.GRPCInferenceServiceStub,
) -> None:
    calls = [own.ModelInfer.future(fashion_request(64, FULL, str(n))) for n in range(64)]
    refusals = [
        failure
        for call in calls
        if isinstance(failure := call.exception(timeout=60), grpc.RpcError)  # waits for the call
    ]
    assert len(refusals) < len(calls)
    assert {failure.code() for failure in refusals} == {Code.UNAVAILABLE}
    for failure in refusals:
        assert "] Exceeds maximum queue size" in (failure.details() or "")
        assert (failure.details() or "").startswith("[request id: ")


def test_a_caller_who_cancels_gets_cancelled(own: stubs.GRPCInferenceServiceStub) -> None:
    call = own.ModelInfer.future(fashion_request(64, MODEL))
    call.cancel()
    assert call.code() is Code.CANCELLED


def test_a_caller_whose_deadline_passes_gets_deadline_exceeded(
    own: stubs.GRPCInferenceServiceStub,
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        own.ModelInfer(fashion_request(64, MODEL), timeout=1e-4)
    assert failure.value.code() is Code.DEADLINE_EXCEEDED


LOADS = [
    (pb.RepositoryModelLoadRequest(repository_name="r", model_name=MODEL), Code.UNIMPLEMENTED,
     "'repository_name' specification is not supported"),
    (pb.RepositoryModelLoadRequest(
        model_name=MODEL, parameters={"x": pb.ModelRepositoryParameter(bool_param=True)}),
     Code.INVALID_ARGUMENT, "unrecognized load parameter 'x', there"),
    (pb.RepositoryModelLoadRequest(model_name="x"), Code.INTERNAL,
     "failed to load 'x', failed to poll from model repository"),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "code", "text"), LOADS)
def test_a_load_gets_the_status_and_the_text_that_triton_gives(
    own: stubs.GRPCInferenceServiceStub,
    request_: pb.RepositoryModelLoadRequest,
    code: Code,
    text: str,
) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        own.RepositoryModelLoad(request_)
    assert failure.value.code() is code
    assert text in (failure.value.details() or "")


def test_a_model_with_no_good_version_says_that_none_is_available(
    repository: Path, tmp_path: Path
) -> None:
    copy_model(repository, tmp_path, MODEL)
    bad = copy_model(repository, tmp_path, UNLOADED)
    (bad / "1" / "model.onnx").write_bytes(b"damaged")
    running = start_server(tmp_path)
    with grpc.insecure_channel(running.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as failure:
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=UNLOADED))
    assert running.stop() == 0
    assert failure.value.code() is Code.INTERNAL
    details = failure.value.details() or ""
    assert details.startswith(f"failed to load '{UNLOADED}', no version is available")
