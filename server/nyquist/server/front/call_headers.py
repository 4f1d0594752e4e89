"""What the headers of a gRPC call say, read once for all calls that bring the same ones.

headers -> CallHeaders -> kept, unless they are secret or of one call alone -> looked up
"""

from collections.abc import Mapping
from itertools import chain
from typing import NamedTuple

from nyquist.server.front.grpc_wire import Header, Metadata, parse_timeout
from nyquist.server.telemetry.current_call import REQUEST_ID, Call
from nyquist.server.wire.errors import InvalidRequest, NyquistError, TooLarge
from nyquist.server.wire.trace_context import TRACE_PARENT

NOT_KEPT = {REQUEST_ID.encode(), TRACE_PARENT.encode(), b"authorization"}
"""Names of headers that are another one's with each call, or that nobody should find later."""

MOST_KEPT = 256
LONGEST_KEPT = 2048
"""Bytes of all names and values: callers choose them, and they are kept."""


class CallHeaders(NamedTuple):
    """What headers say.

    Attributes:
        call: that came with them; another one of the same for each that comes again.
        encoding: of compressed messages.
        timeout_s: the caller's; None where it has none.
        refusal: of every call that brings them; None where nothing is wrong with them.
    """

    call: Call
    encoding: bytes
    timeout_s: float | None
    refusal: NyquistError | None


class KnownHeaders:
    """What the headers that came lately say; bounded, because callers choose them.

    Args:
        max_bytes: names and values of the headers of one call.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._known: dict[tuple[Header, ...], CallHeaders] = {}
        self.get = self._known.get

    def read(self, headers: tuple[Header, ...], found: Mapping[bytes, bytes]) -> CallHeaders:
        """Read headers, and keep what they say where another call may bring them again.

        Args:
            headers: as they came.
            found: the same by their names.
        """
        size = sum(map(len, chain.from_iterable(headers)))
        timeout_s, refusal = _timeout(found.get(b"grpc-timeout"))
        if size > self._max_bytes:
            refusal = TooLarge(f"the metadata is larger than {self._max_bytes} bytes")
        encoding = found.get(b"grpc-encoding", b"identity")
        told = CallHeaders(Call(Metadata(headers, found)), encoding, timeout_s, refusal)
        if refusal is None and size <= LONGEST_KEPT and NOT_KEPT.isdisjoint(found):
            if len(self._known) >= MOST_KEPT:
                self._known.clear()
            self._known[headers] = told
        return told


def _timeout(value: bytes | None) -> tuple[float | None, NyquistError | None]:
    if value is None:
        return None, None
    try:
        return parse_timeout(value), None
    except InvalidRequest as refusal:
        return None, refusal
