"""What happens around every unary RPC: its metrics, and its errors as gRPC statuses.

CallMetrics -> ErrorsToStatus -> handler
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any, NoReturn, TypeAlias, cast

import grpc

from server.errors import NyquistError
from server.metrics import Metrics

# Quoted: the classes are generic in their stubs alone.
MethodHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, Context], Awaitable[Any]]
Continuation: TypeAlias = Callable[[grpc.HandlerCallDetails], Awaitable["MethodHandler | None"]]

logger = logging.getLogger(__name__)


def _wrapped(handler: MethodHandler, behaviour: Behaviour) -> MethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )


class ErrorsToStatus(grpc.aio.ServerInterceptor):
    """Translate errors to statuses, here and nowhere else.

    Ours keep their message; any other is logged and answered without detail, because its text may
    hold paths or addresses.
    """

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "MethodHandler | None":
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        behaviour = cast(Behaviour, handler.unary_unary)  # the stubs know no coroutine

        async def translated(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
            try:
                return await behaviour(request, context)
            except NyquistError as error:
                await _abort(context, error.status, str(error))
            except grpc.aio.AbortError:
                raise
            except Exception:
                logger.exception("unexpected error in %s", handler_call_details.method)
                await _abort(context, grpc.StatusCode.INTERNAL, "internal error; see the log")

        return _wrapped(handler, translated)


async def _abort(context: Context, status: grpc.StatusCode, details: str) -> NoReturn:
    await context.abort(status, details)
    raise AssertionError("abort returned")


class CallMetrics(grpc.aio.ServerInterceptor):
    """Count and time every unary RPC, by the status code that it ended with."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> "MethodHandler | None":
        handler = await continuation(handler_call_details)
        if handler is None or handler.unary_unary is None:
            return handler
        behaviour = cast(Behaviour, handler.unary_unary)  # the stubs know no coroutine
        _, service, method = handler_call_details.method.split("/")
        labels = ("unary", service, method)

        async def measured(request: Any, context: Context) -> Any:  # noqa: ANN401 - any message
            began = perf_counter()
            self._metrics.started.labels(*labels).inc()
            code = grpc.StatusCode.UNKNOWN
            try:
                response = await behaviour(request, context)
                code = grpc.StatusCode.OK
            except grpc.aio.AbortError:
                code = grpc.StatusCode(context.code())
                raise
            except asyncio.CancelledError:
                code = _why_cancelled(context)
                raise
            finally:
                self._metrics.handled.labels(*labels, code.name).inc()
                self._metrics.handling.labels(*labels).observe(perf_counter() - began)
            return response

        return _wrapped(handler, measured)


def _why_cancelled(context: Context) -> grpc.StatusCode:
    remaining = context.time_remaining()
    late = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
