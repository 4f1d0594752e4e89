"""Load on one server: a closed loop, or arrivals that wait for nobody.

connections -> calls in flight -> latencies, and what the server's process used meanwhile

A window begins and ends with nothing in flight, so that every call's CPU time is counted once.
"""

import gc
import selectors
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from time import perf_counter, process_time

import numpy as np

from benchmarks.connection import CallFailed, Connection
from benchmarks.process_usage import cpu_seconds, peak_resident_bytes

STALL_S = 60.0
"""A server that answers nothing for so long has failed."""

OPENED_AT_ONCE = 16
"""Calls in flight while connections are opened."""

QUANTILES = (0, 1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 99, 99.5, 99.9, 100)


@dataclass(frozen=True)
class Closed:
    """So many calls in flight at any time, each answer starting the next call."""

    concurrency: int
    connections: int = 4


@dataclass(frozen=True)
class Open:
    """Poisson arrivals at `rate` calls a second, whatever the answers do."""

    rate: float
    connections: int = 16


@dataclass(frozen=True)
class LoadWindow:
    """What one stretch of load was like.

    Attributes:
        calls: answered, all with OK.
        seconds: from the first call to the last answer.
        quantiles_us: of the latency, at QUANTILES; in an open loop since the planned arrival.
        server_cpu_s: of the server's process and its children.
        client_cpu_s: of this process.
        peak_bytes: the most memory that the server held since its start.
    """

    calls: int
    seconds: float
    quantiles_us: tuple[float, ...]
    server_cpu_s: float
    client_cpu_s: float
    peak_bytes: int

    def latency_us(self, percent: float) -> float:
        """Return one of QUANTILES."""
        return self.quantiles_us[QUANTILES.index(percent)]


class _Calls:
    """Calls in flight over some connections, taken in turn."""

    def __init__(self, connections: list[Connection], selector: selectors.BaseSelector) -> None:
        self._selector, self._next = selector, cycle(connections)
        self._began: dict[tuple[Connection, int], float] = {}
        self.latencies: list[float] = []
        self._heard = perf_counter()
        for connection in connections:
            selector.register(connection, selectors.EVENT_READ, connection)

    def __len__(self) -> int:
        return len(self._began)

    def start(self, at: float) -> None:
        """Begin a call whose latency counts from `at`, on perf_counter."""
        connection = next(self._next)
        self._began[connection, connection.start()] = at
        self._flush(connection)

    def wait(self, timeout_s: float) -> int:
        """Wait for answers, or for the timeout; return how many came.

        Raises:
            CallFailed: a call failed, or calls have waited for STALL_S.
        """
        before = len(self.latencies)
        for key, _ in self._selector.select(timeout_s):
            connection = key.data
            for stream, _ in connection.finished():
                self.latencies.append(perf_counter() - self._began.pop((connection, stream)))
            self._flush(connection)
        came = len(self.latencies) - before
        if came or not self._began:
            self._heard = perf_counter()
        elif perf_counter() - self._heard > STALL_S:
            raise CallFailed(f"{len(self)} calls got no answer for {STALL_S:g} s")
        return came

    def _flush(self, connection: Connection) -> None:
        waits = selectors.EVENT_READ if connection.flush() else _BOTH
        if self._selector.get_key(connection).events != waits:
            self._selector.modify(connection, waits, connection)


_BOTH = selectors.EVENT_READ | selectors.EVENT_WRITE


def press(
    port: int, body: bytes, pattern: Closed | Open, seconds: float, server: int, seed: int = 0
) -> LoadWindow:
    """Send one request again and again for some seconds, and wait for the last answer.

    Args:
        port: of the server on this machine.
        body: the serialized ModelInferRequest.
        pattern: when to send.
        seconds: how long to send.
        server: id of its process.
        seed: of the arrivals.

    Raises:
        CallFailed: a call ended with another status than OK, or nothing came for STALL_S.
    """
    with _calls(port, body, pattern) as calls, _without_collector():
        used, own, began = cpu_seconds(server), process_time(), perf_counter()
        if isinstance(pattern, Closed):
            _closed(calls, pattern.concurrency, began + seconds)
        else:
            _open(calls, _arrivals(pattern.rate, seconds, seed) + began)
        ended = perf_counter()
        return LoadWindow(
            len(calls.latencies),
            ended - began,
            tuple(float(q) for q in np.percentile(np.array(calls.latencies) * 1e6, QUANTILES)),
            cpu_seconds(server) - used,
            process_time() - own,
            peak_resident_bytes(server),
        )


@contextmanager
def _calls(port: int, body: bytes, pattern: Closed | Open) -> Iterator[_Calls]:
    # select() waits for microseconds, epoll for milliseconds, but the latter takes any number.
    wait: Callable[[], selectors.BaseSelector] = (
        selectors.DefaultSelector if isinstance(pattern, Closed) else selectors.SelectSelector
    )
    connections = [Connection(port, body) for _ in range(pattern.connections)]
    try:
        with wait() as selector:
            calls = _Calls(connections, selector)
            _open_each(calls, pattern.connections)
            yield calls
    finally:
        for connection in connections:
            connection.close()


def _open_each(calls: _Calls, connections: int) -> None:
    """Make a call on every connection, so that no window has their handshakes in it."""
    for _ in range(connections):
        calls.start(perf_counter())
        while len(calls) >= OPENED_AT_ONCE:
            calls.wait(STALL_S)
    while calls:
        calls.wait(STALL_S)
    calls.latencies.clear()


@contextmanager
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _closed(calls: _Calls, concurrency: int, until: float) -> None:
    for _ in range(concurrency):
        calls.start(perf_counter())
    while calls:
        came = calls.wait(STALL_S)
        now = perf_counter()
        for _ in range(came if now < until else 0):
            calls.start(now)


def _open(calls: _Calls, arrivals: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> None:
    for arrival in arrivals:
        calls.wait(0)
        while (left := arrival - perf_counter()) > 0:
            calls.wait(left)
        calls.start(arrival)
    while calls:
        calls.wait(STALL_S)


def _arrivals(
    rate: float, seconds: float, seed: int
) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Return the times of a Poisson process, from 0 to `seconds`."""
    gaps = np.random.default_rng(seed).exponential(1 / rate, int(2 * rate * seconds) + 16)
    times = np.cumsum(gaps)
    return times[times < seconds]
