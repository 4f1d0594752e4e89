"""What HTTP/2 demands of a server, as frames and what must come of them.

    python -m tests.server.h2_cases HOST_PORT

Sections are those of RFC 9113, and of RFC 7541 where HPACK stands before them. An error of a stream
may be treated as one of the connection (RFC 9113, section 5.4.2), and a connection may be closed
without a word where it must be ended with one.
"""

import socket
import struct
import sys
from collections import Counter
from dataclasses import dataclass

from tests.server.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PREFACE,
    RESET,
    SETTINGS,
    frame,
)

PRIORITY, PUSH_PROMISE, PING, WINDOW_UPDATE, CONTINUATION, UNKNOWN = 2, 5, 6, 8, 9, 0x20
PADDED = 8
CODES = {
    "PROTOCOL_ERROR": 1,
    "FLOW_CONTROL_ERROR": 3,
    "STREAM_CLOSED": 5,
    "FRAME_SIZE_ERROR": 6,
    "COMPRESSION_ERROR": 9,
}
NAMES = {code: name for name, code in CODES.items()}
ANSWERED, SILENT = "answered", "nothing"
LAST = b"the last"


@dataclass(frozen=True)
class Case:
    """Frames, and what must come of them.

    Attributes:
        section: that demands it.
        what: is sent, after the settings of both sides.
        sent: its bytes.
        right: names of the errors, or an answer to stream 1, or nothing but the echo of a ping.
        preface: begins the connection.
    """

    section: str
    what: str
    sent: bytes
    right: tuple[str, ...]
    preface: bytes = PREFACE + frame(SETTINGS, 0, 0)


def literal(name: str, value: str) -> bytes:
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def number(value: int) -> bytes:
    return struct.pack(">I", value)


def setting(key: int, value: int) -> bytes:
    return frame(SETTINGS, 0, 0, struct.pack(">HI", key, value))


LIVE = literal(":path", "/v2/health/live")
INFER = literal(":path", "/v2/models/none/infer")
HOST = literal(":authority", "localhost")
GET = b"\x82\x86" + LIVE + HOST
"""A whole request without a body; \x82 and \x86 are GET and http in the static table."""
POST = b"\x83\x86" + INFER + HOST
BOTH = END_HEADERS | END_STREAM
REQUEST = frame(HEADERS, BOTH, 1, GET)
OPEN = frame(HEADERS, END_HEADERS, 1, POST)
"""A stream whose body is to come."""
DONE = frame(HEADERS, BOTH, 1, POST)
"""A stream whose body has come, empty."""
MOST = 2**31 - 1

PROTOCOL, SIZE, FLOW, CLOSED, HPACK = (
    ("PROTOCOL_ERROR",),
    ("FRAME_SIZE_ERROR",),
    ("FLOW_CONTROL_ERROR",),
    ("STREAM_CLOSED",),
    ("COMPRESSION_ERROR",),
)
EITHER = ("PROTOCOL_ERROR", "STREAM_CLOSED")
ANSWER = (ANSWERED,)


def bad(section: str, what: str, block: bytes, right: tuple[str, ...] = PROTOCOL) -> Case:
    """Return the case of a request with this block of headers."""
    return Case(section, what, frame(HEADERS, BOTH, 1, block), right)


