"""Models of other places, brought here beside what is served.

places -> each in a thread of its own: tries, with longer and longer pauses -> cache -> why not,
by model
"""

import asyncio
import logging
import random
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar

from prometheus_client import CollectorRegistry

from nyquist.server.sources.address import Address
from nyquist.server.sources.cache import REPOSITORY, Cache, Damaged
from nyquist.server.sources.store import Store, Unreadable, open_store
from nyquist.server.sources.watch import Watch
from nyquist.server.telemetry.source_metrics import SourceMetrics
from nyquist.server.wire.errors import SourceError, StartError, Stopping

TRIES = 3
FIRST_PAUSE_S = 0.5
"""Between the first two tries, on average; twice as long before each further one."""

AWAY = "its source cannot be read; the log says why"
"""What callers are told, who need not know where that is."""

_URL = re.compile(r"\w+://[^\s'\"]+")

T = TypeVar("T")

logger = logging.getLogger(__name__)


def repository_of(address: Address, cache: Path) -> Path:
    """Return the folder to serve of an address, below the folder of all caches."""
    return cache / address.folder_name / REPOSITORY


@dataclass(frozen=True)
class Fetched:
    """What came of a look at the sources.

    Attributes:
        failures: why models are not up to date, by name; for callers.
        away: that a source could not be read; empty if all could.
    """

    failures: Mapping[str, str] = field(default_factory=dict)
    away: str = ""


class Source:
    """One address, and what was fetched of it.

    Args:
        address: of it.
        folder: of what is fetched of it.
        stall_s: seconds without a byte after which a request has failed.
        metrics: where it counts.
        every_version: fetch every version that is whole, and not only those that are wanted.
    """

    def __init__(
        self,
        address: Address,
        folder: Path,
        stall_s: float,
        metrics: SourceMetrics,
        *,
        every_version: bool,
    ) -> None:
        self.address, self._folder, self._stall_s = address, folder, stall_s
        self._failures = metrics.failures.labels(str(address))
        self._last_success = metrics.last_success.labels(str(address))
        self.watch = Watch(str(address), metrics.fetched_bytes.labels(str(address)).inc)
        self.cache = Cache(folder, self.watch, every_version=every_version)
        self._store: Store | None = None
        self._told: dict[str, str] = {}
        self._turn = asyncio.Lock()

    async def fetch(self, names: Sequence[str] | None) -> Fetched:
        """Bring models here, and tell once in the log what fails, until it is otherwise.

        Raises:
            StartError: what it needs is not installed.
            Stopping: it was told to stop.
        """
        async with self._turn:
            try:
                found = await _in_a_thread(partial(self._try, names))
            except (StartError, Stopping):
                raise
            except Exception as error:
                if not isinstance(error, SourceError):
                    logger.exception("unexpected error in fetching from %s", self.address)
                kept = self.cache.names if names is None else self.cache.names.intersection(names)
                self._note({"": str(error)}, names)
                return Fetched(dict.fromkeys(kept, AWAY), AWAY)
            failures = {name: str(error) for name, error in found.items()}
            self._note(failures, names)
            return Fetched({name: _URL.sub("(address)", why) for name, why in failures.items()})

    @property
    def why(self) -> str:
        """Why the last look could not read it; empty if it could."""
        return self._told.get("", "")

    def _note(self, failures: Mapping[str, str], names: Sequence[str] | None) -> None:
        """Count and tell what failed, by the name of the model; "" is the whole source."""
        for name, why in failures.items():
            if self._told.get(name) != why and self.cache.names:  # or the start ends by it
                logger.error("%s: %s; what was fetched before is kept", self.address, why)
        if "" in self._told and "" not in failures:
            logger.info("%s can be read again", self.address)
        if failures:
            self._failures.inc()
        else:
            self._last_success.set_to_current_time()
        others = {} if names is None else {*self._told} - {"", *names}
        self._told = {name: self._told[name] for name in others} | dict(failures)

    def _try(self, names: Sequence[str] | None) -> dict[str, SourceError]:
        """Update the cache, and again where that may help."""
        for number in range(TRIES):
            last = number == TRIES - 1
            try:
                failures = self._update(names)
                if last or not any(isinstance(why, Damaged) for why in failures.values()):
                    return failures
            except Unreadable as error:
                if last or error.lasting:
                    raise SourceError(f"it cannot be read: {error}") from error
            self.watch.pause(FIRST_PAUSE_S * 2**number * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        raise AssertionError("the last try returns or raises")

    def _update(self, names: Sequence[str] | None) -> dict[str, SourceError]:
        if self._store is None:
            layers = self._folder / "layers"
            self._store = open_store(self.address, self._stall_s, self.watch, layers)
        try:
            return self.cache.update(self._store, names)
        except OSError as error:
            raise SourceError(f"the cache cannot be written: {error.strerror}") from error


async def _in_a_thread(work: Callable[[], T]) -> T:
    """Do what blocks in a thread that no end of the process waits for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type] # None is a T where there is no error

    def run() -> None:
        result, failed = None, None
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is raised where the wait is
            failed = error
        with suppress(RuntimeError):  # the loop has ended, and nobody waits
            loop.call_soon_threadsafe(deliver, result, failed)

    Thread(target=run, daemon=True, name="sources").start()
    return await done


class Sources:
    """All places that models are fetched from.

    Args:
        addresses: of them.
        cache: folder of what is fetched.
        stall_s: seconds without a byte after which a request has failed.
        registry: where it counts.
        every_version: fetch every version that is whole, and not only those that are wanted.
    """

    def __init__(
        self,
        addresses: Sequence[Address],
        cache: Path,
        stall_s: float,
        registry: CollectorRegistry,
        *,
        every_version: bool = False,
    ) -> None:
        metrics = SourceMetrics(registry)
        self._sources = [
            Source(
                address,
                cache / address.folder_name,
                stall_s,
                metrics,
                every_version=every_version,
            )
            for address in addresses
        ]

    async def start(self, names: Sequence[str] | None) -> Fetched:
        """Do as `fetch` does; a source that cannot be read and of which nothing is here is refused.

        Raises:
            StartError: there is one, what it needs is not installed, or the cache cannot be
                written.
            Stopping: it was told to stop.
        """
        for source in self._sources:
            try:
                source.cache.prepare()
            except OSError as error:
                raise StartError(
                    f"{error.filename} cannot be written: {error.strerror}; name another folder "
                    "with --cache"
                ) from error
        looks = await self._look(names)
        for source, look in zip(self._sources, looks, strict=True):
            if look.away and not source.cache.names:
                raise StartError(f"{source.address}: {source.why}, and nothing of it is here")
        return _together(looks)

    async def fetch(self, names: Sequence[str] | None = None) -> Fetched:
        """Bring models here.

        Args:
            names: of models; None is all.

        Raises:
            Stopping: it was told to stop.
        """
        return _together(await self._look(names))

    async def keep_fetching(self, interval_s: float) -> None:
        """Fetch again `interval_s` after each time."""
        while True:
            await asyncio.sleep(interval_s)
            await self.fetch()

    async def _look(self, names: Sequence[str] | None) -> list[Fetched]:
        return await asyncio.gather(*(source.fetch(names) for source in self._sources))

    def close(self) -> None:
        """Fetch nothing any more; what is on its way is left."""
        for source in self._sources:
            source.watch.stop()


def _together(looks: Sequence[Fetched]) -> Fetched:
    failures = {name: why for look in looks for name, why in look.failures.items()}
    return Fetched(failures, next((look.away for look in looks if look.away), ""))
