"""When requests come: rate -> times in seconds, ascending, from 0 on."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

DRAWN_AT_ONCE = 4096


class Arrivals(Protocol):
    """A kind of traffic."""

    def times(self, rate: float, rng: np.random.Generator) -> Iterator[float]:
        """Yield the times of requests, `rate` of them a second on average."""
        ...


@dataclass(frozen=True)
class Poisson:
    """Many clients that know nothing of each other."""

    def times(self, rate: float, rng: np.random.Generator) -> Iterator[float]:
        now = 0.0
        while True:
            times = now + np.cumsum(rng.exponential(1 / rate, DRAWN_AT_ONCE))
            yield from times.tolist()
            now = float(times[-1])


@dataclass(frozen=True)
class Bursty:
    """Calm and bursts in turns, each Poisson: a Markov-modulated Poisson process of two states.

    Attributes:
        factor: by how much more comes in a burst than on average, over 1.
        share: of the time that is burst, below 1 / factor.
        burst_s: length of a burst, on average.

    Raises:
        ValueError: bursts would bring more than comes.
    """

    factor: float = 3.0
    share: float = 0.1
    burst_s: float = 0.1

    def __post_init__(self) -> None:
        if self.factor <= 1 or not 0 < self.share < 1 or self.burst_s <= 0:
            raise ValueError(
                "a burst has a factor over 1, a share between 0 and 1 and a length over 0 s, got "
                f"{self.factor:g}, {self.share:g} and {self.burst_s:g} s"
            )
        if self.factor * self.share >= 1:
            raise ValueError(
                f"bursts of {self.factor:g} times the rate for {self.share:g} of the time bring "
                f"more than all requests; their product is below 1"
            )

    @property
    def cycle_s(self) -> float:
        """From the beginning of a burst to that of the next, on average."""
        return self.burst_s / self.share

    def times(self, rate: float, rng: np.random.Generator) -> Iterator[float]:
        calm = rate * (1 - self.factor * self.share) / (1 - self.share)
        now = 0.0
        while True:
            for length_s, its_rate in (
                (self.cycle_s - self.burst_s, calm),
                (self.burst_s, self.factor * rate),
            ):
                lasts = float(rng.exponential(length_s))
                count = int(rng.poisson(its_rate * lasts))
                yield from (now + np.sort(rng.random(count)) * lasts).tolist()
                now += lasts


@dataclass(frozen=True)
class Closed:
    """So many callers, each of whom asks again once it has its answer: as tools of load do.

    Attributes:
        callers: how many.
    """

    callers: int

    def times(self, rate: float, rng: np.random.Generator) -> Iterator[float]:
        """Yield the first request of each; the others follow their answers."""
        del rate, rng
        yield from [0.0] * self.callers


@dataclass(frozen=True, eq=False)
class Trace:
    """Times that were recorded, stretched to the rate that is asked for.

    A share of a fleet gets each request with that probability, as a balancer would have it.

    Attributes:
        recorded: seconds, ascending, from 0 on. (N,), N > 1.
    """

    recorded: NDArray[np.float64]

    @property
    def rate(self) -> float:
        """Requests a second, on average."""
        return (len(self.recorded) - 1) / float(self.recorded[-1])

    def times(self, rate: float, rng: np.random.Generator) -> Iterator[float]:
        share = min(1.0, rate / self.rate)
        kept = self.recorded[rng.random(len(self.recorded)) < share]
        yield from (kept * (self.rate * share / rate)).tolist()


def read_trace(path: Path, rate: float | None = None) -> Trace:
    """Read a file with the time of a request in each line, in seconds.

    Args:
        path: of the file.
        rate: requests a second that it is stretched or compressed to; None: as it is.

    Raises:
        ValueError: it cannot be read, or a line is no later time than the one before it.
    """
    try:
        lines = path.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--arrivals {path} cannot be read: {error}") from error
    times = np.empty(len(lines))
    for number, line in enumerate(lines):
        try:
            times[number] = float(line)
        except ValueError:
            raise ValueError(f"--arrivals {path}: {line!r} is no time in seconds") from None
    if len(times) < 2 or not np.isfinite(times).all() or times[-1] <= times[0]:
        raise ValueError(f"--arrivals {path} has no two times, one later than the other")
    if (falls := np.flatnonzero(np.diff(times) < 0)).size:
        at = int(falls[0])
        raise ValueError(
            f"--arrivals {path}: {times[at + 1]:g} comes after {times[at]:g}, expected ascending"
        )
    found = Trace(times - times[0])
    return found if rate is None else Trace(found.recorded * (found.rate / rate))
