"""What a request has beside its contents is measured before it is parsed, and so is what is packed.

Counted is how many bytes are looked at, whatever the size of the message.
"""

from typing import Any

import pytest
from google.protobuf.message import DecodeError

from nyquist.server.wire.envelope import ENVELOPE_BYTES, PACKED_BYTES
from nyquist.server.wire.errors import InvalidRequest
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.request_head import Incoming

KIB = 1024
MIB = 1024 * KIB
BESIDE = "more than 65536 bytes beside the contents"
PACKED = "bytes of whole numbers or flags in typed contents, most are 8388608"
NO_REQUEST = "no inference.ModelInferRequest"


def varint(number: int) -> bytes:
    low = bytes([number & 0x7F | 0x80 * (number > 0x7F)])
    return low + varint(number >> 7) if number > 0x7F else low


def field(number: int, body: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(body)) + body


def an_input(*more: bytes) -> bytes:
    return field(5, field(1, b"image") + field(2, b"FP32") + b"".join(more))


class Counted(bytes):
    """A message that counts how often a byte of it is looked at."""

    looks = 0

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return super().__getitem__(at)


MODEL, RAW = field(1, b"fashion_strided"), field(7, bytes(9216))
MANY: dict[str, tuple[bytes, str]] = {
    "dims": (MODEL + an_input(field(3, b"\1" * MIB)) + RAW, BESIDE),
    "dims, one by one": (MODEL + an_input(b"\x18\1" * MIB) + RAW, BESIDE),
    "name of an input": (MODEL + field(5, field(1, b"x" * MIB)) + RAW, BESIDE),
    "name of a model": (field(1, b"y" * MIB), BESIDE),
    "id": (MODEL + field(3, b"i" * MIB) + an_input() + RAW, BESIDE),
    "ids": (MODEL + b"\x1a\0" * MIB, BESIDE),
    "inputs": (MODEL + b"\x2a\0" * MIB + RAW, BESIDE),
    "outputs": (MODEL + an_input() + b"\x32\0" * MIB + RAW, BESIDE),
    "raw contents": (MODEL + an_input() + b"\x3a\0" * MIB, BESIDE),
    "parameters": (MODEL + field(4, field(1, b"k")) * (MIB // 5), BESIDE),
    "parameters of an input": (MODEL + an_input(field(4, field(1, b"k")) * (MIB // 5)), BESIDE),
    "empty files": (MODEL + an_input(field(5, b"\x42\0" * MIB)), BESIDE),
    "numbers, one by one": (MODEL + an_input(field(5, b"\x10\1" * MIB)), BESIDE),
    "unknown fields": (MODEL + b"\xfd\7\0\0\0\0" * (MIB // 6), BESIDE),
    "groups": (MODEL + b"\x7b\x7c" * MIB, NO_REQUEST),
    "a tag without end": (MODEL + b"\xff" * MIB, NO_REQUEST),
    "a length that points behind the end": (b"\x3a" + varint(1 << 40) + bytes(MIB), NO_REQUEST),
    "an input that is longer than it": (b"\x2a\7\x0a\x20" + bytes(MIB), NO_REQUEST),
    "packed numbers": (MODEL + an_input(field(5, field(2, bytes(PACKED_BYTES + 1)))), PACKED),
    "packed flags of two inputs": (
        MODEL + an_input(field(5, field(1, bytes(PACKED_BYTES // 2 + 1)))) * 2,
        PACKED,
    ),
}


@pytest.mark.parametrize("many", MANY)
def test_what_takes_long_to_parse_or_to_tell_is_refused_by_its_first_bytes(many: str) -> None:
    body, told = MANY[many]
    message = Counted(body)
    with pytest.raises(InvalidRequest, match=told):
        assert Incoming(message).message
    assert message.looks < 3 * ENVELOPE_BYTES


LARGE = {
    "raw contents": MODEL + an_input(field(3, b"\1\1\x30\x30")) + field(7, bytes(9 * MIB)),
    "raw contents of two inputs": MODEL + an_input() * 2 + field(7, bytes(MIB)) * 2,
    "typed floats": MODEL + an_input(field(5, field(6, bytes(9 * MIB)))),
    "typed numbers": MODEL + an_input(field(5, field(4, bytes(PACKED_BYTES)))),
    "files": MODEL + an_input(field(5, field(8, bytes(10 * KIB)) * 1000)),
    "an envelope": field(1, b"y" * (64 * KIB - 4 - 3)) + RAW,
}


@pytest.mark.parametrize("large", LARGE)
def test_what_is_large_in_its_contents_alone_is_parsed(large: str) -> None:
    request, whole = Incoming(LARGE[large]), pb.ModelInferRequest.FromString(LARGE[large])
    assert list(request.raw) == list(whole.raw_input_contents)
    assert all(isinstance(one, memoryview) and one.obj is LARGE[large] for one in request.raw)
    del whole.raw_input_contents[:]
    assert request.message == whole


def test_a_long_message_that_is_cut_off_anywhere_is_no_request() -> None:
    body = MODEL + an_input(field(5, field(6, bytes(128 * KIB)))) + RAW
    for end in (70 * KIB, len(body) - 1, len(body) - len(RAW) + 1):
        with pytest.raises(DecodeError):
            pb.ModelInferRequest.FromString(body[:end])
        with pytest.raises(InvalidRequest, match=NO_REQUEST):
            assert Incoming(body[:end]).message
