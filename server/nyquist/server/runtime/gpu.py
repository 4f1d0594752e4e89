"""What the GPUs do, by Triton's names, where NVIDIA's management library answers.

NVML -> a family for each figure, read when it is asked for
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from nyquist.server.telemetry import names

logger = logging.getLogger(__name__)

Handle = Any


class Nvml(Protocol):
    """The functions of the module pynvml that are used here."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...  # noqa: N802 - NVML's names
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Handle: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: Handle) -> str: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: Handle) -> Any: ...  # noqa: ANN401, N802
    def nvmlDeviceGetMemoryInfo(self, handle: Handle) -> Any: ...  # noqa: ANN401, N802
    def nvmlDeviceGetPowerUsage(self, handle: Handle) -> int: ...  # noqa: N802


class GpuCollector(Collector):
    """Asks NVML at each scrape; what a device does not tell is left out.

    Args:
        nvml: initialised.
    """

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        count = nvml.nvmlDeviceGetCount()
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(count)]
        self.devices = {nvml.nvmlDeviceGetUUID(handle): handle for handle in handles}

    def collect(self) -> Iterator[Metric]:
        """Return the families as they stand. gpu_uuid stays the only label: perf_analyzer's."""
        nvml = self._nvml
        yield self._family(
            names.GPU_UTILIZATION,
            "Share of the last sample period in which the GPU computed, 0 to 1.",
            lambda gpu: nvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100,
        )
        yield self._family(
            names.GPU_MEMORY_USED,
            "Memory of the GPU in use, by all processes.",
            lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).used,
        )
        yield self._family(
            names.GPU_MEMORY_TOTAL,
            "Memory of the GPU.",
            lambda gpu: nvml.nvmlDeviceGetMemoryInfo(gpu).total,
        )
        yield self._family(
            names.GPU_POWER,
            "Power that the GPU draws, in watts.",
            lambda gpu: nvml.nvmlDeviceGetPowerUsage(gpu) / 1000,
        )

    def _family(self, name: str, text: str, read: Callable[[Handle], float]) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["gpu_uuid"])
        for uuid, handle in self.devices.items():
            try:
                family.add_metric([uuid], read(handle))
            except self._nvml.NVMLError as error:
                logger.debug("%s of %s is not to be had: %s", name, uuid, error)
        return family


@contextmanager
def gpu_metrics(nvml: Nvml | None = None) -> Iterator[GpuCollector | None]:
    """Open NVML meanwhile and give its collector; None, after a line of log, where it is not there.

    Args:
        nvml: stands for the module pynvml, which is imported otherwise.
    """
    nvml = nvml or _module()
    if nvml is None:
        yield None
        return
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        logger.info("no metrics of GPUs: %s", error)
        yield None
        return
    try:
        collector = GpuCollector(nvml)
        logger.info("metrics of %d GPUs", len(collector.devices))
        yield collector
    finally:
        nvml.nvmlShutdown()


def _module() -> Nvml | None:
    try:
        import pynvml  # of the extra gpu
    except ImportError:
        return None
    return pynvml
