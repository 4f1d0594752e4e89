"""What happens around every RPC, unary or streaming.

request id -> metrics -> access -> limits -> handler -> status

Who may not come in is turned away before the message is read.
"""

import asyncio
import inspect
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from functools import cache
from time import perf_counter
from types import TracebackType
from typing import Any, NoReturn, TypeAlias, cast

import grpc

from server.access import ACCESS, Access, Gate
from server.errors import (
    ArtifactError,
    DeadlinePassed,
    InvalidRequest,
    NyquistError,
    StartError,
    TooManyCalls,
)
from server.logs import bind_call
from server.metrics import CallMetrics

# Quoted: the classes are generic in their stubs alone.
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
StreamBehaviour: TypeAlias = Callable[[Any, Context], AsyncIterator[Any]]
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["MethodHandler | None"]]

logger = logging.getLogger(__name__)

DETAILS_BYTES = 1024
KINDS = ("unary", "server_stream", "client_stream", "bidi_stream")


@dataclass(frozen=True)
class CallLimits:
    """What calls may take.

    Attributes:
        concurrent: calls that run at a time; those for health are counted apart.
        deadline_s: deadline of a unary call that comes without one; None leaves it without.
    """

    concurrent: int
    deadline_s: float | None


class Calls(grpc.aio.ServerInterceptor):
    """Wraps every handler: admits, counts, times, logs, and turns errors into statuses.

    Ours keep their message, but for those that name paths; these and any other are logged and
    answered without detail.
    """

    def __init__(self, metrics: CallMetrics, gate: Gate, limits: CallLimits) -> None:
        self._metrics, self._gate, self._limits = metrics, gate, limits
        self._running: Counter[bool] = Counter()
        self._series: dict[str, _Series] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "MethodHandler | None":
        method = handler_call_details.method
        access = ACCESS.get(method)
        handler = await continuation(handler_call_details)
        if access is None or handler is None:
            return None  # gRPC answers UNIMPLEMENTED
        metadata = cast(Any, handler_call_details.invocation_metadata or ())
        call = _Call(self._series_of(method, handler), bind_call(metadata))
        try:
            self._gate.check(method, access, metadata)
            self._check_room(access)
        except NyquistError as refusal:
            return _refusing(call, refusal)
        return self._wrapped(handler, call, access)

    def _series_of(self, method: str, handler: MethodHandler) -> "_Series":
        """Return the series of a method, made once: only those of the access table come here."""
        if method not in self._series:
            self._series[method] = _Series(self._metrics, method, handler)
        return self._series[method]

    def _check_room(self, access: Access) -> None:
        if self._running[access is Access.HEALTH] >= self._limits.concurrent:
            raise TooManyCalls(
                f"{self._limits.concurrent} calls are running, as many as the server takes"
            )

    def _wrapped(self, handler: MethodHandler, call: "_Call", access: Access) -> MethodHandler:
        health = access is Access.HEALTH
        behaviour = _behaviour(handler)
        decoded = _checked_stream if handler.request_streaming else _checked

        async def run(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
            async with call.during(context):
                self._check_room(access)
                self._running[health] += 1
                try:
                    async with asyncio.timeout(self._deadline(handler, access, context)) as limit:
                        return await behaviour(decoded(request), context)
                except TimeoutError as error:
                    if limit.expired():
                        raise DeadlinePassed("Request timeout expired") from error
                    raise
                finally:
                    self._running[health] -= 1

        async def stream(request: Any, context: Context) -> AsyncIterator[Any]:  # noqa: ANN401 - any message
            async with call.during(context):
                self._check_room(access)
                self._running[health] += 1
                try:
                    answers = cast(StreamBehaviour, behaviour)(decoded(request), context)
                    async with aclosing(cast(Any, answers)) as closing:
                        async for answer in closing:
                            yield answer
                finally:
                    self._running[health] -= 1

        return _like(handler, stream if inspect.isasyncgenfunction(behaviour) else run)

    def _deadline(self, handler: MethodHandler, access: Access, context: Context) -> float | None:
        """Return the seconds that a call gets which came without a deadline.

        Streams are free, and so is what loads a model: cut short, it would have to begin again.
        """
        if handler.request_streaming or handler.response_streaming or access is Access.REPOSITORY:
            return None
        return self._limits.deadline_s if context.time_remaining() is None else None


class _Series:
    """The series of one method; looking labels up for each call would cost more than the rest."""

    def __init__(self, metrics: CallMetrics, method: str, handler: MethodHandler) -> None:
        _, service, self.name = method.split("/")
        kind = KINDS[2 * handler.request_streaming + handler.response_streaming]
        labels = (kind, service, self.name)
        self.started = metrics.started.labels(*labels)
        self.seconds = metrics.handling.labels(*labels)
        self._handled = cache(lambda code: metrics.handled.labels(*labels, code.name))

    def count(self, code: grpc.StatusCode) -> None:
        """Count a call that ended with a status."""
        self._handled(code).inc()


class _Call:
    """One call: what is counted, timed and logged of it, and the status that its error becomes."""

    __slots__ = ("_began", "_context", "_request_id", "_series")

    def __init__(self, series: _Series, request_id: str) -> None:
        self._series, self._request_id = series, request_id
        self._context: Context
        self._began = 0.0

    def during(self, context: Context) -> "_Call":
        self._context = context
        return self

    async def __aenter__(self) -> None:
        self._began = perf_counter()
        self._series.started.inc()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _: TracebackType | None,
    ) -> None:
        code, details = self._status(error)
        took = perf_counter() - self._began
        self._series.count(code)
        self._series.seconds.observe(took)
        if logger.isEnabledFor(logging.DEBUG):
            told = {"method": self._series.name, "code": code.name, "seconds": round(took, 6)}
            logger.debug("call ended", extra=told)
        if details is not None:
            await _abort(self._context, code, details)

    def _status(self, error: BaseException | None) -> tuple[grpc.StatusCode, str | None]:
        """Return the status of a call, and the text to abort it with if that has to be done."""
        if error is None:
            return grpc.StatusCode.OK, None
        if isinstance(error, NyquistError) and not isinstance(error, ArtifactError | StartError):
            return error.status, _short(str(error))
        if isinstance(error, grpc.aio.AbortError):
            return grpc.StatusCode(self._context.code()), None
        if isinstance(error, asyncio.CancelledError | GeneratorExit):
            return _why_cancelled(self._context), None
        logger.error("unexpected error in %s", self._series.name, exc_info=error)
        return grpc.StatusCode.INTERNAL, f"internal error; request id {self._request_id}"


def _refusing(call: _Call, refusal: NyquistError) -> MethodHandler:
    """Return a handler that refuses; as one of a stream it is called before a message is read."""

    async def refuse(_: Any, context: Context) -> None:  # noqa: ANN401 - any message
        async with call.during(context):
            raise refusal

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


def _checked(request: Any) -> Any:  # noqa: ANN401 - any message
    if isinstance(request, _Undecodable):
        raise InvalidRequest("the request is no message of this method's type")
    return request


async def _checked_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _short(text: str) -> str:
    """Cut the middle of a message that repeats what came: what is right stands at its end.

    It travels as a header, and callers take 8 KiB of those.
    """
    encoded = text.encode()
    if len(encoded) <= DETAILS_BYTES:
        return text
    head, tail = encoded[: DETAILS_BYTES * 3 // 4], encoded[-DETAILS_BYTES // 4 :]
    return f"{head.decode(errors='ignore')} ... {tail.decode(errors='ignore')}"


async def _abort(context: Context, status: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(status, details)
    raise AssertionError("abort returned")


def _why_cancelled(context: Context) -> grpc.StatusCode:
    remaining = context.time_remaining()
    late = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
