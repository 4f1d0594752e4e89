"""The W3C trace context of a call. traceparent -> TraceContext."""

import re
from dataclasses import dataclass

TRACE_PARENT = "traceparent"
SAMPLED = 1

_PARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-"
    r"(?P<flags>[0-9a-f]{2})(-.*)?"
)


@dataclass(frozen=True, slots=True)
class TraceContext:
    """What a caller says of the trace that its call belongs to.

    Attributes:
        trace_id: 32 hexadecimal digits.
        sampled: whether the caller records the trace.
    """

    trace_id: str
    sampled: bool


def parse_trace_parent(text: str) -> TraceContext | None:
    """Parse a traceparent header; None for what is none. https://www.w3.org/TR/trace-context."""
    found = _PARENT.fullmatch(text)
    if found is None:
        return None
    return TraceContext(found["trace"], bool(int(found["flags"], 16) & SAMPLED))
