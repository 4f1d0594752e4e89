from urllib.request import urlopen

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.samples import fashion_samples
from server.client import InferenceClient
from server.metrics import REJECTIONS, STAGES
from server.pb import inference_pb2 as pb
from server.pb import inference_pb2_grpc as stubs
from tests.processes import RunningServer

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
MODEL = {"model": "fashion_avg_pool", "version": "1"}


def scrape(server: RunningServer) -> Series:
    with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as response:
        text = response.read().decode()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def test_an_answered_request_is_counted_and_timed_in_every_stage(
    server: RunningServer, client: InferenceClient
) -> None:
    model = client.describe("fashion_avg_pool")
    before = scrape(server)
    client.infer(model, fashion_samples().images[:5].numpy())
    after = scrape(server)

    def gained(name: str, **labels: str) -> float:
        return value(after, name, **MODEL, **labels) - value(before, name, **MODEL, **labels)

    assert gained("nyquist_request_duration_seconds_count") == 1
    for stage in STAGES:
        assert gained("nyquist_stage_duration_seconds_count", stage=stage) == 1
    assert gained("nyquist_batch_size_count") == 1
    assert gained("nyquist_batch_size_sum") == 5
    stages = sum(gained("nyquist_stage_duration_seconds_sum", stage=stage) for stage in STAGES)
    assert 0 < stages <= gained("nyquist_request_duration_seconds_sum")
    assert value(after, "nyquist_queue_depth", **MODEL) == 0
    assert value(after, "nyquist_inflight_requests", **MODEL) == 0


def test_a_refused_request_is_counted_by_reason_and_status(
    server: RunningServer, stub: stubs.GRPCInferenceServiceStub
) -> None:
    call = {
        "grpc_type": "unary",
        "grpc_service": "inference.GRPCInferenceService",
        "grpc_method": "ModelInfer",
    }
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(pb.ModelInferRequest(model_name="fashion_avg_pool"))
    before = scrape(server)
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(pb.ModelInferRequest(model_name="fashion_avg_pool"))
    after = scrape(server)
    for name, labels in (
        ("nyquist_rejected_total", MODEL | {"reason": "invalid"}),
        ("grpc_server_handled_total", call | {"grpc_code": "INVALID_ARGUMENT"}),
        ("grpc_server_started_total", call),
        ("grpc_server_handling_seconds_count", call),
    ):
        assert value(after, name, **labels) - value(before, name, **labels) == 1


def test_what_runs_is_visible_before_any_request(server: RunningServer) -> None:
    series = scrape(server)
    (info,) = (
        dict(labels)
        for name, labels in series
        if name == "nyquist_model_info" and ("model", "fashion_blur") in labels
    )
    assert info["provider"].endswith("ExecutionProvider")
    assert info["opset"] == "18"
    assert len(info["sha256"]) == 64
    assert value(series, "nyquist_model_ready", model="fashion_blur", version="1") == 1
    for reason in REJECTIONS:
        labels = {"model": "fashion_blur", "version": "1", "reason": reason}
        assert value(series, "nyquist_rejected_total", **labels) >= 0


def test_an_unknown_model_makes_no_series(
    server: RunningServer, stub: stubs.GRPCInferenceServiceStub
) -> None:
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(pb.ModelInferRequest(model_name="made_up_by_a_caller"))
    assert not [labels for _, labels in scrape(server) if "made_up_by_a_caller" in str(labels)]
