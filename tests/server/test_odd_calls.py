"""What calls get that are odd on purpose: bombs, and names that would write into a log."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from nyquist.server.telemetry.logs import configure_logs
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb.inference_pb2_grpc import GRPCInferenceServiceStub
from tests.processes import RunningServer

FORGED = 'x\n{"event": "ready: all is well", "level": "info"}\n\x1b[2J\u202eevil'
BOMB_BYTES = 63 * 1024 * 1024


def resident_mib(server: RunningServer) -> float:
    """Return the most memory that a server ever had, in MiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def test_a_packed_bomb_is_refused_and_takes_no_memory(
    server: RunningServer, stub: GRPCInferenceServiceStub
) -> None:
    request = pb.ModelInferRequest(model_name="fashion_blur")
    request.inputs.add(name="image", datatype="FP32", shape=(1, 1, 48, 48))
    request.raw_input_contents.append(bytes(BOMB_BYTES))
    before = resident_mib(server)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, compression=grpc.Compression.Gzip, timeout=30)
    assert refused.value.code() in (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    # the message as it was unpacked, as Python's bytes and as protobuf's: grpcio makes all three
    assert resident_mib(server) - before < 3 * BOMB_BYTES / 2**20
    assert stub.ServerLive(pb.ServerLiveRequest()).live


@pytest.mark.parametrize("field", ["model_name", "model_version", "id"])
def test_names_and_ids_write_no_line_of_their_own(
    server: RunningServer, stub: GRPCInferenceServiceStub, field: str
) -> None:
    request = pb.ModelInferRequest(model_name="fashion_blur")
    setattr(request, field, FORGED)
    with pytest.raises(grpc.RpcError) as refused:
        stub.ModelInfer(request, metadata=(("x-request-id", "an id"),))
    assert refused.value.code() in (
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
    events = [json.loads(line) for line in server.log]
    assert not [one for one in events if one["event"].startswith("ready: all is well")]
    assert not any("\x1b" in line for line in server.log)


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the log writes for eyes; the handlers of before are put back."""
    root, written = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers, root.level
    monkeypatch.setattr(sys, "stderr", written)
    configure_logs("info", "console")
    yield written
    root.handlers = handlers
    root.setLevel(level)


def test_a_log_for_eyes_shows_control_characters_and_obeys_none(console: io.StringIO) -> None:
    logging.getLogger("nyquist.test").warning("no model %s", FORGED, extra={"request_id": FORGED})
    (line,) = console.getvalue().splitlines()
    assert r'x\n{"event": "ready: all is well", "level": "info"}\n\x1b[2J\u202eevil' in line
    assert "\x1b" not in line
