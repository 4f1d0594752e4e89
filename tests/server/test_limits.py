"""What one caller can do to a server process: much, and the next caller is answered."""

import socket
import struct
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from nyquist.server.artifact.graph_description import GraphDescription
from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.front.http_listener import open_socket
from nyquist.server.front.transport import channel_options, request_bytes, request_limit
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.settings import Settings
from nyquist.server.wire import tensors
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from nyquist.server.wire.signature import Datatype, TensorSpec
from tests.artifacts import copy_model
from tests.processes import RunningServer, run, start_server
from tests.requests import fashion_request

pytestmark = pytest.mark.usefixtures("transport")

INFER = "/inference.GRPCInferenceService/ModelInfer"
MIB = 1024 * 1024
MODEL = "fashion_strided"
UNBOUNDED = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
PINGING = [
    ("grpc.keepalive_time_ms", 50),  # a client waits a second all the same
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
]


@pytest.fixture(scope="module")
def limited(one_model: Path, transport: str) -> Iterator[RunningServer]:
    options = ("--max-metadata-bytes", "8192", "--min-ping-interval-s", "300", "--grace-s", "2")
    running = start_server(one_model, ("--drain-s", "0", "--transport", transport, *options))
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def logits(repository: Path) -> list[float]:
    """The answer to a black picture, from the model itself."""
    folder = repository / MODEL
    manifest = read_manifest(folder, 1)
    graph = manifest.read_file(folder, "1/model.onnx")
    engine = Engine(graph, Execution("cpu"), max_batch_size=1)
    black = np.zeros((1, *manifest.input.shape), np.float32)
    return engine.run(black)["logits"].ravel().tolist()


def black() -> bytes:
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(4 * 48 * 48)])
    request.inputs.add(name="image", datatype="FP32", shape=(1, 1, 48, 48))
    return request.SerializeToString()


def infer(channel: grpc.Channel, body: bytes, **options: Any) -> bytes:
    call: Any = channel.unary_unary(INFER)
    return call(body, timeout=30, **options)


def refusal(channel: grpc.Channel, body: bytes, **options: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as failure:
        infer(channel, body, **options)
    return failure.value.code(), failure.value.details() or ""


def assert_answers(server: RunningServer, logits: list[float]) -> None:
    with grpc.insecure_channel(server.target) as channel:
        response = pb.ModelInferResponse.FromString(infer(channel, black()))
    (output,) = response.outputs
    got = tensors.from_raw(response.raw_output_contents[0], output.datatype, output.shape)
    assert got.ravel().tolist() == logits


def test_a_request_may_be_as_large_as_the_models_need(
    limited: RunningServer, logits: list[float]
) -> None:
    with grpc.insecure_channel(limited.target, options=UNBOUNDED) as channel:
        code, _ = refusal(channel, bytes(4 * MIB))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        code, details = refusal(channel, bytes(4 * MIB + 1))
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert str(4 * MIB) in details
    assert_answers(limited, logits)


@pytest.mark.parametrize(
    ("name", "batch", "cap", "limit"),
    [
        ("fashion_blur", 64, 64 * MIB, 4 * MIB),
        ("fashion_blur", 1024, 64 * MIB, 1024 * 4 * 48 * 48 + 64 * 1024),
        ("fashion_blur", 64, MIB, MIB),
        ("efficientnet_lite0", 1, 64 * MIB, 4 * MIB + 64 * 1024),
        ("efficientnet_lite0", 16, 64 * MIB, 64 * MIB),
    ],
)
def test_the_largest_request_comes_from_the_input_and_the_batch(
    repository: Path, name: str, batch: int, cap: int, limit: int
) -> None:
    manifest = read_manifest(repository / name, 1)
    settings = Settings(max_message_bytes=cap)
    assert request_limit(request_bytes(manifest, batch), settings) == limit


@pytest.mark.parametrize(
    ("datatype", "value", "field"),
    [("INT8", -1, "int"), ("UINT16", 65535, "uint"), ("INT64", -1, "int64")],
)
def test_typed_contents_of_whole_numbers_have_the_room_that_they_take(
    datatype: Datatype, value: int, field: str
) -> None:
    tensor = TensorSpec(name="x", datatype=datatype, shape=(2000, 1000))
    described = GraphDescription("net", 1, (tensor,), (tensor,), 17, "0")
    request = pb.ModelInferRequest()
    contents = request.inputs.add(name="x", datatype=datatype, shape=[1, 2000, 1000]).contents
    getattr(contents, f"{field}_contents").extend([value] * 2_000_000)
    assert request.ByteSize() <= request_limit(request_bytes(described, 1), Settings())


def test_a_small_body_that_unpacks_to_a_large_one_is_refused(
    limited: RunningServer, logits: list[float]
) -> None:
    with grpc.insecure_channel(limited.target, options=UNBOUNDED) as channel:
        code, details = refusal(channel, bytes(64 * MIB), compression=grpc.Compression.Gzip)
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "ecompressed" in details
    assert_answers(limited, logits)


def test_metadata_has_one_limit_and_not_a_lottery(
    limited: RunningServer, logits: list[float]
) -> None:
    with grpc.insecure_channel(limited.target) as channel:
        for _ in range(20):
            assert infer(channel, black(), metadata=(("x-long", "a" * 7000),))
            code, _ = refusal(channel, black(), metadata=(("x-long", "a" * 8200),))
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert_answers(limited, logits)


def watch_until_end(
    server: RunningServer, options: list[tuple[str, int]], deadline_s: float
) -> grpc.RpcError:
    """Watch the health of a server, with a deadline, and return why that ended."""
    with grpc.insecure_channel(server.target, options=options) as channel:
        statuses = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=deadline_s
        )
        next(statuses)
        with pytest.raises(grpc.RpcError) as ended:
            next(statuses)
    return ended.value


