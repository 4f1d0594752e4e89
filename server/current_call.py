"""The call that is being answered: what its metadata says of it, read when it is asked for.

metadata -> bind_call -> current_call: request id, trace context
"""

import re
import secrets
from collections.abc import Iterable
from contextvars import ContextVar
from functools import cached_property
from typing import TypeAlias

from server.trace_context import TRACE_PARENT, TraceContext, parse_trace_parent

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

REQUEST_ID = "x-request-id"
NO_SHADOW = "x-nyquist-no-shadow"
"""Sent with calls that are not to be mirrored: the companion's own would come back to it."""

_PLAIN_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")


class Call:
    """One call by its metadata."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata

    @cached_property
    def request_id(self) -> str:
        """The caller's, or a new one where it sent none that is plain."""
        for key, value in self._metadata:
            if key == REQUEST_ID and isinstance(value, str) and _PLAIN_ID.fullmatch(value):
                return value
        return secrets.token_hex(8)

    @cached_property
    def trace(self) -> TraceContext | None:
        """The W3C trace context that it came with."""
        for key, value in self._metadata:
            if key == TRACE_PARENT and isinstance(value, str):
                return parse_trace_parent(value)
        return None

    @property
    def ids(self) -> dict[str, str]:
        """What a line of the log says of it."""
        ids = {"request_id": self.request_id}
        return ids | {"trace_id": self.trace.trace_id} if self.trace else ids

    def sent(self, key: str) -> bool:
        """Say whether it came with a key, whatever the value."""
        return any(name == key for name, _ in self._metadata)


NO_CALL = Call(())
_call: ContextVar[Call] = ContextVar("call", default=NO_CALL)


def bind_call(metadata: Metadata) -> None:
    """Make the call with this metadata the current one, for all that is done for it."""
    _call.set(Call(metadata))


def current_call() -> Call:
    """Return the call that is being answered; NO_CALL outside of any."""
    return _call.get()
