"""What the simulation knows of a replica, as a JSON file: measured by `calibrate`, or given."""

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nyquist.server.scheduling.limits import DEFAULT_MAX_QUEUE_SIZE, BatchLimits, QueuePolicy

QUANTILES = (0, 1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 100)
"""Percent, at which `run_spread` has its values."""

DISTURBED = 3.0
"""Times the median that the 90th percentile of equal work is where something else disturbs it."""

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
LongerThanNothing = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Batching(_Strict):
    """The rules of a model's batcher, as its config.pbtxt has them and the server found out.

    Attributes:
        max_batch_size: pictures in one run.
        best_size: pictures up to which a run is filled where no size is preferred; 0: the largest.
        merge: whether requests share a run.
        max_queue_delay_s: that the first of a batch waits for company.
        preferred_sizes: of batches.
        keeps_busy: instances that the event loop keeps busy with requests of one picture each, and
            with others as many times more as those have pictures; 0 is all.
        max_queue_size: requests that may wait.
        timeout_s: how long one may wait; 0 is for ever.
    """

    max_batch_size: Annotated[int, Field(ge=1)]
    best_size: Annotated[int, Field(ge=0)] = 0
    merge: bool = True
    max_queue_delay_s: Seconds = 0.0
    preferred_sizes: tuple[Annotated[int, Field(ge=1)], ...] = ()
    keeps_busy: Annotated[float, Field(ge=0)] = 0.0
    max_queue_size: Annotated[int, Field(ge=1)] = DEFAULT_MAX_QUEUE_SIZE
    timeout_s: Seconds = 0.0

    @property
    def limits(self) -> BatchLimits:
        """What the server's own queue and policy take."""
        return BatchLimits(
            self.max_batch_size,
            merge=self.merge,
            max_queue_delay_s=self.max_queue_delay_s,
            preferred_sizes=tuple(sorted(self.preferred_sizes)),
            levels=(QueuePolicy(self.max_queue_size, self.timeout_s),),
            best_size=self.best_size,
            keeps_busy=self.keeps_busy,
        )


class Profile(_Strict):
    """One replica.

    Attributes:
        format: of the file.
        model: its name.
        device: what computed it, in words.
        origin: how these figures were come by, in words.
        run_s: seconds of a run, on average, by its pictures; straight lines between.
        run_spread: seconds of a run at QUANTILES, as a share of the average; none: always the same.
        padded: a run takes as long as one of the next size of `run_s`, as on a GPU.
        loop_s: that the event loop has to do for a request: read it, write its answer.
        wire_s: of a request's time, on average, what keeps nobody else waiting: network, client.
        wire_spread: as run_spread, of wire_s.
        instances: runs that may go on side by side.
        start_s: from the start of a replica until it is ready.
        batching: rules of the batcher.
    """

    format: Literal[1] = 1
    model: str
    device: str
    origin: str
    run_s: dict[Annotated[int, Field(ge=1)], LongerThanNothing]
    run_spread: tuple[Seconds, ...] = ()
    padded: bool = False
    loop_s: Seconds
    wire_s: Seconds
    wire_spread: tuple[Seconds, ...] = ()
    instances: Annotated[int, Field(ge=1)] = 1
    start_s: Seconds = 10.0
    batching: Batching

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.run_s:
            raise ValueError('run_s is empty, expected seconds by pictures such as {"1": 0.002}')
        for name, spread in (("run_spread", self.run_spread), ("wire_spread", self.wire_spread)):
            if spread and len(spread) != len(QUANTILES):
                raise ValueError(f"{name} has {len(spread)} values, expected {len(QUANTILES)}")
            if list(spread) != sorted(spread) or (spread and not spread[-1]):
                raise ValueError(f"{name} is no ascending quantiles, such as 1 at each of them")
        return self

    def run_times(self, largest: int) -> NDArray[np.float64]:
        """Return the average seconds of a run of 0 to `largest` pictures. -> (largest + 1,).

        Beyond the largest that is known it goes on as between the last two.
        """
        sizes = np.array(sorted(self.run_s))
        seconds = np.array([self.run_s[size] for size in sizes.tolist()])
        wanted = np.arange(largest + 1)
        if self.padded:
            places = np.searchsorted(sizes, wanted)
            wanted = np.where(
                places < len(sizes), sizes[np.minimum(places, len(sizes) - 1)], wanted
            )
        found = np.interp(wanted, sizes, seconds)
        if len(sizes) > 1:
            slope = max(0.0, (seconds[-1] - seconds[-2]) / (sizes[-1] - sizes[-2]))
        else:
            slope = seconds[0] / sizes[0]
        return found + np.maximum(wanted - sizes[-1], 0) * slope

    def factors(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return runs as multiples of the average, by the share of quicker ones. (N,) -> (N,)."""
        return _drawn(self.run_spread, shares)

    def wires(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the seconds of wires, by the share of quicker ones. (N,) -> (N,)."""
        return self.wire_s * _drawn(self.wire_spread, shares)

    @property
    def disturbed(self) -> bool:
        """Whether one in ten runs, or wires, took several times as long as half of them."""
        spreads = [one for one in (self.run_spread, self.wire_spread) if one]
        half, most = QUANTILES.index(50), QUANTILES.index(90)
        return any(one[most] > DISTURBED * one[half] for one in spreads)

    @property
    def most_a_second(self) -> float:
        """Requests of one picture that a replica can answer a second, at the very most."""
        size = self.batching.limits.run_size if self.batching.merge else 1
        times = self.run_times(size)[1:]
        sizes = np.arange(1, size + 1)
        # while answers leave, the instance that has given them waits for the loop
        best = float((sizes / (times + sizes * self.loop_s / 2)).max()) * self.instances
        return min(best, 1 / self.loop_s) if self.loop_s else best


def _drawn(spread: tuple[float, ...], shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return what lies at shares of a distribution, as multiples of its average."""
    if not spread:
        return np.ones_like(shares)
    places, values = np.array(QUANTILES) / 100, np.array(spread)
    return np.interp(shares, places, values) / np.trapezoid(values, places)


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ValueError: it cannot be read or is none; one line says what is wrong where.
    """
    try:
        return Profile.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "[key]")
        found = "" if isinstance(first["input"], dict | str | bytes) else f", got {first['input']}"
        message = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{path}: {place + ': ' if place else ''}{message}{found}") from error


def write_profile(profile: Profile, path: Path) -> None:
    """Write a profile, whole or not at all."""
    new = path.with_name(f".{path.name}.new")
    new.write_text(profile.model_dump_json(indent=2) + "\n", encoding="utf-8")
    new.replace(path)
