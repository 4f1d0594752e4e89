"""What Prometheus sees of the places that models are fetched from."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from nyquist.server.telemetry import names

SOURCE = ("source",)


class SourceMetrics:
    """Series of each source, by its address as the operator wrote it: without credentials.

    Args:
        registry: of the process that fetches.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.last_success = Gauge(
            names.SOURCE_LAST_SUCCESS,
            "When everything that was wanted of the source was last seen to be here; Unix time.",
            SOURCE,
            registry=registry,
        )
        self.failures = Counter(
            names.SOURCE_FAILURES,
            "Looks at the source that ended without all that was wanted of it.",
            SOURCE,
            registry=registry,
        )
        self.fetched_bytes = Counter(
            names.SOURCE_BYTES, "Bytes of files fetched.", SOURCE, registry=registry
        )
