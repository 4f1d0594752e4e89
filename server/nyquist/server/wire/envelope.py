"""What a request has beside its tensors' contents, measured before any of it is parsed.

body -> a walk over its fields, which ends where there is too much -> what protobuf parses, and the
raw contents, which nobody copies

A byte of names, shapes and parameters costs the parser, and whoever tells what is wrong with them,
up to a hundred times what a byte of contents costs: 60 MiB of them would hold all callers for
seconds. Nothing that means well has much of them.
"""

from collections.abc import Iterator

from nyquist.server.wire.errors import InvalidRequest

ENVELOPE_BYTES = 64 * 1024
"""What a request has beside its contents: names, shapes, parameters; tags and lengths of all."""

PACKED_BYTES = 8 * 1024 * 1024
"""Of typed contents of whole numbers and flags, which are parsed number by number: 0.05 s."""

NO_REQUEST = "the request is no inference.ModelInferRequest"

_INPUT, _RAW = 5 << 3 | 2, 7 << 3 | 2
_CONTENTS = 5 << 3 | 2
_PACKED = range(1, 6)
_TYPED = range(1, 9)
"""Numbers of the fields of InferTensorContents: those of varints, and all."""
_VARINT, _DOUBLE, _DELIMITED, _FLOAT = 0, 1, 2, 5
_LONGEST_VARINT = 10


def opened(body: bytes | memoryview) -> tuple[bytes | memoryview, list[memoryview] | None]:
    """Return what of a request is parsed, and beside it its raw contents, as views.

    Of a short request all is parsed, and there is None beside it.

    Raises:
        InvalidRequest: it has more than ENVELOPE_BYTES beside its contents, more than PACKED_BYTES
            of varints in them, or is no message.
    """
    if len(body) <= ENVELOPE_BYTES:
        return body, None
    try:
        return _Walk(body).request()
    except IndexError as error:
        raise InvalidRequest(NO_REQUEST) from error


class _Walk:
    """Goes through a request, and counts what of it is contents."""

    def __init__(self, body: bytes | memoryview) -> None:
        self._body, self._contents, self._packed = body, 0, 0

    def request(self) -> tuple[bytes | memoryview, list[memoryview]]:
        view, began, parts, raw = memoryview(self._body), 0, [], []
        for tag, start, end in self._fields(0, len(self._body)):
            if tag == _RAW:
                self._contents += end - start
                raw.append(view[start:end])
            else:
                parts.append(view[began:end])
                if tag == _INPUT:
                    self._input(start, end)
            began = end
        return (b"".join(parts) if raw else self._body), raw

    def _input(self, start: int, end: int) -> None:
        for tag, at, stop in self._fields(start, end):
            if tag == _CONTENTS:
                self._typed(at, stop)

    def _typed(self, start: int, end: int) -> None:
        for tag, at, stop in self._fields(start, end):
            if tag & 7 != _DELIMITED or tag >> 3 not in _TYPED:
                continue
            self._contents += stop - at
            if tag >> 3 in _PACKED:
                self._packed += stop - at
                if self._packed > PACKED_BYTES:
                    raise InvalidRequest(
                        f"the request has {self._packed} bytes of whole numbers or flags in typed "
                        f"contents, most are {PACKED_BYTES}; send them as raw_input_contents"
                    )

    def _fields(self, at: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield tag, start and end of each field; its caller counts what of it is contents."""
        while at < end:
            tag, at = self._varint(at)
            kind = tag & 7
            if kind == _DELIMITED:
                length, at = self._varint(at)
                stop = at + length
            elif kind == _VARINT:
                stop = self._varint(at)[1]
            elif kind in (_DOUBLE, _FLOAT):
                stop = at + (8 if kind == _DOUBLE else 4)
            else:
                raise InvalidRequest(NO_REQUEST)  # a group, which proto3 does not have
            if stop > end:
                raise InvalidRequest(NO_REQUEST)
            yield tag, at, stop
            at = stop
            if at - self._contents > ENVELOPE_BYTES:
                raise InvalidRequest(
                    f"the request has more than {ENVELOPE_BYTES} bytes beside the contents of its "
                    "tensors: names, shapes, parameters"
                )

    def _varint(self, at: int) -> tuple[int, int]:
        """Read a number, and return it and where it ends."""
        value = 0
        for place in range(_LONGEST_VARINT):
            byte = self._body[at + place]
            value |= (byte & 0x7F) << 7 * place
            if byte <= 0x7F:
                return value, at + place + 1
        raise InvalidRequest(NO_REQUEST)
