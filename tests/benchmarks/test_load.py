import asyncio
import os
import subprocess
import sys
from pathlib import Path
from time import monotonic

import grpc
import pytest

from benchmarks.connection import METHOD, CallFailed, Connection
from benchmarks.load import QUANTILES, Closed, Open, press
from benchmarks.model import MeasuredModel, Request, WrongAnswer
from benchmarks.process_usage import (
    cpu_seconds,
    is_paused,
    peak_resident_bytes,
    with_children,
)
from benchmarks.servers import AttachedServer, free_port
from nyquist.server.wire.pb import inference_pb2 as pb
from tests.processes import ROOT, RunningServer


@pytest.fixture(scope="module")
def subject(repository: Path) -> MeasuredModel:
    return MeasuredModel(repository / "fashion_strided")


@pytest.fixture(scope="module")
def request_of_one(subject: MeasuredModel) -> Request:
    return subject.tensor_request(1)


@pytest.mark.parametrize("connections", [1, 3])
def test_a_closed_loop_gets_an_answer_for_every_call(
    server: RunningServer, request_of_one: Request, connections: int
) -> None:
    window = press(
        server.port, request_of_one.body, Closed(4, connections), 0.2, server.process.pid
    )
    assert window.calls >= 4
    assert window.seconds >= 0.2
    assert len(window.quantiles_us) == len(QUANTILES)
    assert list(window.quantiles_us) == sorted(window.quantiles_us)
    assert window.quantiles_us[0] > 0
    assert 0 < window.server_cpu_s < 2 * window.seconds * (os.cpu_count() or 1)
    assert window.peak_bytes > 20e6


def test_an_open_loop_sends_as_many_calls_as_poisson_arrivals_have_whatever_the_answers_do(
    server: RunningServer, request_of_one: Request
) -> None:
    window = press(server.port, request_of_one.body, Open(200.0), 1.0, server.process.pid, seed=1)
    assert 140 <= window.calls <= 260  # 200, give or take four standard deviations


def test_the_same_seed_gives_the_same_arrivals(
    server: RunningServer, request_of_one: Request
) -> None:
    calls = {
        press(server.port, request_of_one.body, Open(100.0), 0.5, server.process.pid, seed=7).calls
        for _ in range(2)
    }
    assert len(calls) == 1


def test_a_call_that_fails_ends_the_load_with_its_status_and_message(server: RunningServer) -> None:
    body = pb.ModelInferRequest(model_name="nothing").SerializeToString()
    with pytest.raises(CallFailed, match=r"grpc-status 5: .*nothing"):
        press(server.port, body, Closed(1), 0.1, server.process.pid)


def test_a_request_larger_than_the_flow_control_window_arrives_whole(
    server: RunningServer, repository: Path
) -> None:
    subject = MeasuredModel(repository / "efficientnet_lite0")
    request = subject.tensor_request(2)
    assert len(request.body) > 2**18
    connection = Connection(server.port, request.body)
    connection.start()
    answers: list[tuple[int, bytes]] = []
    while not answers:
        connection.flush()
        answers = connection.finished()
    connection.close()
    request.check(answers[0][1])


def test_an_answer_that_is_not_onnxruntimes_is_refused(
    subject: MeasuredModel, request_of_one: Request
) -> None:
    right = subject.answer(request_of_one)
    request_of_one.check(right)
    response = pb.ModelInferResponse.FromString(right)
    wrong = bytearray(response.raw_output_contents[0])
    wrong[3] ^= 0x40
    response.raw_output_contents[0] = bytes(wrong)
    with pytest.raises(WrongAnswer, match="logits differ by"):
        request_of_one.check(response.SerializeToString())
    with pytest.raises(WrongAnswer, match="without an output"):
        request_of_one.check(b"")


def test_jpeg_requests_carry_what_a_server_decodes_to_the_same_logits(
    server: RunningServer, repository: Path
) -> None:
    request = MeasuredModel(repository / "efficientnet_lite0").jpeg_request(1)
    with grpc.insecure_channel(server.target) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        request.check(call(request.body))


def test_cpu_time_and_memory_count_a_process_and_its_children() -> None:
    spin = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    parent = (
        "import subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, '-c', {spin + chr(10) + 'input()'!r}], "
        "stdin=sys.stdin)\n"
        "child.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE)
    try:
        until = monotonic() + 30
        while cpu_seconds(process.pid) < 0.2:  # the child's
            assert process.poll() is None
            assert monotonic() < until
        _, child = with_children(process.pid)
        assert peak_resident_bytes(process.pid) > 1.5 * peak_resident_bytes(child) > 3e6
    finally:
        process.communicate(b"\n")
    with pytest.raises(ProcessLookupError, match=str(process.pid)):
        cpu_seconds(process.pid)


def test_a_paused_server_uses_nothing_and_answers_when_it_is_awake(
    server: RunningServer, request_of_one: Request
) -> None:
    attached = AttachedServer("nyquist", server.port, server.process.pid)
    attached.pause()
    try:
        assert is_paused(attached.pid)
        with attached.awake():
            assert not is_paused(attached.pid)
            attached.check(request_of_one)
        before = cpu_seconds(attached.pid)
        assert is_paused(attached.pid)
        assert cpu_seconds(attached.pid) == before
    finally:
        attached.resume()


@pytest.mark.parametrize("transport", ["h2corn", "grpcio"])
def test_the_echo_answers_what_it_was_given(tmp_path: Path, transport: str) -> None:
    answer, port = tmp_path / "answer", free_port()
    answer.write_bytes(b"an answer")
    command = [
        sys.executable,
        "-m",
        "benchmarks.echo",
        str(port),
        str(answer),
        "--transport",
        transport,
    ]
    process = subprocess.Popen(command, cwd=ROOT)

    async def ask() -> bytes:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
            return await call(b"anything", wait_for_ready=True, timeout=30.0)

    try:
        assert asyncio.run(ask()) == b"an answer"
    finally:
        process.terminate()
        process.wait(timeout=60)
