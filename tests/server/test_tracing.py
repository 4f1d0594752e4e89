"""Spans of calls, as a real collector gets them over OTLP."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Condition
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as otlp_stubs
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from nyquist.server.telemetry.metrics import STAGES
from nyquist.server.telemetry.trace_settings import TraceSettings
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import copy_model
from tests.processes import RunningServer, run, start_server
from tests.requests import fashion_request

pytestmark = pytest.mark.usefixtures("transport")

NAME, OTHER = "fashion_strided", "fashion_blur"
CALL = "inference.GRPCInferenceService/ModelInfer"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
UNSAMPLED = (("traceparent", f"00-{TRACE}-{PARENT}-00"),)
TIMEOUT_S = 30.0


class Collector(otlp_stubs.TraceServiceServicer):
    """Receives OTLP over gRPC and keeps the spans; use it with `with`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.resources: set[tuple[str, str]] = set()
        self._changed = Condition()
        self._server = grpc.server(ThreadPoolExecutor(2))
        otlp_stubs.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call] # generated
        self.endpoint = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def __enter__(self) -> "Collector":
        self._server.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._server.stop(None).wait(TIMEOUT_S)

    def Export(  # noqa: N802 - gRPC's name
        self,
        request: otlp.ExportTraceServiceRequest,
        context: Any,  # noqa: ARG002 - gRPC's signature
    ) -> otlp.ExportTraceServiceResponse:
        with self._changed:
            for sent in request.resource_spans:
                pairs = ((a.key, a.value.string_value) for a in sent.resource.attributes)
                self.resources.update(pairs)
                self.spans += [span for scope in sent.scope_spans for span in scope.spans]
            self._changed.notify_all()
        return otlp.ExportTraceServiceResponse()

    def calls(self) -> list[Span]:
        """Return the spans of calls."""
        return [span for span in self.spans if span.kind == Span.SPAN_KIND_SERVER]


def said(span: Span) -> dict[str, str | int]:
    return {
        attribute.key: attribute.value.string_value or attribute.value.int_value
        for attribute in span.attributes
    }


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    copy_model(repository, tmp_path, OTHER)
    return copy_model(repository, tmp_path, NAME)


class Traced:
    """A server that sends its spans, and its stub."""

    def __init__(self, folder: Path, collector: Collector, ratio: float) -> None:
        options = ("--tracing-endpoint", collector.endpoint, "--tracing-ratio", str(ratio))
        self._running: RunningServer = start_server(folder.parent, ("--drain-s", "0", *options))
        self._channel = grpc.insecure_channel(self._running.target)
        self.stub = stubs.GRPCInferenceServiceStub(self._channel)

    def steer(self, model: str = "", **settings: str) -> dict[str, list[str]]:
        request = pb.TraceSettingRequest(model_name=model)
        for key, value in settings.items():
            request.settings[key].value.append(value)
        answer = self.stub.TraceSetting(request, metadata=UNSAMPLED)
        return {key: list(setting.value) for key, setting in answer.settings.items()}

    def stop(self) -> None:
        """End the server, which sends what it has not sent."""
        self._channel.close()
        assert self._running.stop() == 0


def test_a_call_has_a_span_and_one_for_each_stage(folder: Path, collector: Collector) -> None:
    server = Traced(folder, collector, 0)
    server.stub.ModelInfer(fashion_request(batch=3, model=NAME), metadata=SAMPLED)
    bad = fashion_request(model=NAME)
    bad.inputs[0].datatype = "INT32"
    with pytest.raises(grpc.RpcError):
        server.stub.ModelInfer(bad, metadata=SAMPLED)
    with pytest.raises(grpc.RpcError):
        server.stub.SystemSharedMemoryStatus(pb.SystemSharedMemoryStatusRequest(), metadata=SAMPLED)
    server.stub.ServerReady(pb.ServerReadyRequest(), metadata=SAMPLED)
    server.stop()
    good, invalid, unserved = sorted(collector.calls(), key=lambda span: span.start_time_unix_nano)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert {span.parent_span_id.hex() for span in collector.calls()} == {PARENT}
    model = {"nyquist.model.name": NAME, "nyquist.model.version": "1"}
    rpc = {"rpc.system": "grpc", "rpc.service": "inference.GRPCInferenceService"}
    inference = {**rpc, "rpc.method": "ModelInfer", **model}
    assert good.name == CALL
    assert said(good) == inference | {"rpc.grpc.status_code": 0}
    assert said(invalid) == inference | {"rpc.grpc.status_code": 3}
    assert invalid.status.code == Status.STATUS_CODE_UNSET, "it is the caller's mistake"
    assert said(unserved)["rpc.grpc.status_code"] == 12
    assert unserved.status.code == Status.STATUS_CODE_ERROR
    stages = {span.name: span for span in collector.spans if span.parent_span_id == good.span_id}
    assert stages.keys() == set(STAGES)
    ordered = [stages[name] for name in STAGES]
    times = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in ordered]
    assert times == sorted(times)
    for began, ended in times:
        assert good.start_time_unix_nano <= began <= ended <= good.end_time_unix_nano
    assert said(stages["decode"]) == model
    assert said(stages["infer"]) == model | {"nyquist.batch.size": 3}
    assert ("service.name", "nyquist") in collector.resources


