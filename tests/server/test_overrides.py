"""RepositoryModelLoad with a configuration of its own, where the administrator allows that."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import copy_model
from tests.foreign import SHAPE, make_net, put_model
from tests.processes import start_server

Stub = stubs.GRPCInferenceServiceStub

BUILT = "fashion_strided"
Code = grpc.StatusCode


@pytest.fixture(scope="module")
def stub(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    folder = tmp_path_factory.mktemp("overrides")
    put_model(folder, "net", make_net())
    copy_model(repository, folder, BUILT)
    options = ["--drain-s", "0", "--provider", "cpu", "--threads", "1", "--config-overrides"]
    running = start_server(folder, options)
    with grpc.insecure_channel(running.target) as channel:
        yield Stub(channel)
    assert running.stop() == 0


def load(stub: Stub, model: str, config: str | None = None, key: str = "config") -> None:
    request = pb.RepositoryModelLoadRequest(model_name=model)
    if config is not None:
        request.parameters[key].string_param = config
    stub.RepositoryModelLoad(request)


def answers(stub: Stub, rows: int) -> bool:
    pictures = np.zeros((rows, *SHAPE), np.float32)
    request = pb.ModelInferRequest(model_name="net", raw_input_contents=[pictures.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=pictures.shape)
    try:
        stub.ModelInfer(request)
    except grpc.RpcError as error:
        return error.code() is not Code.INVALID_ARGUMENT
    return True


def test_a_load_may_bring_a_configuration_that_holds_until_the_next_load(stub: Stub) -> None:
    load(
        stub,
        "net",
        '{"max_batch_size": 6, "instance_group": [{"count": 2, "kind": "KIND_CPU"}], '
        '"dynamicBatching": {"max_queue_delay_microseconds": "50", "preferred_batch_size": [2]}}',
    )
    config = stub.ModelConfig(pb.ModelConfigRequest(name="net")).config
    assert (config.max_batch_size, config.instance_group[0].count) == (6, 2)
    assert config.dynamic_batching.max_queue_delay_microseconds == 50
    assert [answers(stub, rows) for rows in (6, 7)] == [True, False]
    load(stub, "net", '{"dynamic_batching": {}}')
    assert [answers(stub, rows) for rows in (4, 5)] == [True, False]
    load(stub, "net", '{"max_batch_size": 2}')
    load(stub, "net")
    assert [answers(stub, rows) for rows in (4, 5)] == [True, False]


def test_that_of_an_artifact_is_held_to_its_manifest(stub: Stub) -> None:
    load(stub, BUILT, '{"name": "fashion_strided", "maxBatchSize": 3}')
    config = stub.ModelConfig(pb.ModelConfigRequest(name=BUILT)).config
    assert (config.max_batch_size, config.input[0].name) == (3, "image")
    tensor = '{"name": "image", "data_type": "TYPE_FP16", "dims": [1, 48, 48]}'
    with pytest.raises(grpc.RpcError) as refused:
        load(stub, BUILT, f'{{"max_batch_size": 3, "input": [{tensor}]}}')
    assert "its manifest 'fashion_strided' with" in str(refused.value.details())


@pytest.mark.parametrize(
    ("config", "code", "reason"),
    [
        ('{"max_batch_size": -1}', Code.INTERNAL, "max_batch_size is -1, least is 0"),
        ('{"max_batch": 1}', Code.INTERNAL, 'no field named "max_batch"'),
        ("{", Code.INTERNAL, "the config of the load is no JSON of a ModelConfig"),
        ("[]", Code.INTERNAL, "the config of the load is no JSON of a ModelConfig"),
        ("[" * 20_000, Code.INTERNAL, "the config of the load is no JSON of a ModelConfig"),
        ("", Code.INVALID_ARGUMENT, "'config' takes JSON as its string_param"),
    ],
)
def test_one_that_is_wrong_is_refused_and_what_was_served_still_is(
    stub: Stub, config: str, code: grpc.StatusCode, reason: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        load(stub, "net", config)
    assert refused.value.code() is code
    assert reason in str(refused.value.details())
    assert answers(stub, 1)


def test_files_are_taken_from_no_call(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        load(stub, "net", "aaaa", key="file:1/model.onnx")
    assert refused.value.code() is Code.UNIMPLEMENTED
    assert "'file:1/model.onnx': files are read from the repository" in str(refused.value.details())
