"""GPU metrics, from a stand-in for NVIDIA's management library."""

import logging

import pytest
from prometheus_client import CollectorRegistry

from nyquist.server.runtime.gpu import gpu_metrics
from nyquist.server.telemetry.listener import scraped
from tests.nvml import GIB, FakeNvml


def test_each_device_is_told_of_and_what_it_does_not_know_is_left_out() -> None:
    registry = CollectorRegistry()
    with gpu_metrics(FakeNvml()) as collector:
        assert collector is not None
        registry.register(collector)

        def value(name: str, gpu: str) -> float | None:
            return registry.get_sample_value(name, {"gpu_uuid": gpu})

        assert value("nv_gpu_utilization", "GPU-0") == 0.37
        assert value("nv_gpu_utilization", "GPU-1") is None
        assert value("nv_gpu_memory_used_bytes", "GPU-1") == 2 * GIB
        assert value("nv_gpu_memory_total_bytes", "GPU-0") == 80 * GIB
        assert value("nv_gpu_power_usage", "GPU-0") == 70.5


def test_numbers_of_gpus_have_no_exponent_as_perf_analyzer_reads_them() -> None:
    registry = CollectorRegistry()
    with gpu_metrics(FakeNvml()) as collector:
        assert collector is not None
        registry.register(collector)
        _, _, text = scraped(registry, {}, [])
    assert f'\nnv_gpu_memory_total_bytes{{gpu_uuid="GPU-0"}} {80 * GIB}\n' in text.decode()


def test_the_library_is_closed_at_the_end() -> None:
    nvml = FakeNvml()
    with gpu_metrics(nvml):
        assert nvml.open
    assert not nvml.open


def test_without_a_driver_there_is_one_line_of_log_and_no_metric(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), gpu_metrics(FakeNvml(driver=False)) as collector:
        assert collector is None
    (line,) = caplog.messages
    assert line == "no metrics of GPUs: NVML Shared Library Not Found"
