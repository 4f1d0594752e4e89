"""The log: every module's lines through structlog, each with the call that it belongs to.

logging, structlog -> request id, trace id -> JSON or a line for eyes -> standard error

Nothing here prints local variables of a traceback: they hold pixels, and may hold tokens.
"""

import logging
import re
import secrets
import sys
from collections.abc import Iterable
from contextvars import ContextVar
from functools import cached_property
from typing import Literal, TypeAlias

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

REQUEST_ID = "x-request-id"
TRACE_PARENT = "traceparent"

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")
_TRACE_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?"
)


def configure_logs(level: str, format_asked: Literal["auto", "json", "console"]) -> None:
    """Send the log of the whole process to standard error, one event a line."""
    console = format_asked == "console" or (format_asked == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        _add_ids,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            *_renderers(console=console),
        ],
    )
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.INFO, logging.getLevelName(level.upper())))
    logging.getLogger("server").setLevel(level.upper())


def _renderers(*, console: bool) -> list[Processor]:
    if console:
        plain = structlog.dev.plain_traceback
        colours = sys.stderr.isatty()
        return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


class _Call:
    """The ids of one call, read from its metadata with the first line that is logged, if any."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    @cached_property
    def ids(self) -> dict[str, str]:
        """The request id, the caller's or a new one where it sent none that is plain; trace id."""
        request_id, trace_id = "", ""
        for key, value in self._metadata:
            if key == REQUEST_ID and isinstance(value, str) and _PLAIN_ID.fullmatch(value):
                request_id = value
            elif key == TRACE_PARENT and isinstance(value, str):
                found = _TRACE_PARENT.fullmatch(value)
                trace_id = found["trace"] if found else ""
        ids = {"request_id": request_id or secrets.token_hex(8)}
        return ids | {"trace_id": trace_id} if trace_id else ids


_NO_CALL = _Call(())
_call: ContextVar[_Call] = ContextVar("call", default=_NO_CALL)


def bind_call(metadata: Metadata) -> None:
    """Put a call's request id and W3C trace id on every line that is logged for it."""
    _call.set(_Call(metadata))


def request_id() -> str:
    """Return the request id of the call that is being answered."""
    return _call.get().ids["request_id"]


def _add_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    call = _call.get()
    return event if call is _NO_CALL else {**call.ids, **event}
