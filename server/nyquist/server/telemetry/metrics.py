"""What Prometheus sees. Labels are loaded models, gRPC methods and status codes, never input."""

from asyncio import CancelledError
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from threading import Lock
from time import perf_counter
from typing import NamedTuple, Protocol

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    disable_created_metrics,
)

from nyquist.server.telemetry import names
from nyquist.server.telemetry.current_call import Call, Spans
from nyquist.server.telemetry.histograms import (
    Histogram,
    LightCounter,
    LightGauge,
    LightHistogram,
)
from nyquist.server.telemetry.model_statistics import Statistics
from nyquist.server.telemetry.triton import TritonCollector
from nyquist.server.wire.connection import CLIENT, Source
from nyquist.server.wire.errors import NyquistError

disable_created_metrics()  # type: ignore[no-untyped-call] # a third of the series, read by none

LATENCY_EDGES_S = (
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
BATCH_EDGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
STAGES = ("decode", "queue", "batch", "infer", "encode")
REJECTIONS = ("invalid", "queue_full", "timeout", "deadline", "cancelled", "stopping", "failed")
MODEL = ("model", "version")
CALL = ("grpc_type", "grpc_service", "grpc_method", "source")


class Waited(Protocol):
    """A request that has waited for its run.

    Attributes:
        arrived: when it came, on monotonic.
        spans: of its call; None where it is not traced.
    """

    arrived: float
    spans: Spans | None


class _Ends(NamedTuple):
    """How the requests of one source ended: answered after so long, or rejected for a reason."""

    duration: Histogram
    rejected: Mapping[str, Counter]


class _BySource(dict[Source, _Ends]):
    """The series of who calls; those that are no client's are made once somebody does."""

    def __init__(self, make: Callable[[Source], _Ends]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, source: Source) -> _Ends:
        made = self[source] = self._make(source)
        return made


class ModelMetrics:
    """The series of one version of one model, created at zero, and its statistics."""

    def __init__(self, metrics: "Metrics", name: str, version: str) -> None:
        self._metrics, self._labels, self._lock = metrics, (name, version), Lock()
        self.statistics = metrics.statistics[name, version] = Statistics()
        stages = (metrics.stage_duration.labels(name, version, stage) for stage in STAGES)
        self._decode, self._queue, self._gather, self._infer, self._encode = stages
        self.batch_size = metrics.batch_size.labels(name, version)
        self.padding_rows = metrics.padding_rows.labels(name, version)
        self.queue_depth = metrics.queue_depth.labels(name, version)
        self.queue_limit = metrics.queue_limit.labels(name, version)
        self.inflight = metrics.inflight.labels(name, version)
        self.ready = metrics.ready.labels(name, version)
        self.shadow_mirrored = metrics.shadow_mirrored.labels(name, version)
        self.shadow_dropped = metrics.shadow_dropped.labels(name, version)
        self._of = _BySource(self._ends)
        self._of[CLIENT] = self._ends(CLIENT)

    def _ends(self, source: Source) -> _Ends:
        rejected = self._metrics.rejected
        return _Ends(
            self._metrics.request_duration.labels(*self._labels, source),
            {reason: rejected.labels(*self._labels, reason, source) for reason in REJECTIONS},
        )

    def taken(self, call: Call) -> None:
        """Note that a request for the model has been taken in."""
        self.inflight.value += 1
        if call.spans is not None:
            call.spans.meet(self._labels)

    def decoded(self, call: Call, began: float, ended: float) -> None:
        """Note that a request was decoded. All times are of perf_counter, in seconds."""
        self._decode.observe(ended - began)
        if call.spans is not None:
            call.spans.stage(self._labels, "decode", began, ended)

    def ran(self, requests: Sequence[Waited], pictures: int, times: Sequence[float]) -> None:
        """Note a run.

        Args:
            requests: that rode in it.
            pictures: of all of them.
            times: when it began, when the pictures were put together, and when it ended.
        """
        began, gathered, ended = times
        waits = [began - request.arrived for request in requests]
        with self._lock:  # instances may run at a time
            for wait in waits:
                self._queue.observe(wait)
            self._gather.observe(gathered - began)
            self._infer.observe(ended - gathered)
            self.batch_size.observe(pictures)
        self.statistics.ran(len(requests), pictures, sum(waits), gathered - began, ended - gathered)
        for request in requests:
            if (spans := request.spans) is not None:
                spans.stage(self._labels, "queue", request.arrived, began)
                spans.stage(self._labels, "batch", began, gathered, pictures)
                spans.stage(self._labels, "infer", gathered, ended, pictures)

    def padded(self, rows: int) -> None:
        """Note the empty rows that were added to a batch."""
        with self._lock:
            self.padding_rows.value += rows

    def answered(self, call: Call, began: float, computed: float) -> None:
        """Note that a request has its answer, with its trace as an exemplar if it is sampled.

        Args:
            call: that it came in.
            began: when its bytes came.
            computed: when its outputs did.
        """
        ended = perf_counter()
        self.inflight.value -= 1
        self._encode.observe(ended - computed)
        self.statistics.answered(ended - began, ended - computed)
        if call.spans is not None:
            call.spans.stage(self._labels, "encode", computed, ended)
        trace, duration = call.trace, self._of[call.source].duration
        if trace is not None and trace.sampled:
            duration.observe(ended - began, {"trace_id": trace.trace_id})
        else:
            duration.observe(ended - began)

    def failed(self, call: Call, error: BaseException, began: float) -> None:
        """Note that a request gets no answer."""
        self.inflight.value -= 1
        self.statistics.failed(error, perf_counter() - began)
        if isinstance(error, NyquistError):
            self._of[call.source].rejected[error.reason].inc()
        elif isinstance(error, CancelledError):
            self._of[call.source].rejected["cancelled"].inc()

    def describe(
        self, sha256: str, opset: int, provider: str, *, precision: str = "fp32", fell_back: bool
    ) -> None:
        """Say what runs: the graph's checksum, opset and precision, and the execution provider."""
        self._metrics.info.remove_by_labels(dict(zip(MODEL, self._labels, strict=True)))
        facts = (sha256, str(opset), precision, provider)
        self._metrics.info.labels(*self._labels, *facts).set(1)
        self._metrics.fallback.labels(*self._labels).inc(int(fell_back))


class CallMetrics:
    """The process, its release and its calls, on a registry of their own.

    Args:
        build_info: name of the gauge that tells the release.

    Attributes:
        registry: what is scraped.
    """

    def __init__(self, build_info: str) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(GC_COLLECTOR)
        registry.register(PLATFORM_COLLECTOR)
        build = Gauge(build_info, "The release that runs.", ("version",), registry=registry)
        build.labels(version("nyquist-serving")).set(1)
        self._create_call_metrics(registry)

    def _create_call_metrics(self, registry: CollectorRegistry) -> None:
        """Create the metrics of the gRPC ecosystem, by the names of go-grpc-middleware."""
        self.started = LightCounter(
            names.CALLS_STARTED, "RPCs started on the server.", CALL, registry=registry
        )
        self.received = LightCounter(
            names.MESSAGES_RECEIVED,
            "Messages of RPCs received on the server.",
            CALL,
            registry=registry,
        )
        self.sent = LightCounter(
            names.MESSAGES_SENT,
            "Messages of RPCs sent by the server.",
            CALL,
            registry=registry,
        )
        self.handled = LightCounter(
            names.CALLS_HANDLED,
            "RPCs completed on the server, by status code.",
            (*CALL, "grpc_code"),
            registry=registry,
        )
        self.handling = LightHistogram(
            names.CALL_DURATION,
            "Time from the start of an RPC to its end.",
            CALL,
            registry,
            LATENCY_EDGES_S,
        )


class Metrics(CallMetrics):
    """Every collector of the server.

    Attributes:
        statistics: of each loaded version, by model and version.
    """

    def __init__(self) -> None:
        super().__init__(names.BUILD_INFO)
        self.statistics: dict[tuple[str, str], Statistics] = {}
        self._create_queue_metrics(self.registry)
        self._create_model_metrics(self.registry)
        self._create_shadow_metrics(self.registry)
        self._of_versions = (
            self.request_duration,
            self.stage_duration,
            self.batch_size,
            self.padding_rows,
            self.queue_depth,
            self.queue_limit,
            self.inflight,
            self.rejected,
            self.ready,
            self.info,
            self.fallback,
            self.load_duration,
            self.shadow_mirrored,
            self.shadow_dropped,
        )
        self.registry.register(TritonCollector(self.statistics, self.queue_depth))

    def _create_queue_metrics(self, registry: CollectorRegistry) -> None:
        self.queue_bytes = Gauge(
            names.QUEUE_BYTES,
            "Bytes of pictures held for all models, waiting or running.",
            registry=registry,
        )
        self.queue_bytes_limit = Gauge(
            names.QUEUE_BYTES_LIMIT,
            "Bytes of pictures that may be held; a request beyond them is refused.",
            registry=registry,
        )
        self.queue_depth = LightGauge(
            names.QUEUE_DEPTH, "Requests that wait for the model.", MODEL, registry=registry
        )
        self.queue_limit = Gauge(
            names.QUEUE_LIMIT,
            "Requests that may wait for the model, over all priority levels.",
            MODEL,
            registry=registry,
        )

    def _create_model_metrics(self, registry: CollectorRegistry) -> None:
        self.request_duration = LightHistogram(
            names.REQUEST_DURATION,
            "Time from the bytes of a ModelInfer request to those of its answer.",
            (*MODEL, "source"),
            registry,
            LATENCY_EDGES_S,
        )
        self.stage_duration = LightHistogram(
            names.STAGE_DURATION,
            "The same by stage; batch and infer count once a batch, the others once a request.",
            (*MODEL, "stage"),
            registry,
            LATENCY_EDGES_S,
        )
        self.batch_size = LightHistogram(
            names.BATCH_SIZE,
            "Pictures that ran together.",
            MODEL,
            registry,
            BATCH_EDGES,
        )
        self.padding_rows = LightCounter(
            names.PADDING_ROWS,
            "Empty rows added to reach a warmed batch size.",
            MODEL,
            registry=registry,
        )
        self.inflight = LightGauge(
            names.INFLIGHT,
            "Requests taken in and not answered.",
            MODEL,
            registry=registry,
        )
        self.rejected = Counter(
            names.REJECTED,
            "Requests that got no answer, by reason.",
            (*MODEL, "reason", "source"),
            registry=registry,
        )
        self.ready = Gauge(
            names.MODEL_READY, "1 while the model takes requests.", MODEL, registry=registry
        )
        self.info = Gauge(
            names.MODEL_INFO,
            "What is loaded, and the execution provider that runs it.",
            (*MODEL, "sha256", "opset", "precision", "provider"),
            registry=registry,
        )
        self.fallback = Counter(
            names.PROVIDER_FALLBACK,
            "Sessions that asked for CUDA and got the CPU.",
            MODEL,
            registry=registry,
        )
        self.load_duration = Gauge(
            names.LOAD_DURATION,
            "Time to read, open and warm the model.",
            MODEL,
            registry=registry,
        )
        self.failed = LightGauge(
            names.MODEL_FAILED,
            "1 while nothing of a model that was asked for is served, since a load failed.",
            ("model",),
            registry=registry,
        )
        self.load_failures = Counter(
            names.LOAD_FAILURES,
            "Attempts to load the model that failed; what was served before is served on.",
            ("model",),
            registry=registry,
        )

    def _create_shadow_metrics(self, registry: CollectorRegistry) -> None:
        self.shadow_mirrored = Counter(
            names.SHADOW_MIRRORED,
            "Inferences handed to the companion.",
            MODEL,
            registry=registry,
        )
        self.shadow_dropped = Counter(
            names.SHADOW_DROPPED,
            "Inferences chosen for the companion and not handed to it: it is away or too slow.",
            MODEL,
            registry=registry,
        )

    def watch_queue_bytes(self, held: Callable[[], int], limit: int) -> None:
        """Show the bytes that `held` returns, read when they are asked for, and their limit."""
        self.queue_bytes.set_function(held)
        self.queue_bytes_limit.set(limit)

    def model(self, name: str, version: str) -> ModelMetrics:
        """Return the series of a model, created at zero."""
        return ModelMetrics(self, name, version)

    def forget(self, name: str, version: str) -> None:
        """End every series of a version that is not served any more."""
        self.statistics.pop((name, version), None)
        for collector in self._of_versions:
            collector.remove_by_labels({"model": name, "version": version})
