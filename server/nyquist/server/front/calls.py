"""What happens around every RPC, unary or streaming.

request id -> access -> limits -> message -> metrics -> handler -> status

Who may not come in is turned away before the message is read. Each method is wrapped once, when it
is added: an interceptor of grpc.aio would wrap it at every call.
"""

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple, NoReturn, Protocol, TypeAlias, cast

import grpc

from nyquist.server.front.access import ACCESS, Access, Authorizer
from nyquist.server.telemetry.current_call import (
    Call,
    bind_call,
    current_call,
    current_spans,
)
from nyquist.server.telemetry.histograms import Count
from nyquist.server.telemetry.metrics import CallMetrics
from nyquist.server.wire.connection import CLIENT, SOURCES, Source
from nyquist.server.wire.errors import (
    ArtifactError,
    DeadlinePassed,
    InvalidRequest,
    NotServed,
    NyquistError,
    StartError,
    TooManyCalls,
)

# Quoted: the classes are generic in their stubs alone.
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class Context(Protocol):
    """What a handler sees of the call that it answers, whatever carries it."""

    def time_remaining(self) -> float | None:
        """Return the seconds until the caller's deadline; None where it has none."""

    async def abort(self, code: grpc.StatusCode, details: str = "") -> NoReturn:
        """End the call with a status, by raising."""

    def code(self) -> Any:  # noqa: ANN401 - grpcio gives a number, and wants none
        """Return the status that the call was aborted with."""

    async def write(self, message: Any) -> None:  # noqa: ANN401 - any message
        """Send one answer of several."""


Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
StreamBehaviour: TypeAlias = Callable[[Any, Context], AsyncIterator[Any]]

logger = logging.getLogger(__name__)

DETAILS_BYTES = 1024
CLOCKS_APART_S = 0.005
KINDS = ("unary", "server_stream", "client_stream", "bidi_stream")
OTHER = "_OTHER"
"""Stands in the metrics for every method that is not served: what callers make up is no label."""

OWN_DEADLINE = "/inference.GRPCInferenceService/ModelInfer"
"""Keeps the default deadline itself: a timer for each call would cost more than reading it."""


@dataclass(frozen=True)
class CallLimits:
    """What calls may take.

    Attributes:
        concurrent: calls that run at a time; those for health are counted apart.
        deadline_s: deadline of a unary call that comes without one; None leaves it without.
    """

    concurrent: int
    deadline_s: float | None


