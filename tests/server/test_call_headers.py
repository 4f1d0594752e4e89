"""What is kept of headers says what headers that were never seen before say."""

import pytest

from nyquist.server.front.call_headers import LONGEST_KEPT, MOST_KEPT, CallHeaders, KnownHeaders
from nyquist.server.front.grpc_wire import Header
from nyquist.server.wire.connection import SOURCE
from nyquist.server.wire.errors import InvalidRequest, TooLarge

PLAIN: tuple[Header, ...] = ((b"content-type", b"application/grpc"), (b"te", b"trailers"))
TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def read(known: KnownHeaders, headers: tuple[Header, ...]) -> CallHeaders:
    return known.read(headers, dict(headers))


def test_the_same_headers_are_read_once_and_each_call_has_an_id_of_its_own() -> None:
    known = KnownHeaders(8192)
    probe = (SOURCE.encode(), b"probe")
    told = read(known, (*PLAIN, probe, (b"grpc-timeout", b"250m")))
    again = known.get((*PLAIN, probe, (b"grpc-timeout", b"250m")))
    assert again is told
    assert (told.timeout_s, told.encoding, told.refusal) == (0.25, b"identity", None)
    first, second = told.call.again(), told.call.again()
    assert first.source == second.source == "probe"
    assert first.request_id != second.request_id
    assert known.get((*PLAIN, probe, (b"grpc-timeout", b"251m"))) is None


@pytest.mark.parametrize(
    "header",
    [
        (b"authorization", b"Bearer 0123456789abcdef"),
        (b"x-request-id", b"one"),
        (b"traceparent", TRACE),
        (b"user-agent", b"x" * LONGEST_KEPT),
        (b"grpc-timeout", b"soon"),
        (b"user-agent", b"x" * 8192),
    ],
)
def test_nothing_is_kept_that_is_secret_or_large_or_refused_or_of_one_call(header: Header) -> None:
    known = KnownHeaders(8192)
    read(known, (*PLAIN, header))
    assert known.get((*PLAIN, header)) is None


def test_what_is_wrong_with_headers_is_told_with_each_call() -> None:
    known = KnownHeaders(100)
    assert isinstance(read(known, (*PLAIN, (b"grpc-timeout", b"soon"))).refusal, InvalidRequest)
    assert isinstance(read(known, (*PLAIN, (b"user-agent", b"x" * 100))).refusal, TooLarge)
    traced = read(known, (*PLAIN, (b"traceparent", TRACE))).call
    assert traced.trace is not None
    assert traced.again().trace == traced.trace


def test_a_caller_that_always_sends_others_does_not_fill_the_memory() -> None:
    known = KnownHeaders(8192)
    several = [(*PLAIN, (b"number", b"%d" % number)) for number in range(3 * MOST_KEPT)]
    for headers in several:
        read(known, headers)
    assert sum(known.get(headers) is not None for headers in several) <= MOST_KEPT
