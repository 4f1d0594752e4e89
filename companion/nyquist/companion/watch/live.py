"""What the server answers now, of its own metrics: read every few seconds, 15 minutes kept.

address -> readings -> of each version: the last minute, and how it came to that
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from threading import Event, Lock

from nyquist.client.load import Load, Reading, Version, load

logger = logging.getLogger(__name__)

PERIOD_S = 5.0
READINGS = 181
MINUTE = 12
"""Readings that the figures are over."""

STEP = 3
"""Readings from one point of a line to the next, so that a bucket of the histogram is no noise."""


@dataclass(frozen=True)
class Live:
    """A version under load. Callers' requests alone; those of a companion are not counted.

    Attributes:
        version: its name and number.
        now: of the last minute.
        waiting: requests that wait, at the last reading.
        rates: requests a second, the oldest first, of 15 minutes at most.
        p99s_s: likewise the time that 99 of 100 took at most; None where there were none.
    """

    version: Version
    now: Load
    waiting: int
    rates: tuple[float, ...]
    p99s_s: tuple[float | None, ...]


class LiveLoad:
    """Keeps the latest readings; safe to use from several threads.

    Args:
        read: reads the metrics, and raises ValueError with the reason where it cannot; None: they
            are not to be read.
        address: of the metrics, for people.
    """

    def __init__(self, read: Callable[[], Reading] | None, address: str) -> None:
        self.address = address
        self._read = read
        self._readings: deque[Reading] = deque(maxlen=READINGS)
        self._reason = "" if read else "they are not read"
        self._lock = Lock()

    def run(self, stopped: Event, look: Callable[[], None]) -> None:
        """Look every few seconds until `stopped` is set.

        Args:
            stopped: that ends it.
            look: this one's, with a rest behind it.
        """
        while self._read is not None and not stopped.is_set():
            look()
            stopped.wait(PERIOD_S)

    def look(self) -> None:
        """Take a reading; a server that is away is noted, and logged once."""
        if self._read is None:
            return
        try:
            reading = self._read()
        except ValueError as error:
            if not self._reason:
                logger.warning("%s", error)
            with self._lock:
                self._readings.clear()
                self._reason = str(error)
            return
        with self._lock:
            self._readings.append(reading)
            self._reason = ""

    @property
    def reason(self) -> str:
        """Why there are no figures; empty where there are."""
        with self._lock:
            if self._reason:
                return self._reason
            if len(self._readings) < 2:
                return "they were not read twice yet"
            return "" if self._readings[-1].buckets else "no figures of models are among them"

    def versions(self) -> tuple[Live, ...]:
        """Return every version that the server has loaded, by name and number."""
        with self._lock:
            readings = tuple(self._readings)
        if len(readings) < 2:
            return ()
        return tuple(_live(version, readings) for version in sorted(readings[-1].buckets))


def _live(version: Version, readings: tuple[Reading, ...]) -> Live:
    latest, before = readings[-1], readings[max(0, len(readings) - 1 - MINUTE)]
    steps = [_load(version, now, then) for then, now in pairwise(readings[::-STEP][::-1])]
    return Live(
        version=version,
        now=_load(version, latest, before),
        waiting=round(latest.waiting.get(version, 0.0)),
        rates=tuple(step.rate or 0.0 for step in steps),
        p99s_s=tuple(step.p99_s for step in steps),
    )


def _load(version: Version, now: Reading, before: Reading) -> Load:
    return load(version, now, before) or Load(0, 0.0, 0.0, None, None)
