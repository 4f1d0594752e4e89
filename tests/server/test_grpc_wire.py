import gzip
import zlib
from urllib.parse import unquote

import grpc
import pytest

from nyquist.server.front.grpc_wire import (
    Metadata,
    framed,
    parse_timeout,
    status_headers,
    unpacked,
)
from nyquist.server.wire.errors import InvalidRequest, NotServed, TooLarge


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (b"1H", 3600.0),
        (b"2M", 120.0),
        (b"30S", 30.0),
        (b"250m", 0.25),
        (b"99999999u", 99.999999),
        (b"7n", 7e-9),
    ],
)
def test_a_timeout_is_digits_and_a_unit(sent: bytes, seconds: float) -> None:
    assert parse_timeout(sent) == pytest.approx(seconds)


@pytest.mark.parametrize("sent", [b"", b"1", b"S", b"-1S", b"1.5S", b"123456789S", b"1s", b" 1S"])
def test_what_is_no_timeout_is_the_callers_fault(sent: bytes) -> None:
    with pytest.raises(InvalidRequest, match="250m"):
        parse_timeout(sent)


@pytest.mark.parametrize("details", ["plain", "100 %", "a\nb", " ä, 図 ", "\x7f", ""])
def test_details_travel_as_printable_ascii(details: str) -> None:
    (_, number), *message = status_headers(grpc.StatusCode.NOT_FOUND, details)
    assert number == b"5"
    sent = b"".join(value for _, value in message).decode("ascii")
    assert unquote(sent) == details
    assert sent == sent.strip()
    assert sent.isprintable()


@pytest.mark.parametrize(
    ("encoding", "pack"), [(b"gzip", gzip.compress), (b"deflate", zlib.compress)]
)
def test_a_message_is_unpacked_up_to_its_bound(encoding: bytes, pack: object) -> None:
    assert callable(pack)
    assert unpacked(pack(bytes(1000)), encoding, 1000) == bytes(1000)
    with pytest.raises(TooLarge, match="1000"):
        unpacked(pack(bytes(1001)), encoding, 1000)
    with pytest.raises(InvalidRequest):
        unpacked(pack(b"whole")[:-3], encoding, 1000)
    with pytest.raises(InvalidRequest):
        unpacked(b"no such thing", encoding, 1000)


def test_an_encoding_that_is_not_known_is_not_served() -> None:
    with pytest.raises(NotServed, match="identity, gzip, deflate"):
        unpacked(b"", b"br", 1000)


def test_a_frame_has_the_length_of_its_message() -> None:
    assert framed(b"abc") == b"\0\0\0\0\3abc"


def test_metadata_is_text_or_under_a_binary_key_bytes() -> None:
    headers = [(b"a", b"b"), (b"k-bin", b"AAE"), (b"k-bin", b"AAE=,/w"), (b"bad-bin", b"A")]
    assert list(Metadata(headers, dict(headers))) == [
        ("a", "b"),
        ("k-bin", b"\0\1"),
        ("k-bin", b"\0\1"),
        ("k-bin", b"\xff"),
    ]