# h2corn answers pings below Python, and has no limit for them.
@pytest.mark.parametrize("transport", ["grpcio"], indirect=True, scope="session")
def test_a_caller_that_pings_too_often_loses_its_connection(
    limited: RunningServer, logits: list[float]
) -> None:
    ended = watch_until_end(limited, PINGING, deadline_s=30)
    assert ended.code() is grpc.StatusCode.UNAVAILABLE
    assert "too_many_pings" in (ended.details() or "").lower().replace(" ", "_")
    assert_answers(limited, logits)


def test_a_caller_that_pings_as_often_as_it_may_keeps_its_connection(one_model: Path) -> None:
    options = ("--drain-s", "0", "--min-ping-interval-s", "0.01")
    patient = start_server(one_model, options)
    try:
        ended = watch_until_end(patient, PINGING, deadline_s=6)
        assert ended.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        assert patient.stop() == 0


def test_an_old_connection_is_renewed_without_a_lost_call(
    one_model: Path, logits: list[float], transport: str
) -> None:
    said = {"grpcio": "max connection age", "h2corn": "goaway received; error code: 0"}
    options = ("--drain-s", "0", "--max-connection-age-s", "0.1", "--grace-s", "2")
    aging = start_server(one_model, options)
    try:
        ended = watch_until_end(aging, [], deadline_s=30)
        assert ended.code() is grpc.StatusCode.UNAVAILABLE
        assert said[transport] in (ended.details() or "").lower().replace("_", " ")
        with grpc.insecure_channel(aging.target) as channel:
            for _ in range(300):
                assert infer(channel, black())
        assert_answers(aging, logits)
    finally:
        assert aging.stop() == 0


def test_the_grace_for_old_connections_outlives_the_default_deadline_where_it_is_said() -> None:
    options = dict(channel_options(Settings(max_connection_age_s=60), MIB, 30))
    assert options["grpc.max_connection_age_ms"] == 60_000
    assert options["grpc.max_connection_age_grace_ms"] == 30_000
    assert "grpc.max_connection_age_ms" not in dict(channel_options(Settings(), MIB, 30))


def test_a_second_server_cannot_share_the_port(limited: RunningServer, one_model: Path) -> None:
    ports = ("--port", str(limited.port), "--metrics-port", "0")
    ended = run("nyquist.server", "--repository", str(one_model), *ports, "--log-level", "error")
    assert ended.returncode == 1
    assert f"gRPC cannot listen on {limited.target}" in ended.stderr


