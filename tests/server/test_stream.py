"""ModelStreamInfer, on the wire."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from queue import SimpleQueue

import grpc
import pytest

from nyquist.server.front.stream import ordered_answers
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import start_server
from tests.requests import fashion_request, image_request, logits

pytestmark = pytest.mark.usefixtures("transport")

Requests = SimpleQueue[pb.ModelInferRequest | None]


def until_none(requests: Requests) -> Iterator[pb.ModelInferRequest]:
    while (request := requests.get()) is not None:
        yield request


def test_answers_come_in_the_order_of_the_requests(stub: stubs.GRPCInferenceServiceStub) -> None:
    requests = [
        fashion_request(batch=1 + number % 5, model=f"fashion_{kind}", request_id=str(number))
        for number, kind in enumerate(["blur", "strided", "max_pool"] * 40)
    ]
    answers = list(stub.ModelStreamInfer(iter(requests)))
    assert [answer.error_message for answer in answers] == [""] * 120
    for request, answer in zip(requests, answers, strict=True):
        got = answer.infer_response
        assert (got.id, got.model_name) == (request.id, request.model_name)
        assert len(logits(got)) == request.inputs[0].shape[0]
        assert got.parameters["triton_final_response"].bool_param


def test_a_streamed_answer_is_that_of_a_single_call(stub: stubs.GRPCInferenceServiceStub) -> None:
    (answer,) = stub.ModelStreamInfer(iter([fashion_request(batch=3, request_id="a")]))
    single = stub.ModelInfer(fashion_request(batch=3, request_id="a"))
    del answer.infer_response.parameters["triton_final_response"]
    assert answer.infer_response == single


def test_a_bad_request_is_answered_in_the_stream_which_goes_on(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    unknown = fashion_request(model="nobody", request_id="2")
    wrong = fashion_request(request_id="3")
    wrong.inputs[0].datatype = "INT32"
    picture = image_request([b"no picture"])
    requests = [fashion_request(request_id="1"), unknown, wrong, picture, fashion_request()]
    answers = list(stub.ModelStreamInfer(iter(requests)))
    assert [bool(answer.error_message) for answer in answers] == [False, True, True, True, False]
    assert [answer.infer_response.id for answer in answers] == ["1", "2", "3", "", ""]
    assert answers[1].error_message == "Request for unknown model: 'nobody' is not found"
    assert answers[2].error_message.startswith("[request id: 3] inference input 'image' data-type")
    assert answers[3].error_message.startswith(
        "[request id: <id_unknown>] image 0: expected a file"
    )


def test_bytes_that_are_no_request_do_not_end_the_stream(channel: grpc.Channel) -> None:
    call: grpc.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer"
    )
    bodies = [b"\xff\xff\xff\xff", fashion_request().SerializeToString()]
    bad, good = (pb.ModelStreamInferResponse.FromString(body) for body in call(iter(bodies)))
    assert "no inference.ModelInferRequest" in bad.error_message
    assert not good.error_message


def test_a_caller_may_wait_for_each_answer(stub: stubs.GRPCInferenceServiceStub) -> None:
    requests: Requests = SimpleQueue()
    answers = stub.ModelStreamInfer(until_none(requests))
    for number in range(3):
        requests.put(fashion_request(request_id=str(number)))
        assert next(answers).infer_response.id == str(number)
    requests.put(None)
    assert list(answers) == []


def test_a_cancelled_stream_leaves_the_server_answering(
    stub: stubs.GRPCInferenceServiceStub,
) -> None:
    for _ in range(20):
        answers = stub.ModelStreamInfer(iter([fashion_request() for _ in range(50)]))
        next(answers)
        answers.cancel()
        with pytest.raises(grpc.RpcError) as ended:
            list(answers)
        assert ended.value.code() is grpc.StatusCode.CANCELLED
    assert len(logits(stub.ModelInfer(fashion_request()))) == 1


def test_a_stopping_server_answers_what_it_has_read_and_ends_the_stream(
    one_model: Path,
) -> None:
    server = start_server(one_model, ("--drain-s", "0", "--grace-s", "60"))
    requests: Requests = SimpleQueue()
    with grpc.insecure_channel(server.target) as channel:
        answers = stubs.GRPCInferenceServiceStub(channel).ModelStreamInfer(until_none(requests))
        requests.put(fashion_request(model="fashion_strided"))
        assert not next(answers).error_message
        server.process.terminate()
        with pytest.raises(grpc.RpcError) as ended:
            next(answers)
        requests.put(None)
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert server.process.wait(timeout=60) == 0
    server.reader.join()


def test_no_more_is_read_than_is_answered_at_a_time() -> None:
    """A reader that runs ahead would hold every request of a fast sender in memory."""
    read, running, most = 0, 0, 0
    gate = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        nonlocal read
        for number in range(100):
            read += 1
            yield str(number).encode()

    async def answer(request: bytes) -> bytes:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await gate.wait()
        running -= 1
        return request

    async def script() -> list[bytes]:
        stream = ordered_answers(requests(), answer, 4, asyncio.Event())
        first = asyncio.ensure_future(anext(stream))
        for _ in range(200):
            await asyncio.sleep(0)
        assert (read, running) == (4, 4)
        gate.set()
        return [await first, *[one async for one in stream]]

    assert asyncio.run(script()) == [str(number).encode() for number in range(100)]
    assert most == 4


def test_a_caller_who_leaves_ends_the_answers_that_run() -> None:
    ended: list[bytes] = []

    async def requests() -> AsyncIterator[bytes]:
        for number in range(3):
            yield str(number).encode()

    async def answer(request: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(request)
        return request

    async def script() -> None:
        stream = ordered_answers(requests(), answer, 8, asyncio.Event())
        first = asyncio.ensure_future(anext(stream))
        for _ in range(50):
            await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(script())
    assert sorted(ended) == [b"0", b"1", b"2"]
