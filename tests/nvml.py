"""A stand-in for NVIDIA's management library."""

from types import SimpleNamespace

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