CASES = (
    Case("3.4", "another preface", b"", PROTOCOL, b"PRI * HTTP/1.1\r\n\r\nXX\r\n\r\n"),
    Case("3.4", "a request, as soon as it may", REQUEST, ANSWER),
    Case("4.1", "a frame of an unknown kind", frame(UNKNOWN, 255, 0, b"x") + REQUEST, ANSWER),
    Case("4.1", "flags without a meaning", frame(PING, 0xFE, 0, b"01234567") + REQUEST, ANSWER),
    Case("4.1", "the reserved bit of a stream", frame(HEADERS, BOTH, 1 | 1 << 31, GET), ANSWER),
    Case("4.2", "DATA above the largest size", OPEN + frame(DATA, 0, 1, bytes(65537)), SIZE),
    Case("4.2", "HEADERS above the largest size", frame(HEADERS, BOTH, 1, bytes(65537)), SIZE),
    bad("4.3", "a header block that ends in the middle", GET + b"\0\x05ab", HPACK),
    Case(
        "4.3",
        "PRIORITY inside a header block",
        frame(HEADERS, END_STREAM, 1, GET) + frame(PRIORITY, 0, 1, bytes(5)),
        PROTOCOL,
    ),
    Case(
        "4.3",
        "HEADERS of another stream inside a header block",
        frame(HEADERS, END_STREAM, 1, GET) + frame(HEADERS, BOTH, 3, GET),
        PROTOCOL,
    ),
    Case("5.1", "DATA of an idle stream", frame(DATA, 0, 1, b"x"), PROTOCOL),
    Case("5.1", "RST_STREAM of an idle stream", frame(RESET, 0, 1, number(8)), PROTOCOL),
    Case("5.1", "WINDOW_UPDATE of an idle stream", frame(WINDOW_UPDATE, 0, 1, number(9)), PROTOCOL),
    Case("5.1", "CONTINUATION of an idle stream", frame(CONTINUATION, 4, 1, GET), PROTOCOL),
    Case("5.1", "DATA after the end", DONE + frame(DATA, 0, 1, b"x"), CLOSED),
    Case("5.1", "HEADERS after the end", DONE + frame(HEADERS, BOTH, 1, POST), CLOSED),
    Case("5.1", "CONTINUATION after the end", DONE + frame(CONTINUATION, 4, 1, b""), EITHER),
    Case(
        "5.1",
        "DATA after RST_STREAM",
        OPEN + frame(RESET, 0, 1, number(8)) + frame(DATA, 0, 1, b"x"),
        CLOSED,
    ),
    Case(
        "5.1",
        "HEADERS after RST_STREAM",
        OPEN + frame(RESET, 0, 1, number(8)) + frame(HEADERS, BOTH, 1, POST),
        EITHER,
    ),
    Case("5.1.1", "a stream with an even number", frame(HEADERS, BOTH, 2, GET), PROTOCOL),
    Case(
        "5.1.1",
        "a number below the last one",
        frame(HEADERS, BOTH, 5, GET) + frame(HEADERS, BOTH, 3, GET),
        EITHER,
    ),
    Case(
        "5.5",
        "an unknown frame inside a header block",
        frame(HEADERS, END_STREAM, 1, GET) + frame(UNKNOWN, 0, 1, b"x"),
        PROTOCOL,
    ),
    Case("6.1", "DATA of stream 0", frame(DATA, 0, 0, b"x"), PROTOCOL),
    Case("6.1", "more padding than DATA", OPEN + frame(DATA, PADDED, 1, b"\x09x"), PROTOCOL),
    Case("6.2", "HEADERS of stream 0", frame(HEADERS, BOTH, 0, GET), PROTOCOL),
    Case(
        "6.2",
        "more padding than HEADERS",
        frame(HEADERS, BOTH | PADDED, 1, b"\xff" + GET),
        PROTOCOL,
    ),
    Case("6.3", "PRIORITY of stream 0", frame(PRIORITY, 0, 0, bytes(5)), PROTOCOL),
    Case("6.3", "PRIORITY of four bytes", frame(PRIORITY, 0, 1, bytes(4)), SIZE),
    Case("6.4", "RST_STREAM of stream 0", frame(RESET, 0, 0, number(8)), PROTOCOL),
    Case("6.4", "RST_STREAM of three bytes", OPEN + frame(RESET, 0, 1, bytes(3)), SIZE),
    Case("6.5", "SETTINGS that acknowledge and set", frame(SETTINGS, ACK, 0, bytes(6)), SIZE),
    Case("6.5", "SETTINGS of a stream", frame(SETTINGS, 0, 1, bytes(6)), PROTOCOL),
    Case("6.5", "SETTINGS of five bytes", frame(SETTINGS, 0, 0, bytes(5)), SIZE),
    Case("6.5.2", "ENABLE_PUSH of 2", setting(2, 2), PROTOCOL),
    Case("6.5.2", "a window above 2 ** 31 - 1", setting(4, 2**31), FLOW),
    Case("6.5.2", "MAX_FRAME_SIZE of 16,383", setting(5, 16383), PROTOCOL),
    Case("6.5.2", "MAX_FRAME_SIZE of 2 ** 24", setting(5, 2**24), PROTOCOL),
    Case("6.5.2", "an unknown setting", setting(0x99, 1) + REQUEST, ANSWER),
    Case("6.6", "PUSH_PROMISE of a client", OPEN + frame(PUSH_PROMISE, 4, 1, number(2)), PROTOCOL),
    Case("6.7", "an acknowledged PING", frame(PING, ACK, 0, b"01234567") + REQUEST, ANSWER),
    Case("6.7", "PING of a stream", frame(PING, 0, 1, bytes(8)), PROTOCOL),
    Case("6.7", "PING of six bytes", frame(PING, 0, 0, bytes(6)), SIZE),
    Case("6.8", "GOAWAY of a stream", frame(GOAWAY, 0, 1, bytes(8)), PROTOCOL),
    Case("6.9", "WINDOW_UPDATE by 0", frame(WINDOW_UPDATE, 0, 0, number(0)), PROTOCOL),
    Case(
        "6.9", "WINDOW_UPDATE by 0, stream", OPEN + frame(WINDOW_UPDATE, 0, 1, number(0)), PROTOCOL
    ),
    Case("6.9", "WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, bytes(3)), SIZE),
    Case(
        "6.9.1", "a window of more than 2 ** 31 - 1", frame(WINDOW_UPDATE, 0, 0, number(MOST)), FLOW
    ),
    Case(
        "6.9.1",
        "a stream's window of more than 2 ** 31 - 1",
        OPEN + frame(WINDOW_UPDATE, 0, 1, number(MOST)),
        FLOW,
    ),
    Case(
        "6.9.2",
        "a setting that takes a stream's window above 2 ** 31 - 1",
        OPEN + frame(WINDOW_UPDATE, 0, 1, number(MOST - 65535)) + setting(4, 65536),
        FLOW,
    ),
    Case(
        "6.10",
        "a header block in three frames",
        frame(HEADERS, END_STREAM, 1, GET[:9])
        + frame(CONTINUATION, 0, 1, GET[9:20])
        + frame(CONTINUATION, END_HEADERS, 1, GET[20:]),
        ANSWER,
    ),
    Case(
        "6.10",
        "CONTINUATION of stream 0",
        frame(HEADERS, END_STREAM, 1, GET) + frame(CONTINUATION, 4, 0, b""),
        PROTOCOL,
    ),
    Case(
        "6.10",
        "CONTINUATION of another stream",
        frame(HEADERS, END_STREAM, 1, GET) + frame(CONTINUATION, 4, 3, b""),
        PROTOCOL,
    ),
    Case(
        "6.10",
        "DATA inside a header block",
        frame(HEADERS, 0, 1, POST) + frame(DATA, 0, 1, b"x"),
        PROTOCOL,
    ),
    bad("8.2.1", "a name in capitals", GET + literal("X-Up", "1")),
    bad("8.2.2", "connection", GET + literal("connection", "keep-alive")),
    bad("8.2.2", "te that is not trailers", GET + literal("te", "gzip")),
    bad("8.3", "an unknown pseudo-header", GET + literal(":test", "1")),
    bad("8.3", "a pseudo-header of answers", GET + literal(":status", "200")),
    bad("8.3", "a pseudo-header after others", b"\x82\x86" + literal("x-one", "1") + LIVE + HOST),
    bad("8.3.1", "no :method", b"\x86" + LIVE + HOST),
    bad("8.3.1", "no :scheme", b"\x82" + LIVE + HOST),
    bad("8.3.1", "no :path", b"\x82\x86" + HOST),
    bad("8.3.1", "an empty :path", b"\x82\x86" + literal(":path", "") + HOST),
    bad("8.3.1", ":method twice", b"\x82" + GET),
    Case(
        "8.1.1",
        "less of a body than its content-length",
        frame(HEADERS, END_HEADERS, 1, POST + literal("content-length", "9"))
        + frame(DATA, END_STREAM, 1, b"x"),
        PROTOCOL,
    ),
    Case(
        "8.1",
        "trailers with a pseudo-header",
        OPEN + frame(HEADERS, BOTH, 1, literal(":method", "POST")),
        PROTOCOL,
    ),
    bad("HPACK 2.3.3", "an index beyond the tables", GET + b"\xff\x80\x01", HPACK),
    bad("HPACK 6.1", "index 0", GET + b"\x80", HPACK),
    bad("HPACK 4.2", "a new table size behind a field", GET + b"\x20", HPACK),
    bad("HPACK 6.3", "a table size above the setting", b"\x3f\xe1\xff\x03" + GET, HPACK),
    bad("HPACK 5.2", "eight bits of Huffman padding", GET + b"\0\x01x\x82\x1f\xff", HPACK),
    bad("HPACK 5.2", "Huffman padding of zeros", GET + b"\0\x01x\x81\x18", HPACK),
    bad("HPACK 5.2", "the end symbol in a string", GET + b"\0\x01x\x84\xff\xff\xff\xff", HPACK),
)


def outcome(port: int, case: Case) -> str:
    """Send a case, and tell what came of it: errors' names, an answer, or nothing."""
    wants_answer = case.right == ANSWER
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connected:
        stream = connected.makefile("rb")
        try:
            connected.sendall(case.preface + case.sent)
            if not wants_answer:
                connected.sendall(frame(PING, 0, 0, bytes(8)) + frame(PING, 0, 0, LAST))
            while len(head := stream.read(9)) == 9:
                body = stream.read(int.from_bytes(head[:3], "big"))
                kind, flags, number_ = head[3], head[4], int.from_bytes(head[5:9], "big")
                if kind == GOAWAY:
                    return name_of(body[4:8])
                if kind == RESET:
                    return name_of(body)
                if kind == HEADERS and number_ == 1 and wants_answer:
                    return ANSWERED
                if kind == PING and flags & ACK and body == LAST:
                    return SILENT
        except ConnectionError:
            pass
    return "closed"


def name_of(code: bytes) -> str:
    value = int.from_bytes(code, "big")
    return NAMES.get(value, f"error {value}")


def passes(case: Case, came: str) -> bool:
    return came in case.right or (came == "closed" and case.right != ANSWER)


def main() -> int:
    port = int(sys.argv[1].rpartition(":")[2])
    passed, failed = Counter[str](), Counter[str]()
    for case in CASES:
        came = outcome(port, case)
        (passed if passes(case, came) else failed)[case.section] += 1
        if not passes(case, came):
            sys.stdout.write(f"{case.section}: {case.what}: {came}, not {case.right}\n")
    for section in dict.fromkeys(case.section for case in CASES):
        sys.stdout.write(f"{section}: {passed[section]} passed, {failed[section]} failed\n")
    sys.stdout.write(f"{passed.total()} of {len(CASES)} passed\n")
    return int(failed.total() > 0)


if __name__ == "__main__":
    raise SystemExit(main())
