"""The call that is being answered: what its metadata says of it, read when it is asked for.

metadata -> Call -> bind_call -> current_call: request id, trace context
"""

import re
import secrets
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from functools import cached_property
from typing import Protocol, TypeAlias

import grpc

from nyquist.server.wire.connection import CLIENT, SOURCE, SOURCES, Source
from nyquist.server.wire.trace_context import TRACE_PARENT, TraceContext, parse_trace_parent

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
Version: TypeAlias = tuple[str, str]
"""A model's name and its version."""

REQUEST_ID = "x-request-id"

_SOURCES: dict[str, Source] = {source: source for source in SOURCES}
_PLAIN_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,128}")


class Spans(Protocol):
    """What becomes of a call in a trace; times are those of perf_counter, in seconds."""

    def meet(self, version: Version) -> None:
        """Note which version answers: of a stream, the one that answers its first request."""

    def stage(
        self, version: Version, name: str, began_s: float, ended_s: float, batch_size: int = 0
    ) -> None:
        """Note a stage that is over, in which version, and how many pictures ran together in it."""

    def end(self, code: grpc.StatusCode) -> None:
        """Note the end of the call."""


class Call:
    """One call by its metadata.

    Args:
        metadata: that it came with.
        like: another call with the same.

    Attributes:
        metadata: likewise.
        trace: the W3C trace context that it came with.
        spans: of it; None where calls are not traced.
        source: who calls, as the caller says; what it makes up is a client's.
    """

    source: Source
    trace: TraceContext | None
    spans: Spans | None = None

    def __init__(self, metadata: Metadata, like: "Call | None" = None) -> None:
        self.metadata = metadata
        if like is not None:
            self.source, self.trace = like.source, like.trace
            return
        sent = self._texts(SOURCE)
        self.source = _SOURCES.get(sent[0], CLIENT) if sent else CLIENT
        traced = self._texts(TRACE_PARENT)
        self.trace = parse_trace_parent(traced[0]) if traced else None

    @property
    def headers(self) -> dict[str, str]:
        """The metadata that is text; of a key that came twice, the last."""
        return {key: value for key, value in self.metadata if isinstance(value, str)}

    @cached_property
    def request_id(self) -> str:
        """The caller's, or a new one where it sent none that is plain."""
        for key, value in self.metadata:
            if key == REQUEST_ID and isinstance(value, str) and _PLAIN_ID.fullmatch(value):
                return value
        return secrets.token_hex(8)

    @property
    def ids(self) -> dict[str, str]:
        """What a line of the log says of it."""
        ids = {"request_id": self.request_id}
        return ids | {"trace_id": self.trace.trace_id} if self.trace else ids

    def again(self) -> "Call":
        """Return another call with the same metadata."""
        return Call(self.metadata, like=self)

    def _texts(self, key: str) -> list[str]:
        """Return the texts that came with a key; where the metadata can, reading no other."""
        texts: Callable[[str], list[str]] | None = getattr(self.metadata, "texts", None)
        if texts is not None:
            return texts(key)
        return [text for name, text in self.metadata if name == key and isinstance(text, str)]

    def sent(self, key: str) -> bool:
        """Say whether it came with a key, whatever the value."""
        return any(name == key for name, _ in self.metadata)


NO_CALL = Call(())
_call: ContextVar[Call] = ContextVar("call", default=NO_CALL)


def bind_call(call: Call) -> None:
    """Make a call the current one, for all that is done for it."""
    _call.set(call)


def current_call() -> Call:
    """Return the call that is being answered; NO_CALL outside of any."""
    return _call.get()


def current_spans() -> Spans | None:
    """Return the spans of the call that is being answered; None where calls are not traced."""
    return _call.get().spans
