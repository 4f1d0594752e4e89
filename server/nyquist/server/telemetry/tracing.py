"""Spans of calls and of their stages, sent to an OpenTelemetry collector (the extra tracing).

metadata -> sampled, as TraceSettings say -> spans -> batches -> OTLP over gRPC
"""

from importlib.metadata import version as release_of
from random import random
from time import perf_counter_ns, time_ns

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from nyquist.server.telemetry.current_call import Call, Version
from nyquist.server.telemetry.trace_settings import TraceSettings

MODEL, VERSION, BATCH = "nyquist.model.name", "nyquist.model.version", "nyquist.batch.size"
EXPORT_TIMEOUT_S = 5.0

FAULTS = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
"""Statuses that are the server's errors, as the semantic conventions of RPC spans have it."""


class Tracing:
    """Makes spans and sends them, until it is closed.

    Args:
        endpoint: of the collector, http://host:port or https://host:port.
        settings: say what is sampled; they may change meanwhile.
    """

    def __init__(self, endpoint: str, settings: TraceSettings) -> None:
        resource = Resource.create(
            {"service.name": "nyquist", "service.version": release_of("nyquist-serving")}
        )
        self._settings = settings
        sampler = ParentBased(ALWAYS_ON)  # without a parent, a call comes as far as this if sampled
        self._provider = TracerProvider(sampler, resource, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint, timeout=EXPORT_TIMEOUT_S)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("nyquist")
        self._propagator = TraceContextTextMapPropagator()

    def begin(self, call: Call, method: str) -> None:
        """Let a call have spans. method: /package.Service/Method."""
        call.spans = CallSpans(self, call, method)

    def close(self) -> None:
        """Send what is left; takes EXPORT_TIMEOUT_S or so if nobody answers."""
        self._provider.shutdown()

    def samples(self, call: Call, model: str) -> bool:
        """Decide on a call before anything is made for it, or leave that to its caller's decision.

        Most calls come without one and are not traced; a span that is not recorded takes 20 us.
        """
        ratio = self._settings.ratio_of(model)
        return ratio is not None and (random() < ratio or call.trace is not None)  # noqa: S311 - not for secrets

    def call_span(self, call: Call, name: str, attributes: Attributes, began_ns: int) -> Span:
        """Start the span of a call, which began at a time since the epoch."""
        parent = self._propagator.extract(call.headers)
        return self._tracer.start_span(
            name, parent, SpanKind.SERVER, attributes, start_time=began_ns
        )

    def stage_span(
        self, parent: Span, name: str, attributes: Attributes, began_ns: int, ended_ns: int
    ) -> None:
        """Make the span of a stage that is over."""
        context = set_span_in_context(parent)
        span = self._tracer.start_span(name, context, attributes=attributes, start_time=began_ns)
        span.end(ended_ns)


class CallSpans:
    """The spans of one call; whether they are made is decided once its model is known."""

    def __init__(self, tracing: Tracing, call: Call, method: str) -> None:
        self._tracing, self._call, self._method = tracing, call, method
        self._epoch_ns = time_ns() - perf_counter_ns()
        self._began_ns = time_ns()
        self._span: Span | None = None

    def meet(self, version: Version) -> None:
        """Decide by the version that answers; of a stream, the one that answers first."""
        if self._span is None:
            self._span = self._start(version)

    def stage(
        self, version: Version, name: str, began_s: float, ended_s: float, batch_size: int = 0
    ) -> None:
        """Make the span of a stage, with its times on perf_counter."""
        if self._span is None or not self._span.is_recording():
            return
        attributes: dict[str, str | int] = {**_names(version)}
        if batch_size:
            attributes[BATCH] = batch_size
        began_ns, ended_ns = (self._epoch_ns + round(at * 1e9) for at in (began_s, ended_s))
        self._tracing.stage_span(self._span, name, attributes, began_ns, ended_ns)

    def end(self, code: grpc.StatusCode) -> None:
        """End the call with its status."""
        span = self._span or self._start(None)
        if not span.is_recording():
            return
        span.set_attribute("rpc.grpc.status_code", code.value[0])
        if code in FAULTS:
            span.set_status(StatusCode.ERROR)
        span.end()

    def _start(self, version: Version | None) -> Span:
        if not self._tracing.samples(self._call, version[0] if version else ""):
            return INVALID_SPAN
        _, service, method = self._method.split("/")
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        if version:
            attributes |= _names(version)
        name = f"{service}/{method}"
        return self._tracing.call_span(self._call, name, attributes, self._began_ns)


def _names(version: Version) -> dict[str, str]:
    return dict(zip((MODEL, VERSION), version, strict=True))
