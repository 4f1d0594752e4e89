"""GPU metrics, from a stand-in for NVIDIA's management library."""

import logging
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from nyquist.server.runtime.gpu import gpu_metrics
from nyquist.server.telemetry.listener import metrics_listener

GIB = 2**30


class NotSupportedError(Exception):
    """As pynvml's NVMLError."""


class FakeNvml:
    """Two devices, the second of which does not tell its utilisation, as one cut into parts.

    Attributes:
        open: whether the library is initialised.
    """

    NVMLError: type[Exception] = NotSupportedError

    def __init__(self, *, driver: bool = True) -> None:
        self._driver, self.open = driver, False

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's names
        if not self._driver:
            raise NotSupportedError("NVML Shared Library Not Found")
        self.open = True

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open = False

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return f"GPU-{handle}"

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if handle:
            raise NotSupportedError("Not Supported")
        return SimpleNamespace(gpu=37, memory=5)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(used=(1 + handle) * GIB, total=80 * GIB)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return 70_500 + handle


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
    with gpu_metrics(FakeNvml()) as collector, metrics_listener(registry, "127.0.0.1", 0) as port:
        assert collector is not None
        registry.register(collector)
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
            text = answer.read().decode()
    assert f'\nnv_gpu_memory_total_bytes{{gpu_uuid="GPU-0"}} {80 * GIB}\n' in text


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
