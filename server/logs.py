"""The log: every module's lines through structlog, each with the call that it belongs to.

logging, structlog -> request id, trace id -> JSON or a line for eyes -> standard error

Nothing here prints local variables of a traceback: they hold pixels, and may hold tokens.
"""

import logging
import re
import secrets
import sys
from collections.abc import Iterable
from typing import Literal

import structlog
from structlog.types import Processor

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
        structlog.contextvars.merge_contextvars,
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


def bind_call(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    """Put a call's request id and W3C trace id on every line that is logged for it.

    Returns:
        the request id: the caller's, or a new one where it sent none that is plain.
    """
    request_id = trace_id = ""
    for key, value in metadata:
        if key == REQUEST_ID and isinstance(value, str) and _PLAIN_ID.fullmatch(value):
            request_id = value
        elif key == TRACE_PARENT and isinstance(value, str):
            found = _TRACE_PARENT.fullmatch(value)
            trace_id = found["trace"] if found else ""
    request_id = request_id or secrets.token_hex(8)
    if trace_id:
        structlog.contextvars.bind_contextvars(request_id=request_id, trace_id=trace_id)
    else:
        structlog.contextvars.bind_contextvars(request_id=request_id)
    return request_id