def test_the_requests_of_a_stream_have_their_stages_below_its_span(
    folder: Path, collector: Collector
) -> None:
    server = Traced(folder, collector, 0)
    requests = [fashion_request(model=NAME), fashion_request(model=OTHER)]
    assert len(list(server.stub.ModelStreamInfer(iter(requests), metadata=SAMPLED))) == 2
    server.stop()
    (call,) = collector.calls()
    infer = [said(span)["nyquist.model.name"] for span in collector.spans if span.name == "infer"]
    assert sorted(map(str, infer)) == [OTHER, NAME]
    assert {span.parent_span_id for span in collector.spans if span is not call} == {call.span_id}


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_the_callers_decision_holds_and_the_ratio_is_for_those_without(
    folder: Path, collector: Collector, ratio: float
) -> None:
    server = Traced(folder, collector, ratio)
    for metadata in (SAMPLED, UNSAMPLED, ()):
        server.stub.ModelInfer(fashion_request(model=NAME), metadata=metadata)
    server.stop()
    traces = [span.trace_id.hex() for span in collector.calls()]
    assert traces.count(TRACE) == 1
    assert len(traces) == 1 + ratio
    assert len(collector.spans) == len(traces) * (1 + len(STAGES))
    assert {span.span_id for span in collector.calls()} == {
        span.parent_span_id for span in collector.spans if span.kind != Span.SPAN_KIND_SERVER
    }, "no stage has a span that its call has not"


def test_trace_settings_steer_all_models_and_one(folder: Path, collector: Collector) -> None:
    server = Traced(folder, collector, 0.0)
    began = server.steer()
    assert (began["trace_level"], began["trace_mode"]) == (["TIMESTAMPS"], ["opentelemetry"])

    def infer(count: int) -> None:
        for _ in range(count):
            for model in (NAME, OTHER):
                server.stub.ModelInfer(fashion_request(model=model))

    infer(2)
    server.steer(NAME, trace_rate="1")
    infer(3)
    server.steer(trace_rate="1")
    server.steer(NAME, trace_level="OFF")
    infer(4)
    server.stub.ModelInfer(fashion_request(model=NAME), metadata=SAMPLED)
    server.stop()
    traced = [
        said(span).get("nyquist.model.name") for span in collector.calls() if span.name == CALL
    ]
    assert (traced.count(NAME), traced.count(OTHER)) == (3, 4)


def test_a_rate_is_one_in_so_many_until_it_is_taken_back() -> None:
    settings = TraceSettings(0.3)
    assert settings.ratio_of("m") == 0.3
    settings.update("", {"trace_rate": ["4"]})
    settings.update("n", {"trace_rate": ["0"]})
    assert (settings.ratio_of("m"), settings.ratio_of("n")) == (0.25, 0.0)
    settings.update("", {"trace_rate": []})
    assert settings.ratio_of("m") == 0.3
    settings.update("", {"trace_level": ["OFF"]})
    assert settings.ratio_of("m") is None
    assert TraceSettings().ratio_of("m") is None


def test_a_collector_that_is_away_costs_no_request(folder: Path) -> None:
    options = ("--tracing-endpoint", "http://127.0.0.1:1", "--tracing-ratio", "1")
    running = start_server(folder.parent, ("--drain-s", "0", *options))
    with grpc.insecure_channel(running.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        for _ in range(20):
            assert stub.ModelInfer(fashion_request(model=NAME)).model_version == "1"
    assert running.stop() == 0


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    ended = run("nyquist.server", "--tracing-endpoint", "localhost:4317")
    assert ended.returncode == 1
    assert "tracing_endpoint" in ended.stderr
