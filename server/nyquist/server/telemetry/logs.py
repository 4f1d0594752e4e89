"""The log: every module's lines through structlog, each with the call that it belongs to.

logging, structlog -> request id, trace id -> JSON or a line for eyes -> standard error

Nothing here prints local variables of a traceback: they hold pixels, and may hold tokens.
"""

import logging
import re
import sys
import warnings
from typing import Literal

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from nyquist.server.telemetry.current_call import NO_CALL, current_call

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters, line and paragraph separators, and what turns the direction of writing."""


def configure_logs(level: str, format_asked: Literal["auto", "json", "console"]) -> None:
    """Send the log of the whole process to standard error, one event a line."""
    # One for each broken tag of a picture, and each new text of one is remembered for ever.
    warnings.filterwarnings("ignore", module=r"PIL\.")
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
    logging.getLogger("nyquist").setLevel(level.upper())


def _renderers(*, console: bool) -> list[Processor]:
    if console:
        plain = structlog.dev.plain_traceback
        colours = sys.stderr.isatty()
        return [_visible, structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def _visible(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Write out what ends a line or moves a cursor: callers choose names, which stand in events.

    Values beside the event are written as Python would anyway.
    """
    words = str(event["event"])
    shown = CONTROL.sub(lambda at: at[0].encode("unicode_escape").decode(), words)
    return {**event, "event": shown}


def _add_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    call = current_call()
    return event if call is NO_CALL else {**call.ids, **event}
