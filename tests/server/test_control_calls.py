"""The extensions beside inference, on the wire."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from nyquist.server.wire.pb import model_config_pb2
from tests.artifacts import add_version, copy_model, damage
from tests.processes import RunningServer, start_server
from tests.requests import fashion_request

pytestmark = pytest.mark.usefixtures("transport")

NAME = "fashion_strided"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
Stub = stubs.GRPCInferenceServiceStub


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    copy_model(repository, tmp_path, "fashion_blur")
    return copy_model(repository, tmp_path, NAME)


@pytest.fixture
def own_server(folder: Path) -> Iterator[RunningServer]:
    running = start_server(folder.parent)
    yield running
    assert running.stop() == 0


@pytest.fixture
def own_channel(own_server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(own_server.target) as opened:
        yield opened


@pytest.fixture
def own(own_channel: grpc.Channel) -> Stub:
    return Stub(own_channel)


def states(stub: Stub) -> dict[tuple[str, str], str]:
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest())
    return {(model.name, model.version): model.state for model in index.models}


def load(stub: Stub, name: str = NAME) -> pb.RepositoryModelLoadResponse:
    return stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name))


def unload(stub: Stub, name: str = NAME) -> pb.RepositoryModelUnloadResponse:
    return stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name=name))


def test_a_model_is_unloaded_and_loaded_again_and_everything_says_so(
    own: Stub, own_channel: grpc.Channel
) -> None:
    health = health_pb2_grpc.HealthStub(own_channel)
    watch = health.Watch(health_pb2.HealthCheckRequest(service=NAME))
    assert next(watch).status == SERVING
    assert unload(own).is_unloaded
    assert next(watch).status == NOT_SERVING
    assert states(own)[NAME, "1"] == "UNAVAILABLE"
    assert not own.ModelReady(pb.ModelReadyRequest(name=NAME)).ready
    assert own.ServerReady(pb.ServerReadyRequest()).ready
    with pytest.raises(grpc.RpcError, match="has no available versions"):
        own.ModelInfer(fashion_request(model=NAME))
    versioned = fashion_request(model=NAME)
    versioned.model_version = "1"
    with pytest.raises(grpc.RpcError, match="version 1 is not at ready state") as failure:
        own.ModelInfer(versioned)
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
    own.ModelInfer(fashion_request(model="fashion_blur"))
    assert load(own).is_loaded
    assert next(watch).status == SERVING
    assert own.ModelInfer(fashion_request(model=NAME)).model_version == "1"
    watch.cancel()


def test_a_new_version_is_served_after_a_load_and_the_metadata_names_it(
    own: Stub, folder: Path
) -> None:
    add_version(folder, 2)
    load(own)
    assert own.ModelInfer(fashion_request(model=NAME)).model_version == "2"
    metadata = own.ModelMetadata(pb.ModelMetadataRequest(name=NAME))
    assert list(metadata.versions) == ["2"]
    assert states(own) == {
        ("fashion_blur", "1"): "READY",
        (NAME, "1"): "UNAVAILABLE",
        (NAME, "2"): "READY",
    }


def test_a_load_that_fails_says_why_and_the_old_version_answers(own: Stub, folder: Path) -> None:
    damage(add_version(folder, 2) / "model.onnx")
    with pytest.raises(grpc.RpcError) as failure:
        load(own)
    assert failure.value.code() is grpc.StatusCode.INTERNAL
    details = failure.value.details() or ""
    assert details.startswith(f"failed to load '{NAME}': version 2: {NAME}/2/model.onnx has sha256")
    assert str(folder.parent) not in details
    assert own.ModelInfer(fashion_request(model=NAME)).model_version == "1"


def test_kserve_clients_name_the_model_in_the_other_field(own: Stub) -> None:
    named = pb.RepositoryModelUnloadRequest(repository_name=NAME)
    assert own.RepositoryModelUnload(named).model_name == NAME
    answer = own.RepositoryModelLoad(pb.RepositoryModelLoadRequest(repository_name=NAME))
    assert (answer.model_name, answer.is_loaded) == (NAME, True)


@pytest.mark.parametrize(
    ("request_", "code", "message"),
    [
        (pb.RepositoryModelLoadRequest(model_name="nobody"), grpc.StatusCode.INTERNAL,
         "failed to load 'nobody', failed to poll from model repository"),
        (pb.RepositoryModelLoadRequest(model_name="../fashion_blur"), grpc.StatusCode.INTERNAL,
         "failed to poll from model repository"),
        (pb.RepositoryModelLoadRequest(repository_name="r", model_name=NAME),
         grpc.StatusCode.UNIMPLEMENTED, "'repository_name' specification is not supported"),
        (pb.RepositoryModelLoadRequest(
            model_name=NAME,
            parameters={"config": pb.ModelRepositoryParameter(string_param="{}")}),
         grpc.StatusCode.INVALID_ARGUMENT, "unless the server is started with --config-overrides"),
        (pb.RepositoryModelUnloadRequest(model_name="nobody"), grpc.StatusCode.NOT_FOUND,
         "Request for unknown model: 'nobody' is not found"),
        (pb.RepositoryModelUnloadRequest(
            model_name=NAME, parameters={"x": pb.ModelRepositoryParameter(bool_param=True)}),
         grpc.StatusCode.INVALID_ARGUMENT, "unrecognized unload parameter 'x'."),
        (pb.RepositoryModelUnloadRequest(
            model_name=NAME,
            parameters={"unload_dependents": pb.ModelRepositoryParameter(int64_param=1)}),
         grpc.StatusCode.INVALID_ARGUMENT, "expected bool_param"),
        (pb.RepositoryIndexRequest(repository_name="r"), grpc.StatusCode.UNIMPLEMENTED,
         "'repository_name' specification is not supported"),
    ],
)  # fmt: skip
def test_a_repository_call_that_is_wrong_changes_nothing(
    stub: Stub,
    request_: pb.RepositoryModelLoadRequest
    | pb.RepositoryModelUnloadRequest
    | pb.RepositoryIndexRequest,
    code: grpc.StatusCode,
    message: str,
) -> None:
    before = states(stub)
    call = getattr(stub, type(request_).__name__.removesuffix("Request"))
    with pytest.raises(grpc.RpcError) as failure:
        call(request_)
    assert failure.value.code() is code
    assert message in (failure.value.details() or "")
    assert states(stub) == before


def test_a_server_that_polls_finds_a_new_version_and_loads_by_no_call(folder: Path) -> None:
    running = start_server(folder.parent, ("--drain-s", "0", "--poll-s", "0.05"))
    with grpc.insecure_channel(running.target) as channel:
        own = Stub(channel)
        for call in (load, unload):
            with pytest.raises(grpc.RpcError) as failure:
                call(own)
            assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
            assert failure.value.details() == (
                "explicit model load / unload is not allowed if polling is enabled"
            )
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="fashion_avg_pool")
        )
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        added = folder.parent / "fashion_avg_pool"
        copy_model(Path("model_repository"), folder.parent / ".new", added.name).rename(added)
        assert SERVING in (answer.status for answer in watch)
        watch.cancel()
        assert own.ModelInfer(fashion_request(model=added.name)).model_version == "1"
    assert running.stop() == 0


def test_the_configuration_of_a_model_is_complete(stub: Stub) -> None:
    config = stub.ModelConfig(pb.ModelConfigRequest(name="efficientnet_lite0")).config
    assert (config.name, config.backend) == ("efficientnet_lite0", "onnxruntime")
    assert config.max_batch_size == 16
    (picture,), (output,) = config.input, config.output
    assert picture.data_type == model_config_pb2.TYPE_UINT8
    assert picture.format == model_config_pb2.ModelInput.FORMAT_NHWC
    assert output.label_filename
    assert config.HasField("dynamic_batching")
    assert config.version_policy.latest.num_versions == 1


def test_statistics_count_requests_pictures_and_runs(stub: Stub) -> None:
    def read() -> pb.ModelStatistics:
        (found,) = stub.ModelStatistics(
            pb.ModelStatisticsRequest(name="fashion_avg_pool")
        ).model_stats
        return found

    before = read()
    stub.ModelInfer(fashion_request(batch=5, model="fashion_avg_pool"))
    bad = fashion_request(model="fashion_avg_pool")
    bad.inputs[0].datatype = "INT32"
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(bad)
    after = read()
    assert (after.name, after.version) == ("fashion_avg_pool", "1")
    assert after.inference_count - before.inference_count == 5
    assert after.execution_count - before.execution_count == 1
    assert after.last_inference >= before.last_inference > 0 or not before.last_inference
    now, then = after.inference_stats, before.inference_stats
    for part in ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(now, part).count - getattr(then, part).count == 1, part
        assert getattr(now, part).ns >= getattr(then, part).ns
    parts = now.queue.ns + now.compute_input.ns + now.compute_infer.ns + now.compute_output.ns
    assert 0 < parts <= now.success.ns
    runs = {batch.batch_size: batch.compute_infer.count for batch in after.batch_stats}
    assert (
        runs[5] - {b.batch_size: b.compute_infer.count for b in before.batch_stats}.get(5, 0) == 1
    )


def test_statistics_of_no_name_are_those_of_every_model(stub: Stub) -> None:
    every = stub.ModelStatistics(pb.ModelStatisticsRequest()).model_stats
    assert [(one.name, one.version) for one in every] == sorted(
        (name, version) for (name, version), state in states(stub).items() if state == "READY"
    )
    with pytest.raises(grpc.RpcError, match="'nobody' is not found"):
        stub.ModelStatistics(pb.ModelStatisticsRequest(name="nobody"))


def trace(stub: Stub, model: str = "", **settings: list[str]) -> dict[str, list[str]]:
    request = pb.TraceSettingRequest(model_name=model)
    for key, values in settings.items():
        request.settings[key].value.extend(values)
        request.settings[key].SetInParent()
    answer = stub.TraceSetting(request)
    return {key: list(setting.value) for key, setting in answer.settings.items()}


def test_trace_settings_are_kept_for_all_and_for_one_model(stub: Stub) -> None:
    default = trace(stub)
    assert default == {
        "trace_level": ["OFF"],
        "trace_rate": ["1000"],
        "trace_count": ["-1"],
        "log_frequency": ["0"],
        "trace_file": [""],
        "trace_mode": ["triton"],
    }
    assert trace(stub, NAME, trace_level=["TIMESTAMPS", "TENSORS"])["trace_level"] == [
        "TIMESTAMPS",
        "TENSORS",
    ]
    assert trace(stub, trace_rate=["7"])["trace_level"] == ["OFF"]
    assert trace(stub, NAME)["trace_rate"] == ["7"]
    assert trace(stub, NAME, trace_level=[]) == trace(stub)
    assert trace(stub, trace_rate=[]) == default


@pytest.mark.parametrize(
    ("model", "settings", "code", "message"),
    [
        ("", {"trace_file": ["x"]}, grpc.StatusCode.UNIMPLEMENTED,
         "trace file location can not be updated through network protocol"),
        ("", {"trace_rate": ["x"]}, grpc.StatusCode.INVALID_ARGUMENT,
         "Unable to parse 'trace_rate', got: x"),
        ("", {"trace_rate": ["-1"]}, grpc.StatusCode.INVALID_ARGUMENT, "out of range"),
        ("", {"trace_count": ["-2"]}, grpc.StatusCode.INVALID_ARGUMENT, "out of range"),
        ("", {"trace_rate": ["1", "2"]}, grpc.StatusCode.INVALID_ARGUMENT,
         "expect only 1 value for 'trace_rate'"),
        ("", {"trace_level": ["OFF", "TENSORS"]}, grpc.StatusCode.INVALID_ARGUMENT,
         "Expect only one trace level 'OFF' is specified"),
        ("", {"colour": ["red"]}, grpc.StatusCode.INVALID_ARGUMENT, "unknown trace setting"),
        ("nobody", {}, grpc.StatusCode.INVALID_ARGUMENT, "Request for unknown model : nobody"),
    ],
)  # fmt: skip
def test_a_wrong_trace_setting_changes_nothing(
    stub: Stub, model: str, settings: dict[str, list[str]], code: grpc.StatusCode, message: str
) -> None:
    before = trace(stub)
    with pytest.raises(grpc.RpcError) as failure:
        trace(stub, model, log_frequency=["9"], **settings)
    assert failure.value.code() is code
    assert message in (failure.value.details() or "")
    assert trace(stub) == before


def test_log_settings_take_effect(own: Stub, own_server: RunningServer) -> None:
    def choose(**values: bool | int | str) -> dict[str, object]:
        kinds = {bool: "bool_param", int: "uint32_param", str: "string_param"}
        request = pb.LogSettingsRequest()
        for key, value in values.items():
            setattr(request.settings[key], kinds[type(value)], value)
        answer = own.LogSettings(request)
        return {
            key: getattr(setting, setting.WhichOneof("parameter_choice") or "")
            for key, setting in answer.settings.items()
        }

    assert choose() == {
        "log_file": "",
        "log_info": True,
        "log_warning": True,
        "log_error": True,
        "log_verbose_level": 0,
        "log_format": "default",
    }
    assert choose(log_info=False)["log_info"] is False
    unload(own)
    assert choose(log_info=True, log_format="ISO8601")["log_format"] == "ISO8601"
    load(own)
    assert choose(log_verbose_level=1)["log_verbose_level"] == 1
    own_server.process.terminate()
    assert own_server.process.wait(timeout=60) == 0
    own_server.reader.join()
    log = "".join(own_server.log)
    assert " DEBUG call ended\n" in log
    assert f"unloaded {NAME}" not in log
    (loaded,) = [line for line in own_server.log if f"loaded {NAME} version 1" in line][1:]
    assert loaded[10] == "T"
    assert loaded.split()[0].endswith("Z")


@pytest.mark.parametrize(
    ("key", "kind", "value", "code", "message"),
    [
        ("log_file", "string_param", "x", grpc.StatusCode.UNIMPLEMENTED,
         "log file location can not be updated through network protocol"),
        ("log_info", "string_param", "x", grpc.StatusCode.INVALID_ARGUMENT,
         "expect boolean for 'log_info'"),
        ("log_verbose_level", "bool_param", True, grpc.StatusCode.INVALID_ARGUMENT,
         "for 'log_verbose_level'"),
        ("log_format", "string_param", "xml", grpc.StatusCode.INVALID_ARGUMENT,
         "invalid argument for log_format, got: xml"),
        ("colour", "bool_param", True, grpc.StatusCode.INVALID_ARGUMENT, "unknown log setting"),
    ],
)  # fmt: skip
def test_a_wrong_log_setting_is_refused(
    stub: Stub, key: str, kind: str, value: object, code: grpc.StatusCode, message: str
) -> None:
    request = pb.LogSettingsRequest()
    setattr(request.settings[key], kind, value)
    with pytest.raises(grpc.RpcError) as failure:
        stub.LogSettings(request)
    assert failure.value.code() is code
    assert message in (failure.value.details() or "")


@pytest.mark.parametrize(
    "call",
    [
        f"{kind}SharedMemory{verb}"
        for kind in ("System", "Cuda")
        for verb in ("Status", "Register", "Unregister")
    ],
)
def test_shared_memory_is_refused_by_every_call(stub: Stub, call: str) -> None:
    with pytest.raises(grpc.RpcError, match="shared memory is not served") as failure:
        getattr(stub, call)(getattr(pb, f"{call}Request")())
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_tensor_in_shared_memory_is_refused(stub: Stub) -> None:
    request = fashion_request()
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(grpc.RpcError, match="shared memory is not served") as failure:
        stub.ModelInfer(request)
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_no_call_of_the_contract_is_left_out(channel: grpc.Channel) -> None:
    """Each is answered, or refused for what an empty request lacks; of shared memory, see above."""
    service = pb.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    answers = {method.name: empty_call(channel, method) for method in service.methods}
    assert len(answers) == 20
    assert answers.pop("RepositoryModelLoad") is grpc.StatusCode.INTERNAL  # as Triton has it
    shared_memory = {name: code for name, code in answers.items() if "SharedMemory" in name}
    assert set(shared_memory.values()) == {grpc.StatusCode.UNIMPLEMENTED}
    others = {name: code for name, code in answers.items() if name not in shared_memory}
    wanting = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert [name for name, code in others.items() if code not in (None, *wanting)] == []
    assert {"ServerLive", "ModelStreamInfer"} <= {n for n, code in others.items() if code is None}


def empty_call(channel: grpc.Channel, method: MethodDescriptor) -> grpc.StatusCode | None:
    """Call a method without a word; return the status of its refusal, or nothing."""
    path = f"/inference.GRPCInferenceService/{method.name}"
    try:
        if method.client_streaming:
            stream: Any = channel.stream_stream(path)
            assert list(stream(iter(()), timeout=30)) == []
        else:
            call: Any = channel.unary_unary(path)
            call(b"", timeout=30)
    except grpc.RpcError as error:
        return error.code()
    return None
