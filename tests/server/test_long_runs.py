"""Runs of onnxruntime that would take far too long, and a server with one that never ends."""

import asyncio
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from nyquist.server.runtime.bound_runs import BoundRuns
from nyquist.server.runtime.engine import Engine, open_session
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.runtime.session_settings import SessionSettings
from nyquist.server.scheduling.batcher import Batcher
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.scheduling.limits import BatchLimits
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.errors import InferenceFailed
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import start_server

pytestmark = pytest.mark.usefixtures("transport")

TURNS_OF_MINUTES = 1e8
QUICK, LONG = (np.full((1, 4), value, np.float32) for value in (3.0, TURNS_OF_MINUTES))


@pytest.fixture(scope="module")
def counting() -> bytes:
    """A graph that counts, one by one, to the largest value of its input."""
    floats, at = [1, 4], TensorProto.FLOAT
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["goes_on"]),
            helper.make_node("Add", ["count", "one"], ["counted"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("count", at, floats),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("counted", at, floats),
        ],
        [helper.make_tensor("one", at, [1, 1], [1.0])],
    )
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMax", ["image"], ["largest"], keepdims=0),
            helper.make_node("Cast", ["largest"], ["turns"], to=TensorProto.INT64),
            helper.make_node("Sub", ["image", "image"], ["zero"]),
            helper.make_node("Loop", ["turns", "", "zero"], ["logits"], body=body),
        ],
        "counting",
        [helper.make_tensor_value_info("image", at, floats)],
        [helper.make_tensor_value_info("logits", at, floats)],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()


def assert_ended_by(
    terminate: Callable[[], None], run: Callable[[NDArray[Any]], object]
) -> BaseException:
    """Start a run of minutes, end it, and return what it raised."""
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(run, LONG)
        assert not wait([running], timeout=0.3).done, "this was to take long"
        terminate()
        error = running.exception(timeout=20)
    assert error is not None
    return error


def test_a_run_is_ended_by_terminate_and_the_session_works_again_once_it_is_probed(
    counting: bytes,
) -> None:
    engine = Engine(counting, Execution("cpu", threads=1), max_batch_size=1)
    engine.warm(QUICK[0])
    assert isinstance(assert_ended_by(engine.terminate, engine.run), InferenceFailed)
    with pytest.raises(InferenceFailed):
        engine.run(QUICK)
    engine.probe()
    assert engine.run(QUICK)["logits"].tolist() == QUICK.tolist()


def test_a_run_at_fixed_addresses_is_ended_by_terminate_too(counting: bytes) -> None:
    plan = Execution("cpu", threads=1).plan(SessionSettings(), ["CPUExecutionProvider"], 1)
    runs = BoundRuns(open_session(counting, plan, ["CPUExecutionProvider"]), "cpu", 0)
    assert "terminate" in str(assert_ended_by(runs.terminate, runs.run))
    with pytest.raises(Exception, match="terminate"):
        runs.run(QUICK)
    runs.resume()
    assert runs.run(QUICK)[0].tolist() == QUICK.tolist()


def test_the_callers_of_a_run_without_end_are_told_and_the_model_is_back_once_it_is_ended(
    counting: bytes,
) -> None:
    async def body() -> None:
        engine = Engine(counting, Execution("cpu", threads=1), max_batch_size=1)
        engine.warm(QUICK[0])
        limits = BatchLimits(1, max_run_s=2.0)  # the quick one takes a thousandth of that
        batcher = Batcher([engine], limits, Metrics().model("m", "1"), QueueBudget(1 << 20))
        async with asyncio.timeout(60):
            with pytest.raises(InferenceFailed, match=r"took longer than 2 s"):
                await batcher.submit(LONG)
            while not batcher.alive:  # noqa: ASYNC110 - there is no event to wait for
                await asyncio.sleep(0.001)
            assert (await batcher.submit(QUICK))["logits"].tolist() == QUICK.tolist()
        await batcher.close()

    asyncio.run(body())


STUCK_SERVER = """
import sys
from threading import Event
from nyquist.server.__main__ import main
from nyquist.server.runtime.engine import Engine
run = Engine.run
def stuck(self, batch):
    if batch.max() > 1e6:
        Event().wait()
    return run(self, batch)
Engine.run = stuck
sys.exit(main())
"""


def test_a_server_with_a_run_that_nothing_ends_tells_its_callers_and_stops_when_it_is_told(
    repository: Path, tmp_path: Path
) -> None:
    name = "fashion_strided"
    shutil.copytree(repository / name, tmp_path / name)
    with (tmp_path / name / "config.pbtxt").open("a", encoding="utf-8") as config:
        config.write('parameters { key: "max_run_seconds" value { string_value: "1" } }\n')
    running = start_server(tmp_path, code=STUCK_SERVER)
    request = pb.ModelInferRequest(model_name=name)
    request.inputs.add(name="image", datatype="FP32", shape=(1, 1, 48, 48))
    request.raw_input_contents.append(np.full(48 * 48, 1e7, np.float32).tobytes())
    try:
        with grpc.insecure_channel(running.target) as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            (answer,) = stub.ModelStreamInfer(iter([request]))
            assert answer.error_message.endswith("the model took longer than 1 s on this batch")
            with pytest.raises(grpc.RpcError) as refused:
                stub.ModelInfer(request)
            assert refused.value.code() is grpc.StatusCode.INTERNAL
            assert not stub.ModelReady(pb.ModelReadyRequest(name=name)).ready
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name))
            assert stub.ModelReady(pb.ModelReadyRequest(name=name)).ready
            request.raw_input_contents[0] = bytes(4 * 48 * 48)
            assert stub.ModelInfer(request).model_name == name
    finally:
        assert running.stop() == 0  # within its patience, though the run goes on
    text = "".join(running.log)
    for said in ("given up", "is left behind in a run", "exiting without a run"):
        assert said in text
