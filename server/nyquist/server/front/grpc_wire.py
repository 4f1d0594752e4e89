"""gRPC's part of an HTTP/2 request and of its answer; the rest is HTTP.

five bytes and a message, again and again -> messages ; headers -> metadata, time, status
"""

import binascii
import zlib
from collections.abc import Container, Iterator, Sequence
from urllib.parse import quote

import grpc

from nyquist.server.wire.errors import InvalidRequest, NotServed, TooLarge

Header = tuple[bytes, bytes]

PREFIX_BYTES = 5
LONGEST_TIMEOUT = 9
"""Eight digits and a unit."""

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}
_PLAIN = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What a grpc-message has as it is."""


class Metadata:
    """The headers of a call as pairs of texts, read when they are asked for.

    A value whose key ends in -bin is bytes; one that is no base64 is left out.

    Args:
        headers: as they came.
        keys: that are among them.
    """

    def __init__(self, headers: Sequence[Header], keys: Container[bytes]) -> None:
        self.headers, self._keys = headers, keys

    def texts(self, key: str) -> list[str]:
        """Return the values of a key that is text, and read no other."""
        name = key.encode()
        if name not in self._keys:  # as most often
            return []
        return [value.decode("latin-1") for found, value in self.headers if found == name]

    def __iter__(self) -> Iterator[tuple[str, str | bytes]]:
        for key, value in self.headers:
            if not key.endswith(b"-bin"):
                yield key.decode("latin-1"), value.decode("latin-1")
                continue
            for one in value.split(b","):  # proxies join what came as several
                try:
                    yield key.decode("latin-1"), binascii.a2b_base64(one + b"=" * (-len(one) % 4))
                except binascii.Error:
                    continue


def parse_timeout(value: bytes) -> float:
    """Return the seconds of a grpc-timeout.

    Raises:
        InvalidRequest: it is none.
    """
    digits, unit = value[:-1], _UNITS.get(value[-1:])
    if unit is None or not digits.isdigit() or len(value) > LONGEST_TIMEOUT:
        shown = value[:20].decode("latin-1")
        raise InvalidRequest(f"grpc-timeout is digits and a unit, as in 250m, got {shown!r}")
    return int(digits) * unit


def status_headers(code: grpc.StatusCode, details: str) -> list[Header]:
    """Return a status as trailers have it."""
    number: int = code.value[0]
    headers = [(b"grpc-status", b"%d" % number)]
    if details:
        text = quote(details, safe=_PLAIN)
        if text.strip(" ") != text:  # HTTP has no value that begins or ends with one
            text = text.replace(" ", "%20")
        headers.append((b"grpc-message", text.encode()))
    return headers


def framed(message: bytes) -> bytes:
    """Return a message with what stands before it."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def unpacked(message: bytes | memoryview, encoding: bytes, max_bytes: int) -> bytes:
    """Undo the compression of a message, and no further than it may be long.

    Raises:
        NotServed: this server does not know the encoding.
        InvalidRequest: the bytes are not what the encoding makes.
        TooLarge: it becomes longer than `max_bytes`.
    """
    bits = _WINDOW_BITS.get(encoding)
    if bits is None:
        raise NotServed(
            f"encoding {encoding[:20].decode('latin-1')!r} is not served; "
            "choose from identity, gzip, deflate"
        )
    inflate = zlib.decompressobj(bits)
    try:
        whole = inflate.decompress(message, max_bytes + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the message is no {encoding.decode()}") from error
    if len(whole) > max_bytes:
        raise TooLarge(f"the message has more than {max_bytes} bytes once decompressed")
    if not inflate.eof:
        raise InvalidRequest(f"the message is no whole {encoding.decode()}")
    return whole
