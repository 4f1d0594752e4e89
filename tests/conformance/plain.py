"""Clients without a library: stubs that grpcio and grpc-js make of the .proto files, and curl."""

import json
import re
import struct
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grpc

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.conformance.environments import Row
from tests.npm import installed, printed
from tests.processes import ROOT

MODEL, LITE0 = "fashion_strided", "efficientnet_lite0"
ZEROS = bytes(4 * 48 * 48)
SHAPE = [1, 1, 48, 48]


def run_grpcio(target: str, picture: Path) -> list[Row]:
    """Make every call that a program with stubs would."""
    with grpc.insecure_channel(target) as channel:
        return [_row(call, right) for call, right in _calls(channel, picture.read_bytes())]


def _row(call: str, right: Callable[[], object]) -> Row:
    try:
        return Row(call, "ok" if right() else "wrong answer")
    except (grpc.RpcError, KeyError, ValueError) as error:
        return Row(call, f"{type(error).__name__}: {error}")


def _calls(channel: grpc.Channel, picture: bytes) -> Iterator[tuple[str, Callable[[], object]]]:
    stub = GRPCInferenceServiceStub(channel)
    yield "ServerLive", lambda: stub.ServerLive(pb.ServerLiveRequest()).live
    yield "ServerReady", lambda: stub.ServerReady(pb.ServerReadyRequest()).ready
    yield "ModelReady", lambda: stub.ModelReady(pb.ModelReadyRequest(name=MODEL)).ready
    yield (
        "ModelReady, unknown model",
        lambda: not stub.ModelReady(pb.ModelReadyRequest(name="nobody")).ready,
    )
    yield (
        "ServerMetadata",
        lambda: stub.ServerMetadata(pb.ServerMetadataRequest()).name == "nyquist",
    )
    yield (
        "ModelMetadata",
        lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name=MODEL)).versions == ["1"],
    )
    config = pb.ModelConfigRequest(name=LITE0)
    yield "ModelConfig", lambda: stub.ModelConfig(config).config.max_batch_size == 16
    counted = pb.ModelStatisticsRequest(name=MODEL)
    yield "ModelStatistics", lambda: stub.ModelStatistics(counted).model_stats[0].name == MODEL
    yield (
        "RepositoryIndex",
        lambda: len(stub.RepositoryIndex(pb.RepositoryIndexRequest()).models) >= 2,
    )

    def request(model: str = MODEL, **more: Any) -> pb.ModelInferRequest:
        asked = pb.ModelInferRequest(model_name=model, id="7", **more)
        asked.inputs.add(name="image", datatype="FP32", shape=SHAPE)
        return asked

    raw = request(raw_input_contents=[ZEROS])
    yield "ModelInfer, raw", lambda: len(stub.ModelInfer(raw).raw_output_contents[0]) == 40
    typed = request()
    typed.inputs[0].contents.fp32_contents.extend([0.0] * (48 * 48))
    yield (
        "ModelInfer, typed",
        lambda: len(stub.ModelInfer(typed).outputs[0].contents.fp32_contents) == 10,
    )
    for how, one in (("gzip", grpc.Compression.Gzip), ("deflate", grpc.Compression.Deflate)):
        compressed = partial(stub.ModelInfer, raw, compression=one)
        yield f"ModelInfer, {how}", partial(_has_id, compressed)
    file = pb.ModelInferRequest(
        model_name=LITE0, raw_input_contents=[struct.pack("<I", len(picture)) + picture]
    )
    file.inputs.add(name="image", datatype="BYTES", shape=[1])
    yield (
        "ModelInfer, picture as BYTES",
        lambda: list(stub.ModelInfer(file).outputs[0].shape) == [1, 1000],
    )
    unknown = request("nobody", raw_input_contents=[ZEROS])

    def streamed() -> bool:
        answers = list(stub.ModelStreamInfer(iter([raw, unknown, raw])))
        told = [bool(one.error_message) for one in answers]
        return told == [False, True, False] and answers[2].infer_response.id == "7"

    yield "ModelStreamInfer", streamed
    yield "error of an unknown model", lambda: _code(stub.ModelInfer, unknown) == "NOT_FOUND"
    region = pb.SystemSharedMemoryRegisterRequest(name="r", key="/r", byte_size=1)
    yield (
        "shared memory is refused",
        lambda: _code(stub.SystemSharedMemoryRegister, region) == "UNIMPLEMENTED",
    )


def _has_id(call: Callable[[], pb.ModelInferResponse]) -> bool:
    return call().id == "7"


def _code(call: Callable[[Any], object], request: object) -> str:
    try:
        call(request)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def run_curl(target: str, picture: Path) -> list[Row]:
    """Make with curl what the pages show, over HTTP/1.1 and HTTP/2."""

    def curl(path: str, *words: str, status: int = 200) -> Any:
        command = ["curl", "-s", "-w", "\n%{http_code}", *words, f"http://{target}{path}"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        body, _, code = ended.stdout.rpartition("\n")
        if int(code) != status:
            raise ValueError(f"{code}: {body}")
        return json.loads(body) if body else {}

    model = f"/v2/models/{MODEL}"
    given = {"name": "image", "shape": SHAPE, "datatype": "FP32", "data": [0] * (48 * 48)}
    json_body = ("-d", json.dumps({"inputs": [given]}))
    unknown = curl("/v2/models/nobody/infer", *json_body, status=404)
    classified = curl(
        f"/v2/models/{LITE0}/classify?top=3",
        *("-H", "Content-Type: image/jpeg", "--data-binary", f"@{picture}"),
    )
    rows = {
        "ServerLive": lambda: curl("/v2/health/live")["live"],
        "ServerReady": lambda: curl("/v2/health/ready")["ready"],
        "ModelReady": lambda: curl(f"{model}/ready")["ready"],
        "ServerMetadata": lambda: curl("/v2")["name"] == "nyquist",
        "ModelMetadata": lambda: curl(model)["versions"] == ["1"],
        "ModelConfig": lambda: curl(f"{model}/config")["max_batch_size"] >= 1,
        "ModelStatistics": lambda: curl(f"{model}/stats")["model_stats"][0]["name"] == MODEL,
        "RepositoryIndex": lambda: len(curl("/v2/repository/index", "-d", "")) >= 2,
        "ModelInfer, JSON": lambda: (
            curl(f"{model}/infer", *json_body)["outputs"][0]["shape"] == [1, 10]
        ),
        "ModelInfer, JSON over HTTP/2": lambda: (
            curl(f"{model}/infer", "--http2-prior-knowledge", *json_body)["model_name"] == MODEL
        ),
        "ModelInfer, picture as the body": lambda: len(classified["classes"]) == 3,
        "error of an unknown model": lambda: "'nobody'" in unknown["error"],
    }
    return [_row(call, right) for call, right in rows.items()]


def run_node(target: str, picture: Path) -> list[Row]:
    """Make the one call of the program in Node, which has grpc-js and the .proto files alone."""
    script = ROOT / "tests" / "interop" / "node"
    call = (str(ROOT / "proto"), target, LITE0, str(picture))
    (line,) = printed(script / "classify.js", installed(script), *call)
    right = re.fullmatch(r"-?[\d.]+:\d+:.+", line)
    return [Row("ModelInfer, picture as BYTES", "ok" if right else "wrong answer")]
