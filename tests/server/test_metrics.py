import re
import shutil
import subprocess
from urllib.request import urlopen

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from nyquist.client.client import Client
from nyquist.models.samples import fashion_samples
from nyquist.server.front.access import ACCESS
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.telemetry.metrics import REJECTIONS, STAGES, Metrics
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import RunningServer
from tests.requests import fashion_request

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
MODEL = {"model": "fashion_avg_pool", "version": "1"}
CLIENT = {"source": "client"}


def text_of(server: RunningServer) -> str:
    with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics", timeout=30) as response:
        text: str = response.read().decode()
    return text


def scrape(server: RunningServer) -> Series:
    text = text_of(server)
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(series: Series, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def test_an_answered_request_is_counted_and_timed_in_every_stage(
    server: RunningServer, client: Client
) -> None:
    model = client.describe("fashion_avg_pool")
    before = scrape(server)
    client.infer(model, fashion_samples().images[:5].numpy())
    after = scrape(server)

    def gained(name: str, **labels: str) -> float:
        return value(after, name, **MODEL, **labels) - value(before, name, **MODEL, **labels)

    assert gained("nyquist_request_duration_seconds_count", **CLIENT) == 1
    for stage in STAGES:
        assert gained("nyquist_stage_duration_seconds_count", stage=stage) == 1
    assert gained("nyquist_batch_size_count") == 1
    assert gained("nyquist_batch_size_sum") == 5
    stages = sum(gained("nyquist_stage_duration_seconds_sum", stage=stage) for stage in STAGES)
    assert 0 < stages <= gained("nyquist_request_duration_seconds_sum", **CLIENT)
    assert value(after, "nyquist_queue_depth", **MODEL) == 0
    assert value(after, "nyquist_inflight_requests", **MODEL) == 0


def test_a_refused_request_is_counted_by_reason_and_status(
    server: RunningServer, stub: stubs.GRPCInferenceServiceStub
) -> None:
    call = {
        "grpc_type": "unary",
        "grpc_service": "inference.GRPCInferenceService",
        "grpc_method": "ModelInfer",
    } | CLIENT
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(pb.ModelInferRequest(model_name="fashion_avg_pool"))
    before = scrape(server)
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(pb.ModelInferRequest(model_name="fashion_avg_pool"))
    after = scrape(server)
    for name, labels in (
        ("nyquist_rejected_total", MODEL | CLIENT | {"reason": "invalid"}),
        ("grpc_server_handled_total", call | {"grpc_code": "INVALID_ARGUMENT"}),
        ("grpc_server_started_total", call),
        ("grpc_server_handling_seconds_count", call),
    ):
        assert value(after, name, **labels) - value(before, name, **labels) == 1


def by_source(series: Series, name: str) -> dict[str, float]:
    """Return the sums of a metric of the inference service, or of the model, by who called."""
    found: dict[str, float] = {}
    for (metric, labelled), number in series.items():
        labels = dict(labelled)
        ours = labels.get("model") == MODEL["model"] or labels.get("grpc_method") == "ModelInfer"
        if metric == name and ours:
            found[labels["source"]] = found.get(labels["source"], 0.0) + number
    return found


@pytest.mark.parametrize(
    ("said", "counted"),
    [(None, "client"), ("probe", "probe"), ("shadow", "shadow"), ("made_up", "client")],
)
def test_a_request_is_counted_for_who_it_says_that_it_is_and_no_label_is_made_up(
    server: RunningServer, stub: stubs.GRPCInferenceServiceStub, said: str | None, counted: str
) -> None:
    metadata = (("x-nyquist-source", said),) if said else ()
    before = scrape(server)
    stub.ModelInfer(fashion_request(model=MODEL["model"]), metadata=metadata)
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(pb.ModelInferRequest(model_name=MODEL["model"]), metadata=metadata)
    after = scrape(server)
    for name, calls in (
        ("nyquist_request_duration_seconds_count", 1),
        ("nyquist_rejected_total", 1),
        ("grpc_server_started_total", 2),
        ("grpc_server_handled_total", 2),
        ("grpc_server_msg_received_total", 2),
    ):
        then, now = by_source(before, name), by_source(after, name)
        gained = {source: now[source] - then.get(source, 0.0) for source in now}
        assert {source for source, number in gained.items() if number} == {counted}, name
        assert gained[counted] == calls, name


def test_what_runs_is_visible_before_any_request(server: RunningServer) -> None:
    series = scrape(server)
    (info,) = (
        dict(labels)
        for name, labels in series
        if name == "nyquist_model_info" and ("model", "fashion_blur") in labels
    )
    assert info["provider"].endswith("ExecutionProvider")
    assert (info["opset"], info["precision"]) == ("18", "fp32")
    assert len(info["sha256"]) == 64
    loaded = {"model": "fashion_blur", "version": "1"}
    assert value(series, "nyquist_model_ready", **loaded) == 1
    assert value(series, "nyquist_queue_limit", **loaded) == 1024
    assert value(series, "nyquist_model_load_failures_total", model="fashion_blur") == 0
    assert value(series, "nyquist_queue_bytes_limit") == 512 * 1024 * 1024
    for reason in REJECTIONS:
        assert value(series, "nyquist_rejected_total", **loaded, **CLIENT, reason=reason) >= 0


def test_an_unknown_model_makes_no_series(
    server: RunningServer, stub: stubs.GRPCInferenceServiceStub
) -> None:
    with pytest.raises(grpc.RpcError):
        stub.ModelInfer(pb.ModelInferRequest(model_name="made_up_by_a_caller"))
    assert not [labels for _, labels in scrape(server) if "made_up_by_a_caller" in str(labels)]


def test_every_method_that_is_served_is_counted_from_zero_on(server: RunningServer) -> None:
    started = {
        f"/{dict(labels)['grpc_service']}/{dict(labels)['grpc_method']}"
        for name, labels in scrape(server)
        if name == "grpc_server_started_total"
    }
    elsewhere = "/nyquist.v1."  # of the companion
    served = {method for method in ACCESS if not method.startswith(elsewhere)}
    assert started == served | {"/_OTHER/_OTHER"}


def test_tritons_names_count_the_same_as_ours(server: RunningServer, client: Client) -> None:
    client.infer(client.describe("fashion_avg_pool"), fashion_samples().images[:5].numpy())
    series = scrape(server)
    answered = sum(by_source(series, "nyquist_request_duration_seconds_count").values())
    for theirs, ours in (  # this parser adds the _total
        ("nv_inference_request_success_total", answered),
        ("nv_inference_count_total", value(series, "nyquist_batch_size_sum", **MODEL)),
        ("nv_inference_exec_count_total", value(series, "nyquist_batch_size_count", **MODEL)),
    ):
        assert value(series, theirs, **MODEL) == ours > 0


@pytest.mark.parametrize(
    ("name", "edges"),
    [
        ("batch_size", [1, 2, 4, 8, 16, 32, 64, 128, 256]),
        ("request_duration_seconds", [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                      0.1, 0.25, 0.5, 1, 2.5, 5, 10]),
        ("stage_duration_seconds", [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05,
                                    0.1, 0.25, 0.5, 1, 2.5, 5, 10]),
    ],
)  # fmt: skip
def test_a_histogram_has_the_edges_that_dashboards_and_rules_ask_for(
    name: str, edges: list[float]
) -> None:
    metrics = Metrics()
    metrics.model("m", "1")
    found = {
        float(sample.labels["le"])
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == f"nyquist_{name}_bucket"
    }
    assert sorted(found) == [*edges, float("inf")]


def test_the_bytes_held_are_read_when_they_are_asked_for() -> None:
    metrics, budget = Metrics(), QueueBudget(100)
    metrics.watch_queue_bytes(lambda: budget.held_bytes, budget.max_bytes)
    budget.take(30)
    assert metrics.registry.get_sample_value("nyquist_queue_bytes") == 30
    budget.give_back(30)
    assert metrics.registry.get_sample_value("nyquist_queue_bytes") == 0
    assert metrics.registry.get_sample_value("nyquist_queue_bytes_limit") == 100


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_objects_to_nothing_but_tritons_names(server: RunningServer) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"],  # noqa: S607 - wherever it is installed
        input=text_of(server),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    complaints = (checked.stdout + checked.stderr).splitlines()
    assert complaints, "Triton's names break the rules"
    assert not [line for line in complaints if not re.match(r"nv_(inference|gpu)_", line)]