def test_a_host_that_is_none_is_told_in_words() -> None:
    with pytest.raises(StartError, match=r"nowhere\.invalid:0: (?!Unknown error)"):
        open_socket("nowhere.invalid", 0)


def test_a_flood_is_answered_or_refused_by_its_status(one_model: Path, logits: list[float]) -> None:
    few = start_server(one_model, ("--drain-s", "0", "--max-concurrent-rpcs", "4"))
    try:
        with grpc.insecure_channel(few.target) as channel, ThreadPoolExecutor(64) as pool:
            codes = set(pool.map(lambda _: code_of(channel), range(2000)))
        assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert grpc.StatusCode.RESOURCE_EXHAUSTED in codes
        assert_answers(few, logits)
    finally:
        assert few.stop() == 0


def peak_bytes(server: RunningServer) -> int:
    """The most memory that the process has had."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kib) * 1024


def test_a_flood_of_large_requests_leaves_the_memory_bounded(
    one_model: Path, logits: list[float]
) -> None:
    """What is held depends on how many come at a time, not on how many have come."""
    caps = ("--max-concurrent-rpcs", "32", "--max-queue-bytes", str(4 * MIB))
    held = start_server(one_model, ("--drain-s", "0", *caps))
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(64 * 4 * 48 * 48)])
    request.inputs.add(name="image", datatype="FP32", shape=(64, 1, 48, 48))
    full = request.SerializeToString()
    callers, calls = 64, 1800
    try:
        with grpc.insecure_channel(held.target) as channel, ThreadPoolExecutor(callers) as pool:
            infer(channel, full)
            before = peak_bytes(held)
            codes = Counter(pool.map(lambda _: code_of(channel, full), range(calls)))
        refused = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE}
        assert codes.keys() <= {grpc.StatusCode.OK, *refused}
        assert codes[grpc.StatusCode.OK]
        assert any(codes[code] for code in refused)
        assert peak_bytes(held) - before < calls * len(full) / 3
        assert_answers(held, logits)
    finally:
        assert held.stop() == 0


def code_of(channel: grpc.Channel, body: bytes = black()) -> grpc.StatusCode:
    try:
        infer(channel, body)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_callers_that_vanish_mid_call_disturb_nobody(
    limited: RunningServer, logits: list[float]
) -> None:
    call: Any = None
    for _ in range(100):
        with grpc.insecure_channel(limited.target) as channel:
            call = channel.unary_unary(INFER)
            for _ in range(10):
                call.future(black()).cancel()
    for opening in (
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03",
    ):
        for _ in range(25):
            with socket.create_connection(("127.0.0.1", limited.port)) as raw:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raw.sendall(opening)
    assert_answers(limited, logits)


def http2_frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return struct.pack(">I", len(body))[1:] + struct.pack(">BBI", kind, flags, stream) + body


def http2_headers(**headers: str) -> bytes:
    """Headers in HPACK's plainest form: no index, no compression."""
    return b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in (
            (key.replace("_", "-").replace("pseudo-", ":").encode(), value.encode())
            for key, value in headers.items()
        )
    )


def raw_call(body: bytes) -> bytes:
    """All bytes of a connection that makes one ModelInfer call, as gRPC over HTTP/2 has them."""
    headers = http2_headers(
        pseudo_method="POST",
        pseudo_scheme="http",
        pseudo_path=INFER,
        pseudo_authority="localhost",
        te="trailers",
        content_type="application/grpc",
    )
    message = b"\0" + struct.pack(">I", len(body)) + body
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + http2_frame(4, 0, 0, b"")  # SETTINGS
        + http2_frame(1, 4, 1, headers)  # HEADERS, and their end
        + http2_frame(0, 1, 1, message)  # DATA, and the end of the stream
    )


