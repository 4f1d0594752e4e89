"""The Open Inference Protocol, on the wire, against a server process."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from nyquist.models.samples import fashion_samples
from nyquist.server.wire import tensors
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs

FASHION = (1, 48, 48)
Mutation = Callable[[pb.ModelInferRequest], None]


def good_request(batch: int = 1, model: str = "fashion_blur") -> pb.ModelInferRequest:
    pictures = fashion_samples().images[:batch].numpy()
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[pictures.tobytes()])
    request.inputs.add(name="image", datatype="FP32", shape=(batch, *FASHION))
    return request


def typed(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """Move the raw contents of a request into typed ones."""
    elements = np.frombuffer(request.raw_input_contents[0], np.float32)
    request.inputs[0].contents.fp32_contents.extend(elements.tolist())
    del request.raw_input_contents[:]
    return request


def details(failure: "pytest.ExceptionInfo[grpc.RpcError]") -> str:
    return failure.value.details() or ""


def raw_call(channel: grpc.Channel, method: str) -> Callable[[bytes], bytes]:
    """A call without serialisers, to send what no stub would."""
    call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}"
    )
    return call


def logits(response: pb.ModelInferResponse) -> Any:
    (output,) = response.outputs
    return tensors.from_raw(response.raw_output_contents[0], output.datatype, output.shape)


def test_a_server_that_is_up_is_live_and_ready(stub: stubs.GRPCInferenceServiceStub) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready


def test_the_server_names_itself_and_its_extensions(stub: stubs.GRPCInferenceServiceStub) -> None:
    metadata = stub.ServerMetadata(pb.ServerMetadataRequest())
    assert metadata.name == "nyquist"
    assert {"classification", "model_repository", "statistics"} <= set(metadata.extensions)


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("fashion_blur", "", True),
        ("fashion_blur", "1", True),
        ("fashion_blur", "2", False),
        ("nobody", "", False),
        ("../fashion_blur", "", False),
    ],
)
def test_a_model_is_ready_only_under_its_name_and_version(
    stub: stubs.GRPCInferenceServiceStub, name: str, version: str, ready: bool
) -> None:
    assert stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready is ready


@pytest.mark.parametrize(
    ("name", "datatype", "shape", "classes"),
    [
        *((f"fashion_{kind}", "FP32", [-1, 1, 48, 48], 10) for kind in (
            "max_pool", "avg_pool", "strided", "blur", "max_blur", "polyphase",
        )),
        ("efficientnet_lite0", "UINT8", [-1, 224, 224, 3], 1000),
    ],
)  # fmt: skip
def test_every_model_describes_its_tensors_and_its_provider(
    stub: stubs.GRPCInferenceServiceStub,
    name: str,
    datatype: str,
    shape: list[int],
    classes: int,
) -> None:
    metadata = stub.ModelMetadata(pb.ModelMetadataRequest(name=name))
    assert (metadata.name, list(metadata.versions)) == (name, ["1"])
    assert metadata.platform == "onnxruntime_onnx"
    (picture,), (output,) = metadata.inputs, metadata.outputs
    assert (picture.name, picture.datatype, list(picture.shape)) == ("image", datatype, shape)
    assert (output.name, output.datatype, list(output.shape)) == ("logits", "FP32", [-1, classes])
    assert metadata.parameters["execution_provider"].string_param.endswith("ExecutionProvider")
    assert metadata.parameters["max_batch_size"].string_param in ("16", "64")


def test_an_answer_carries_the_id_the_model_and_the_version(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    request = good_request()
    request.id = "seven"
    response = stub.ModelInfer(request)
    assert (response.id, response.model_name, response.model_version) == (
        "seven",
        "fashion_blur",
        "1",
    )


def test_raw_and_typed_contents_get_the_same_answer_each_in_its_own_style(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    raw = stub.ModelInfer(good_request(batch=3))
    as_typed = stub.ModelInfer(typed(good_request(batch=3)))
    assert not raw.outputs[0].HasField("contents")
    assert not as_typed.raw_output_contents
    assert list(as_typed.outputs[0].shape) == [3, 10]
    assert logits(raw).ravel().tolist() == list(as_typed.outputs[0].contents.fp32_contents)


def test_uint8_pixels_travel_in_typed_contents_too(stub: stubs.GRPCInferenceServiceStub) -> None:
    request = pb.ModelInferRequest(model_name="efficientnet_lite0")
    tensor = request.inputs.add(name="image", datatype="UINT8", shape=(1, 224, 224, 3))
    tensor.contents.uint_contents.extend([127] * (224 * 224 * 3))
    grey = stub.ModelInfer(request)
    assert len(grey.outputs[0].contents.fp32_contents) == 1000


def test_an_answer_does_not_depend_on_the_batch_that_it_rode_in(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    together = logits(stub.ModelInfer(good_request(batch=8)))
    pictures = fashion_samples().images[:8].numpy()
    for index, picture in enumerate(pictures):
        alone = good_request()
        alone.raw_input_contents[0] = picture.tobytes()
        assert logits(stub.ModelInfer(alone)).tobytes() == together[index].tobytes()


def test_classification_answers_the_highest_classes_with_their_labels(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    values = logits(stub.ModelInfer(good_request(batch=2)))
    request = good_request(batch=2)
    request.outputs.add(name="logits").parameters["classification"].int64_param = 3
    response = stub.ModelInfer(request)
    (output,) = response.outputs
    assert (output.datatype, list(output.shape)) == ("BYTES", [2, 3])
    elements = tensors.parse_bytes_elements(response.raw_output_contents[0])
    value, index, label = elements[0].decode().split(":")
    assert (int(index), label) == (int(values[0].argmax()), "ankle boot")
    assert float(value) == pytest.approx(float(values[0].max()), abs=1e-6)
    highest = sorted(values[1].tolist(), reverse=True)[:3]
    got = [float(element.decode().split(":")[0]) for element in elements[3:]]
    assert got == pytest.approx(highest, abs=1e-6)


def test_classification_into_one_class_answers_the_highest(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    values = logits(stub.ModelInfer(good_request(batch=2)))
    request = good_request(batch=2)
    request.outputs.add(name="logits").parameters["classification"].int64_param = 1
    response = stub.ModelInfer(request)
    assert list(response.outputs[0].shape) == [2, 1]
    elements = tensors.parse_bytes_elements(response.raw_output_contents[0])
    indices = [int(element.decode().split(":")[1]) for element in elements]
    assert indices == values.argmax(axis=1).tolist()


def test_classification_of_a_typed_request_answers_in_typed_contents(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    request = typed(good_request())
    request.outputs.add(name="logits").parameters["classification"].int64_param = 99
    (output,) = stub.ModelInfer(request).outputs
    assert list(output.shape) == [1, 10]
    assert len(output.contents.bytes_contents) == 10


def second_input(request: pb.ModelInferRequest) -> None:
    request.inputs.add(name="mask", datatype="FP32", shape=[1])


def no_input(request: pb.ModelInferRequest) -> None:
    del request.inputs[:]


def wrong_name(request: pb.ModelInferRequest) -> None:
    request.inputs[0].name = "picture"


def wrong_datatype(request: pb.ModelInferRequest) -> None:
    request.inputs[0].datatype = "INT32"


def shaped(*shape: int) -> Mutation:
    def mutate(request: pb.ModelInferRequest) -> None:
        request.inputs[0].shape[:] = shape

    return mutate


def short_body(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents[0] = request.raw_input_contents[0][:-1]


def two_bodies(request: pb.ModelInferRequest) -> None:
    request.raw_input_contents.append(b"")


def raw_and_typed(request: pb.ModelInferRequest) -> None:
    request.inputs[0].contents.fp32_contents.append(1.0)


def no_data(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]


def wrong_field(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.int_contents.extend([0] * 48 * 48)


def too_few_elements(request: pb.ModelInferRequest) -> None:
    del request.raw_input_contents[:]
    request.inputs[0].contents.fp32_contents.extend([0.0] * 7)


def pixel_of_256(request: pb.ModelInferRequest) -> None:
    request.model_name = "efficientnet_lite0"
    del request.raw_input_contents[:]
    request.inputs[0].datatype = "UINT8"
    request.inputs[0].shape[:] = (1, 224, 224, 3)
    request.inputs[0].contents.uint_contents.extend([256] * (224 * 224 * 3))


def unknown_output(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="features")


def output_twice(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="logits")
    request.outputs.add(name="logits")


def classes_of_wrong_type(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="logits").parameters["classification"].string_param = "3"


def no_classes(request: pb.ModelInferRequest) -> None:
    request.outputs.add(name="logits").parameters["classification"].int64_param = 0


def reserved_parameter(request: pb.ModelInferRequest) -> None:
    request.parameters["triton_secret"].bool_param = True


INVALID: list[tuple[Mutation, str]] = [
    (no_input, "expected 1 inputs but got 0 inputs for model 'fashion_blur'. Got input(s) [], but "
     "missing required input(s) ['image']. Please provide all required input(s)."),
    (wrong_name, "Got input(s) ['picture'], but missing required input(s) ['image']"),
    (second_input, "unexpected inference input(s) ['mask'] for model 'fashion_blur'"),
    (wrong_datatype, "inference input 'image' data-type is 'INT32', but model 'fashion_blur' "
     "expects 'FP32'"),
    (shaped(1, 1, 28, 28), "unexpected shape for input 'image' for model 'fashion_blur'. "
     "Expected [-1, 1, 48, 48], got [1, 1, 28, 28]"),
    (shaped(1, 48, 48), "Expected [-1, 1, 48, 48], got [1, 48, 48]"),
    (shaped(-1, 1, 48, 48), "All input dimensions should be specified for input 'image'"),
    (shaped(1, 1, 2**32, 2**32), "got [1, 1, 4294967296, 4294967296]"),
    (shaped(2**62, 1, 48, 48), "batch-size must be <= 64 for 'fashion_blur'"),
    (shaped(65, 1, 48, 48), "batch-size must be <= 64 for 'fashion_blur', and at least 1, got 65"),
    (shaped(0, 1, 48, 48), "got 0"),
    (shaped(), "input 'image' has no shape but model requires batch dimension"),
    (short_body, "input byte size mismatch for input 'image' for model 'fashion_blur'. "
     "Expected 9216, got 9215"),
    (shaped(2, 1, 48, 48), "Expected 18432, got 9216"),
    (two_bodies, "expected 1 raw_input_contents, one for each input, got 2"),
    (raw_and_typed, "contents field must not be specified when using raw_input_contents for "
     "'image' for model 'fashion_blur'"),
    (no_data, "unable to find data for input tensor 'image' for model 'fashion_blur' in request."),
    (wrong_field, "got int_contents, expected fp32_contents for datatype 'FP32'"),
    (too_few_elements, "expected 2304 elements for input 'image' for model 'fashion_blur', got 7"),
    (pixel_of_256, "must be in 0..255, got 256"),
    (unknown_output, "unexpected inference output 'features' for model 'fashion_blur'"),
    (output_twice, "an output is requested more than once"),
    (classes_of_wrong_type, "'classification' parameter, expected int64_param"),
    (no_classes, "expected int64_param of at least 1"),
    (reserved_parameter, "parameter keys starting with 'triton_' are reserved"),
]  # fmt: skip


@pytest.mark.parametrize(("mutate", "message"), INVALID)
def test_a_request_that_contradicts_the_model_says_what_is_wrong_and_what_is_right(
    stub: stubs.GRPCInferenceServiceStub, mutate: Mutation, message: str
) -> None:
    request = good_request()
    request.id = "q1"
    mutate(request)
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in details(failure)
    assert details(failure).startswith("[request id: q1] ")


def test_an_error_of_a_request_without_id_says_so(stub: stubs.GRPCInferenceServiceStub) -> None:
    request = good_request()
    no_data(request)
    with pytest.raises(grpc.RpcError, match=r"\[request id: <id_unknown>\]"):
        stub.ModelInfer(request)


@pytest.mark.parametrize(
    ("name", "version", "code", "message"),
    [
        ("x", "", grpc.StatusCode.NOT_FOUND, "Request for unknown model: 'x' is not found"),
        ("fashion_blur", "99", grpc.StatusCode.NOT_FOUND,
         "Request for unknown model: 'fashion_blur' version 99 is not found"),
        ("fashion_blur", "abc", grpc.StatusCode.INVALID_ARGUMENT,
         "failed to get model version from specified version string 'abc', "
         "version should be an integral value > 0"),
        ("fashion_blur", "9" * 5000, grpc.StatusCode.INVALID_ARGUMENT, "integral value > 0"),
        ("fashion_blur", "0", grpc.StatusCode.INVALID_ARGUMENT, "integral value > 0"),
        ("fashion_blur", "-1", grpc.StatusCode.INVALID_ARGUMENT, "integral value > 0"),
        ("fashion_blur", "²", grpc.StatusCode.INVALID_ARGUMENT, "integral value > 0"),
        ("../fashion_blur", "", grpc.StatusCode.NOT_FOUND, "is not found"),
        ("", "", grpc.StatusCode.NOT_FOUND, "Request for unknown model: '' is not found"),
    ],
)  # fmt: skip
def test_a_model_or_version_that_is_not_there_is_named(
    stub: stubs.GRPCInferenceServiceStub,
    name: str,
    version: str,
    code: grpc.StatusCode,
    message: str,
) -> None:
    request = good_request(model=name)
    request.model_version = version
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(request)
    assert failure.value.code() is code
    assert message in details(failure)
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelMetadata(pb.ModelMetadataRequest(name=name, version=version))
    assert failure.value.code() is code


def test_bytes_that_are_no_request_are_refused_and_the_server_answers_on(
    channel: grpc.Channel, stub: stubs.GRPCInferenceServiceStub
) -> None:
    send = raw_call(channel, "ModelInfer")
    with pytest.raises(grpc.RpcError) as failure:
        send(b"\xff\xff\xff\xff")
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "no inference.ModelInferRequest" in details(failure)
    assert len(logits(stub.ModelInfer(good_request()))) == 1


def test_a_call_that_is_not_served_is_unimplemented(channel: grpc.Channel) -> None:
    send = raw_call(channel, "SystemSharedMemoryRegister")
    with pytest.raises(grpc.RpcError) as failure:
        send(b"")
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_message_above_the_limit_is_refused_and_names_the_limit(channel: grpc.Channel) -> None:
    send = raw_call(channel, "ModelInfer")
    with pytest.raises(grpc.RpcError) as failure:
        send(bytes(64 * 1024 * 1024 + 1))
    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(64 * 1024 * 1024) in details(failure)


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "fashion_strided"])
def test_health_check_and_watch_say_serving(channel: grpc.Channel, service: str) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=service)
    assert health.Check(request).status == health_pb2.HealthCheckResponse.SERVING
    watch = health.Watch(request)
    assert next(iter(watch)).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


def test_a_list_of_health_has_every_model_the_service_and_the_whole(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    statuses = health.List(health_pb2.HealthListRequest()).statuses
    assert {"", "inference.GRPCInferenceService", "fashion_strided"} <= set(statuses)
    for name, listed in statuses.items():
        assert listed == health.Check(health_pb2.HealthCheckRequest(service=name))


def test_the_health_of_an_unknown_service_is_not_found(channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    names = {service.name for service in answer.list_services_response.service}
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= names


def test_reflection_describes_every_service_that_it_lists(channel: grpc.Channel) -> None:
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(channel))
    for name in ProtoReflectionDescriptorDatabase(channel).get_services():
        assert pool.FindServiceByName(name).methods


def test_reflection_is_served_under_its_stable_name_and_describes_itself_so(
    channel: grpc.Channel,
) -> None:
    stable = "grpc.reflection.v1.ServerReflection"
    ask: Any = channel.stream_stream(
        f"/{stable}/ServerReflectionInfo",
        reflection_pb2.ServerReflectionRequest.SerializeToString,
        reflection_pb2.ServerReflectionResponse.FromString,
    )
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=stable)
    (answer,) = ask(iter([request]))
    (file,) = answer.file_descriptor_response.file_descriptor_proto
    assert FileDescriptorProto.FromString(file).package == "grpc.reflection.v1"


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../fashion_blur", "/etc/passwd", "fashion_blur/", "fashion_blur/1",
        " fashion_blur", "fashion_blur ", "fashion_blur\0", "%2e%2e", "ﬀ", "FASHION_BLUR",
    ],
)  # fmt: skip
def test_a_name_of_no_model_is_unknown_to_every_call(
    stub: stubs.GRPCInferenceServiceStub, name: str
) -> None:
    calls: list[tuple[Callable[[Any], Any], Any]] = [
        (stub.ModelMetadata, pb.ModelMetadataRequest(name=name)),
        (stub.ModelConfig, pb.ModelConfigRequest(name=name)),
        (stub.ModelInfer, good_request(model=name)),
        (stub.RepositoryModelLoad, pb.RepositoryModelLoadRequest(model_name=name)),
        (stub.RepositoryModelUnload, pb.RepositoryModelUnloadRequest(model_name=name)),
    ]
    if name:  # the empty one stands for all models
        calls.append((stub.ModelStatistics, pb.ModelStatisticsRequest(name=name)))
        calls.append((stub.TraceSetting, pb.TraceSettingRequest(model_name=name)))
    assert not stub.ModelReady(pb.ModelReadyRequest(name=name)).ready
    for call, request in calls:
        with pytest.raises(grpc.RpcError) as failure:
            call(request)
        assert failure.value.code() in (
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.INTERNAL,
        )
        told = details(failure)
        assert "unknown model" in told or "failed to poll from model repository" in told
        assert "internal error" not in told


def test_a_request_with_the_head_of_one_before_is_answered_and_checked_for_itself(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    pictures = fashion_samples().images[:3].numpy()
    together = logits(stub.ModelInfer(good_request(batch=3)))
    for number, picture in enumerate(pictures):
        request = good_request()
        request.id, request.raw_input_contents[0] = str(number), picture.tobytes()
        answer = stub.ModelInfer(request)
        assert answer.id == request.id
        assert np.array_equal(logits(answer)[0], together[number])
    short = good_request()
    short.id, short.raw_input_contents[0] = "3", pictures[0].tobytes()[:-4]
    with pytest.raises(grpc.RpcError) as failure:
        stub.ModelInfer(short)
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details(failure).startswith("[request id: 3] input byte size mismatch")