class Calls(grpc.GenericRpcHandler):
    """Stands before every handler: admits, counts, times, logs, and turns errors into statuses.

    Ours keep their message, but for those that name paths; these and any other are logged and
    answered without detail. Takes handlers as a server does, and is given to the server itself.

    Args:
        metrics: of calls.
        authorizer: who may come in.
        limits: what calls may take.
        trace: lets a call to a method have spans, but for its health; None traces none.
    """

    def __init__(
        self,
        metrics: CallMetrics,
        authorizer: Authorizer,
        limits: CallLimits,
        trace: Callable[[Call, str], None] | None = None,
    ) -> None:
        self._metrics, self._authorizer, self._deadline_s = metrics, authorizer, limits.deadline_s
        self._trace = trace
        self._slots = {health: _Slots(limits.concurrent) for health in (False, True)}
        self._served: dict[str, tuple[Access, MethodHandler]] = {}
        self._methods: dict[Source, dict[str, _Method]] = {source: {} for source in SOURCES}
        self._other = _Series(metrics, KINDS[0], OTHER, OTHER, CLIENT)

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """Wrap what these handlers serve of the methods that the access table has."""
        for method, access in ACCESS.items():
            details = cast(grpc.HandlerCallDetails, _Details(method))
            for handler in handlers:
                if (served := handler.service(details)) is not None:
                    self._served[method] = access, served
                    self._methods[CLIENT][method] = self._wrapped(method, CLIENT)

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, MethodHandler]
    ) -> None:
        """Leave them out, they come as generic ones too: grpc.aio waits for each at every call."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> MethodHandler:
        """Return the handler of a call over grpcio, or one that refuses it."""
        metadata: Any = handler_call_details.invocation_metadata or ()
        return self.handler(handler_call_details.method, Call(metadata))

    def handler(self, path: str, call: Call, peer: object = None) -> MethodHandler:
        """Return the handler of a call, or one that refuses it before its message is read.

        Args:
            path: of the method, as in `/service/method`.
            call: by its metadata; the current one from now on.
            peer: the connection that it came by; None where the transport does not say.
        """
        bind_call(call)
        method = self._methods[call.source].get(path) or self._first(path, call.source)
        if method is None:
            return _refusing(self._other, NotServed("Method not found!"))
        if self._trace is not None and method.access is not Access.HEALTH:
            self._trace(call, method.name)
        try:
            if not method.free:
                self._authorizer.check(method.name, method.access, call.metadata)
            method.slots.check(peer)
        except NyquistError as refusal:
            return _refusing(method.series, refusal)
        return method.handler

    def refusing(self, path: str, refusal: NyquistError) -> MethodHandler:
        """Return a handler that refuses a call to this method, and counts that."""
        method = self._methods[current_call().source].get(path)
        return _refusing(method.series if method else self._other, refusal)

    def _first(self, path: str, source: Source) -> "_Method | None":
        """Return what nobody of this source has called yet, with series of its own, if served."""
        if path not in self._served:
            return None
        method = self._methods[source][path] = self._wrapped(path, source)
        return method

    def _wrapped(self, name: str, source: Source) -> "_Method":
        access, served = self._served[name]
        slots = self._slots[access is Access.HEALTH]
        kind = KINDS[2 * served.request_streaming + served.response_streaming]
        _, service, method = name.split("/")
        series = _Series(self._metrics, kind, service, method, source)
        behaviour = _behaviour(served)
        # Streams are free, and so is what loads a model: cut short, it would have to begin again.
        if name != OWN_DEADLINE and access is not Access.REPOSITORY and self._deadline_s:
            behaviour = _within(self._deadline_s, behaviour, served)
        wrap = _stream if inspect.isasyncgenfunction(behaviour) else _unary
        handler = _like(served, wrap(behaviour, slots, series, served))
        return _Method(name, access, self._authorizer.lets_all(access), slots, series, handler)


class _Details(NamedTuple):
    """What a handler is asked with."""

    method: str
    invocation_metadata: tuple[()] = ()


class _Slots:
    """The calls that may run at a time, fair between connections.

    One connection may take all of them. Where they are taken, a connection with less than its share
    is let in beyond the limit, by as much again at most; so nobody is shut out by who came first.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._running = limit, 0
        self._of_peer: dict[object, int] = {}

    def check(self, peer: object) -> None:
        """Return if a connection may have one more call run.

        Raises:
            TooManyCalls: it may not.
        """
        if self._running < self._limit:
            return
        share = max(1, self._limit // max(1, len(self._of_peer)))
        late = peer is not None and self._of_peer.get(peer, 0) < share
        if not late or self._running >= 2 * self._limit:
            raise TooManyCalls(f"{self._limit} calls are running, as many as the server takes")

    def take(self, peer: object) -> None:
        """Let one more call run, or raise as `check` does."""
        if self._running >= self._limit:
            self.check(peer)
        self._running += 1
        self._of_peer[peer] = self._of_peer.get(peer, 0) + 1

    def give_back(self, peer: object) -> None:
        """Say that it has ended."""
        self._running -= 1
        left = self._of_peer[peer] - 1
        if left:
            self._of_peer[peer] = left
        else:
            del self._of_peer[peer]


class _Series:
    """The series of one method; looking labels up for each call would cost more than the rest."""

    def __init__(
        self, metrics: CallMetrics, kind: str, service: str, method: str, source: Source
    ) -> None:
        labels, self.name = (kind, service, method, source), method
        self.started = metrics.started.labels(*labels)
        self.received = metrics.received.labels(*labels)
        self.sent = metrics.sent.labels(*labels)
        self._seconds = metrics.handling.labels(*labels)
        self._handled = {
            code: metrics.handled.labels(*labels, code.name) for code in grpc.StatusCode
        }
        self._ok = self._handled[grpc.StatusCode.OK]

    def ended(self, code: grpc.StatusCode, began: float) -> None:
        """Count, time and log a call that ended with a status."""
        took = perf_counter() - began
        handled = self._ok if code is grpc.StatusCode.OK else self._handled[code]
        handled.value += 1
        self._seconds.observe(took)
        if (spans := current_spans()) is not None:
            spans.end(code)
        if logger.isEnabledFor(logging.DEBUG):
            told = {"method": self.name, "code": code.name, "seconds": round(took, 6)}
            logger.debug("call ended", extra=told)

    async def failed(self, error: BaseException, context: Context, began: float) -> None:
        """Do the same for a call that raised, and abort it if its error has a status."""
        code, details = _status(error, context, self.name, perf_counter() - began)
        self.ended(code, began)
        if details is not None:
            await context.abort(code, details)


@dataclass(frozen=True)
class _Method:
    """One method as it is served: who may call it, what is counted of it, and its handler."""

    name: str
    access: Access
    free: bool
    slots: _Slots
    series: _Series
    handler: MethodHandler


def _unary(
    behaviour: Behaviour, slots: _Slots, series: _Series, served: MethodHandler
) -> Behaviour:
    decoded = partial(_checked_stream if served.request_streaming else _checked, series.received)
    writes = bool(served.response_streaming)

    async def run(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        began = perf_counter()
        series.started.value += 1
        try:
            slots.take(peer := getattr(context, "peer_address", None))
            try:
                seen: Any = _CountedWrites(context, series) if writes else context
                answer = await behaviour(decoded(request), seen)
            finally:
                slots.give_back(peer)
        except BaseException as error:
            await series.failed(error, context, began)
            raise
        if not writes:
            series.sent.value += 1
        series.ended(grpc.StatusCode.OK, began)
        return answer

    return run


def _stream(
    behaviour: Behaviour, slots: _Slots, series: _Series, served: MethodHandler
) -> StreamBehaviour:
    decoded = partial(_checked_stream if served.request_streaming else _checked, series.received)

    async def run(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401 - any message
        began = perf_counter()
        series.started.value += 1
        try:
            slots.take(peer := getattr(context, "peer_address", None))
            try:
                answers = cast(StreamBehaviour, behaviour)(decoded(request), context)
                async with aclosing(cast(Any, answers)) as closing:
                    async for answer in closing:
                        series.sent.value += 1
                        yield answer
            finally:
                slots.give_back(peer)
        except BaseException as error:
            await series.failed(error, context, began)
            raise
        series.ended(grpc.StatusCode.OK, began)

    return run


def _within(deadline_s: float, behaviour: Behaviour, served: MethodHandler) -> Behaviour:
    """Give a unary call a deadline that comes without one."""
    if served.request_streaming or served.response_streaming:
        return behaviour

    async def run(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
        if context.time_remaining() is not None:
            return await behaviour(request, context)
        try:
            async with asyncio.timeout(deadline_s) as limit:
                return await behaviour(request, context)
        except TimeoutError as error:
            if limit.expired():
                raise DeadlinePassed("Request timeout expired") from error
            raise

    return run


def _status(
    error: BaseException, context: Context, method: str, took_s: float
) -> tuple[grpc.StatusCode, str | None]:
    """Return the status of a failed call, and the text to abort it with if that has to be done."""
    if isinstance(error, NyquistError) and not isinstance(error, ArtifactError | StartError):
        return error.status, _short(str(error))
    if isinstance(error, grpc.aio.AbortError):
        return grpc.StatusCode(context.code()), None
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return _why_cancelled(context, took_s), None
    logger.error("unexpected error in %s", method, exc_info=error)
    return grpc.StatusCode.INTERNAL, f"internal error; request id {current_call().request_id}"


class _CountedWrites:
    """The context of a handler that writes its answers itself."""

    def __init__(self, context: Context, series: _Series) -> None:
        self._context, self._series = context, series

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a context has
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:  # noqa: ANN401 - any message
        await self._context.write(message)
        self._series.sent.value += 1


def _refusing(series: _Series, refusal: NyquistError) -> MethodHandler:
    """Return a handler that refuses; as one of a stream it is called before a message is read."""

    async def refuse(_: Any, context: Context) -> None:  # noqa: ANN401 - any message
        series.started.value += 1
        await series.failed(refusal, context, perf_counter())

    return grpc.stream_unary_rpc_method_handler(cast(Any, refuse))


def _behaviour(handler: MethodHandler) -> Behaviour:
    return cast(
        Behaviour,
        handler.unary_unary
        or handler.unary_stream
        or handler.stream_unary
        or handler.stream_stream,
    )


def _like(handler: MethodHandler, behaviour: Any) -> MethodHandler:  # noqa: ANN401 - either kind
    make = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }[bool(handler.request_streaming), bool(handler.response_streaming)]
    return cast(Any, make)(behaviour, _lenient(handler), handler.response_serializer)


class _Undecodable:
    """Stands for bytes that are no message of the method's type."""


def _lenient(handler: MethodHandler) -> Callable[[bytes], Any] | None:
    """Let what cannot be parsed come through: gRPC alone would call it our INTERNAL error."""
    parse = handler.request_deserializer
    if parse is None:
        return None

    def deserialize(body: bytes) -> Any:  # noqa: ANN401 - any message
        try:
            return parse(body)
        except Exception:  # noqa: BLE001 - whatever the parser raises, the caller sent it
            return _Undecodable()

    return deserialize


def _checked(count: Count, request: Any) -> Any:  # noqa: ANN401 - any message
    count.value += 1
    if isinstance(request, _Undecodable):
        raise InvalidRequest("the request is no message of this method's type")
    return request


async def _checked_stream(count: Count, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(count, request)


def _short(text: str) -> str:
    """Cut the middle of a message that repeats what came: what is right stands at its end.

    It travels as a header, and callers take 8 KiB of those.
    """
    encoded = text.encode()
    if len(encoded) <= DETAILS_BYTES:
        return text
    head, tail = encoded[: DETAILS_BYTES * 3 // 4], encoded[-DETAILS_BYTES // 4 :]
    return f"{head.decode(errors='ignore')} ... {tail.decode(errors='ignore')}"


def _why_cancelled(context: Context, elapsed_s: float) -> grpc.StatusCode:
    """Say whether a call was given up because its deadline had come.

    The caller's clock decides, and gRPC rounds the time that it sends up, by a hundredth at most.
    """
    remaining_s = context.time_remaining()
    if remaining_s is None or remaining_s > CLOCKS_APART_S + (elapsed_s + remaining_s) / 100:
        return grpc.StatusCode.CANCELLED
    return grpc.StatusCode.DEADLINE_EXCEEDED
