import asyncio
import re

import pytest

from nyquist.server.telemetry.listener import scraped
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.errors import (
    DeadlinePassed,
    InferenceFailed,
    InvalidRequest,
    QueueFull,
    QueueTimeout,
    Stopping,
)

LABELS = {"model": "m", "version": "1"}


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, LABELS | labels)


def test_the_statistics_of_a_model_are_there_by_tritons_names() -> None:
    metrics = Metrics()
    model = metrics.model("m", "1")
    model.statistics.ran(requests=2, pictures=5, queue_s=0.5, gather_s=0.5, infer_s=2.0)
    model.statistics.answered(3.0, encode_s=0.125)
    model.statistics.answered(4.0, encode_s=0.0)
    model.queue_depth.value = 7
    assert value(metrics, "nv_inference_request_success") == 2
    assert value(metrics, "nv_inference_count") == 5
    assert value(metrics, "nv_inference_exec_count") == 1
    assert value(metrics, "nv_inference_queue_duration_us") == 500_000
    assert value(metrics, "nv_inference_compute_input_duration_us") == 1_000_000
    assert value(metrics, "nv_inference_compute_infer_duration_us") == 4_000_000
    assert value(metrics, "nv_inference_compute_output_duration_us") == 125_000
    assert value(metrics, "nv_inference_pending_request_count") == 7
    assert value(metrics, "nyquist_queue_depth") == 7
    assert value(metrics, "nv_inference_request_duration_us") == 7_000_000


def test_as_text_their_types_are_tritons_too() -> None:
    metrics = Metrics()
    metrics.model("m", "1")
    _, _, body = scraped(metrics.registry, {}, [])
    types = dict(re.findall(r"^# TYPE (nv_\w+) (\w+)$", body.decode(), re.M))
    assert len(types) == 10
    assert types.pop("nv_inference_pending_request_count") == "gauge"
    assert set(types.values()) == {"counter"}
    for name in types:
        assert re.search(rf"^{name}{{", body.decode(), re.M)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (QueueFull(), "REJECTED"),
        (QueueTimeout(), "REJECTED"),
        (Stopping(), "REJECTED"),
        (asyncio.CancelledError(), "CANCELED"),
        (DeadlinePassed(), "CANCELED"),
        (InferenceFailed(), "BACKEND"),
        (InvalidRequest(), "OTHER"),
        (ZeroDivisionError(), "OTHER"),
    ],
)
def test_a_failure_counts_under_tritons_reason(error: BaseException, reason: str) -> None:
    metrics = Metrics()
    metrics.model("m", "1").statistics.failed(error, 0.5)
    for other in ("REJECTED", "CANCELED", "BACKEND", "OTHER"):
        assert value(metrics, "nv_inference_request_failure", reason=other) == (other == reason)
    assert value(metrics, "nv_inference_request_success") == 0


def test_a_forgotten_version_leaves_no_series() -> None:
    metrics = Metrics()
    metrics.model("m", "1").describe("0" * 64, 18, "CPUExecutionProvider", fell_back=False)
    metrics.model("m", "2")
    metrics.forget("m", "1")
    left = {
        sample.labels.get("version")
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.labels.get("model") == "m"
    }
    assert left == {"2"}
