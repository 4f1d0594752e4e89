"""The bytes of one request, read no further than they have to be.

body -> fields -> head, id, raw contents           (a walk over the fields; nothing is parsed)
     -> ModelInferRequest                          (the first time that a head comes)

The head is the request without its id and its one raw_input_contents: names, shape, options.
Two requests with one head are the same request for other pictures, and a caller sends the same head
again and again. So what has once been parsed, by protobuf, and checked is looked up from then on.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError

from nyquist.server.wire.envelope import NO_REQUEST, opened
from nyquist.server.wire.errors import InvalidRequest
from nyquist.server.wire.pb import inference_pb2 as pb

ID_TAG = 3 << 3 | 2
RAW_TAG = 7 << 3 | 2
LAST_TAG = 15 << 3 | 7
"""Tags of one byte; no field of the message has a longer one."""

LENGTH_DELIMITED = 2
LONGEST_HEAD = 1024
LONGEST_REST = 2 * LONGEST_HEAD + 32
"""What such a request has beside its raw contents: the head, its id, two tags and lengths."""
HEADS = 256
LONG_BYTES = 1 << 20
"""A request that is longer is read in a thread: no step of that holds the others up for long."""

Known = TypeVar("Known")


class Heads(Generic[Known]):
    """What is known of the heads that came lately; bounded, because callers choose their heads."""

    def __init__(self) -> None:
        self._known: dict[bytes, Known] = {}
        self.get = self._known.get

    def remember(self, head: bytes, known: Known) -> None:
        """Keep what is known of a head, unless the request has none."""
        if not head:
            return
        if len(self._known) >= HEADS:
            self._known.clear()
        self._known[head] = known


class Requests:
    """Reads requests, and does not walk over one that is laid out like an earlier one.

    As most are: as long as that, and the same up to the raw contents, which end both of them.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[bytes, bytes]] = {}

    def read(self, body: bytes | memoryview) -> "Incoming":
        """Return a request by its bytes."""
        before, head = self._known.get(len(body), (b"", b""))
        if head and bytes(body[: len(before)]) == before:
            return Incoming(body, head, len(before))
        request = Incoming(body)
        if request.head and not request.id_bytes and request.start + request.size == len(body):
            if len(self._known) >= HEADS:
                self._known.clear()
            self._known[len(body)] = bytes(body[: request.start]), request.head
        return request


class Incoming:
    """A request as it came.

    Args:
        body: of the message.
        head: where it is known already.
        start: likewise; the raw contents end the body.

    Attributes:
        body: of the message.
        head: of the request; empty where it has none, and must be parsed.
        id_bytes: the caller's id for it, if there is a head.
        start: of the raw contents in the body, likewise.
        size: of the raw contents, in bytes.
    """

    def __init__(self, body: bytes | memoryview, head: bytes = b"", start: int = 0) -> None:
        self.body, self.head, self.id_bytes, self.start = body, head, b"", start
        self.size = len(body) - start if head else 0
        if head:
            return
        try:
            self._walk(body)
        except IndexError:  # cut off; protobuf says so to the caller
            self.head = b""

    def _walk(self, body: bytes | memoryview) -> None:
        """Find the head, if every field stands once and is whole, and there is one raw content."""
        at, copied, end = 0, 0, len(body)
        head, ids = b"", 0
        while at < end and at - self.size <= LONGEST_REST:
            field, tag, length = at, body[at], body[at + 1]
            at += 2
            if length > 0x7F:
                length, at = _long_length(body, at - 1)
            at += length
            if tag & 7 != LENGTH_DELIMITED or tag > LAST_TAG or at > end:
                return
            if tag == RAW_TAG:
                if self.start:
                    return
                self.start, self.size = at - length, length
            elif tag == ID_TAG:
                self.id_bytes, ids = bytes(body[at - length : at]), ids + 1
            else:
                continue
            head += bytes(body[copied:field])
            copied = at
        head += bytes(body[copied : copied + LONGEST_REST])  # all of it, or more than may be
        short = len(head) <= LONGEST_HEAD and len(self.id_bytes) <= LONGEST_HEAD
        if self.start and ids < 2 and short and self.id_bytes.isascii():
            self.head = head

    @property
    def id(self) -> str:
        """The caller's id for the request; empty where it has none."""
        return self.id_bytes.decode() if self.head else self.message.id

    @cached_property
    def message(self) -> pb.ModelInferRequest:
        """The whole of it; of a long request without its raw contents.

        Raises:
            InvalidRequest: the bytes are no such message, or one that is not parsed for its size.
        """
        return self._opened[0]

    @cached_property
    def raw(self) -> Sequence[bytes | memoryview]:
        """Its raw contents; raises as `message` does."""
        message, views = self._opened
        return message.raw_input_contents if views is None else views

    @cached_property
    def _opened(self) -> tuple[pb.ModelInferRequest, list[memoryview] | None]:
        parsed, views = opened(self.body)
        try:
            return pb.ModelInferRequest.FromString(parsed), views  # type: ignore[arg-type] # a view will do
        except DecodeError as error:
            raise InvalidRequest(NO_REQUEST) from error


def _long_length(body: bytes | memoryview, at: int) -> tuple[int, int]:
    """Read a length of several bytes; return it and where it ends. Too long a one leads nowhere."""
    length = shift = 0
    while True:
        byte = body[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte <= 0x7F or shift > 35:
            return length, at