def test_a_thousand_callers_that_reset_their_connection_mid_answer_disturb_nobody(
    limited: RunningServer, logits: list[float]
) -> None:
    call = raw_call(black())
    heard = 0
    for number in range(1000):
        with socket.create_connection(("127.0.0.1", limited.port)) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            raw.sendall(call)
            if number % 4 == 0:  # with the answer on its way, or about to be written
                raw.settimeout(20)
                data = b""
                while b"grpc-status" not in data and b"logits" not in data:
                    part = raw.recv(64)
                    assert part, "the server closed first"
                    data += part
                heard += b"logits" in data
    assert heard > 200, "these were to be real calls"
    assert limited.process.poll() is None
    assert_answers(limited, logits)


def many_parameters(request: pb.ModelInferRequest) -> None:
    for index in range(100_000):
        request.parameters[f"triton_{index}"].int64_param = index


def many_outputs(request: pb.ModelInferRequest) -> None:
    for index in range(100_000):
        request.outputs.add(name=str(index))


def many_inputs(request: pb.ModelInferRequest) -> None:
    for index in range(50_000):
        request.inputs.add(name=str(index))


def many_dimensions(request: pb.ModelInferRequest) -> None:
    request.inputs[0].shape.extend([1] * 500_000)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 2**32, 2**32),
        (2**31, 2**31, 2, 2),
        (2**63 - 1, 1, 48, 48),
        (1, 1, 2**63 - 1, 2),
        (1, 1, 48, -1),
        (1, -1, -48, 48),
        (0, 1, 48, 48),
        (1, 1, 0, 48),
        (-(2**63), 1, 48, 48),
    ],
)
@pytest.mark.parametrize("body", [b"", bytes(4 * 48 * 48)])
def test_sizes_that_overflow_or_multiply_to_nothing_are_refused(
    limited: RunningServer, logits: list[float], shape: tuple[int, ...], body: bytes
) -> None:
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[body])
    request.inputs.add(name="image", datatype="FP32", shape=shape)
    with grpc.insecure_channel(limited.target) as channel:
        code, _ = refusal(channel, request.SerializeToString())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert_answers(limited, logits)


def test_more_classes_than_there_are_is_all_of_them(limited: RunningServer) -> None:
    request = pb.ModelInferRequest.FromString(black())
    request.outputs.add(name="logits").parameters["classification"].int64_param = 2**63 - 1
    with grpc.insecure_channel(limited.target) as channel:
        body = infer(channel, request.SerializeToString())
    (output,) = pb.ModelInferResponse.FromString(body).outputs
    assert list(output.shape) == [1, 10]


@pytest.mark.parametrize("swell", [many_parameters, many_outputs, many_inputs, many_dimensions])
def test_a_request_of_very_many_parts_gets_a_short_answer(
    limited: RunningServer, logits: list[float], swell: Any
) -> None:
    request = pb.ModelInferRequest.FromString(black())
    swell(request)
    with grpc.insecure_channel(limited.target) as channel:
        code, details = refusal(channel, request.SerializeToString())
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(details) <= 1100
    assert_answers(limited, logits)


def nested(depth: int) -> bytes:
    """A message in a message, in a field that no message has; parsers recurse through groups."""
    return b"\x7b" * depth + b"\x7c" * depth


@pytest.mark.parametrize("body", [nested(90), nested(1_000_000), b"\x0a\xff\xff\xff\xff\x0f"])
def test_nesting_and_false_lengths_are_no_crash(
    limited: RunningServer, logits: list[float], body: bytes
) -> None:
    with grpc.insecure_channel(limited.target) as channel:
        code, _ = refusal(channel, body)
    assert code in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
    assert_answers(limited, logits)


def test_an_inference_without_a_deadline_gets_the_default_one(
    repository: Path, tmp_path: Path
) -> None:
    config = copy_model(repository, tmp_path, MODEL) / "config.pbtxt"
    for_company = "dynamic_batching { max_queue_delay_microseconds: 3600000000"
    config.write_text(config.read_text().replace("dynamic_batching {", for_company))
    server = start_server(tmp_path, ("--drain-s", "0", "--default-deadline-s", "0.2"))
    with grpc.insecure_channel(server.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.ModelInfer.future(fashion_request(model=MODEL)).result(timeout=30)
    assert refused.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert server.stop() == 0
