"""Random traffic for a Batcher, and what must hold whatever comes.

python -m tests.server.traffic [--requests N] [--seed N]     a long run; prints a tally
"""

import argparse
import asyncio
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nyquist.server.scheduling.batcher import Batcher, RequestOptions
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.scheduling.limits import BatchLimits, QueuePolicy
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.errors import (
    DeadlinePassed,
    InferenceFailed,
    NyquistError,
    QueueFull,
    QueueTimeout,
)

MAX_BATCH = 8
LIMITS = BatchLimits(
    MAX_BATCH,
    preferred_sizes=(4,),
    levels=(
        QueuePolicy(max_size=12),
        QueuePolicy(max_size=12, timeout_s=0.002, override=True),
        QueuePolicy(max_size=12, timeout_s=0.002, override=True, delay=True),
    ),
    default_level=2,
)


@dataclass(frozen=True)
class Send:
    """A caller sends `rows` pictures of one of the shapes; `bad` ones make any run fail."""

    rows: int = 1
    width: int = 2
    priority: int = 0
    timeout_s: float = 0.0
    deadline_s: float | None = None
    bad: bool = False


@dataclass(frozen=True)
class Leave:
    """The caller `back` calls ago hangs up."""

    back: int


@dataclass(frozen=True)
class Turn:
    """The event loop goes round; `pause` lets the threads and timers get somewhere."""

    pause: bool = False


@dataclass(frozen=True)
class Break:
    """One instance fails from now on, or works again."""

    instance: int
    how: Literal["raise", "exit", "mend"]


Action = Send | Leave | Turn | Break


class Instance:
    """Doubles its input; remembers the shapes that it was given."""

    def __init__(self) -> None:
        self.defect: BaseException | None = None
        self.shapes: set[tuple[int, ...]] = set()

    def run(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        self.shapes.add(batch.shape)
        self.probe()
        if (batch[:, 0] < 0).any():
            raise RuntimeError("a bad picture")
        return {"double": 2 * batch}

    def probe(self) -> None:
        if self.defect is not None:
            raise self.defect

    def terminate(self) -> None:
        """Nothing that this runs takes long enough to be asked."""


def pictures(number: int, send: Send) -> NDArray[np.float32]:
    """Pictures that tell whose they are and in which row they stood. (rows, width)."""
    content = np.full((send.rows, send.width), number + 1, np.float32)
    content[:, 1] = np.arange(send.rows)
    return -content if send.bad else content


class Traffic:
    """Plays actions to a batcher of two instances, and checks every answer."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._instances = (Instance(), Instance())
        self._budget = QueueBudget(4 * 1000)
        self._broke = False
        self._sent = 0

    async def play(self, actions: Iterable[Action]) -> None:
        """Play all actions, wait for every caller, and check that nothing is left behind."""
        metrics = Metrics()
        batcher = Batcher(
            self._instances,
            LIMITS,
            metrics.model("m", "1"),
            self._budget,
            first_probe_s=0.0005,
        )
        callers: list[asyncio.Task[None]] = []
        for action in actions:
            await self._do(action, batcher, callers)
            if len(callers) >= 2000:
                callers = [caller for caller in callers if not await self._over(caller)]
        for instance in self._instances:
            instance.defect = None
        async with asyncio.timeout(60):
            await asyncio.gather(*callers, return_exceptions=True)
            await batcher.close()
        for caller in callers:
            assert await self._over(caller)
        sizes = {shape[0] for instance in self._instances for shape in instance.shapes}
        assert sizes <= set(range(1, MAX_BATCH + 1))
        assert self._budget.held_bytes == 0
        depth = {"model": "m", "version": "1"}
        assert metrics.registry.get_sample_value("nyquist_queue_depth", depth) == 0

    async def _do(
        self, action: Action, batcher: Batcher, callers: "list[asyncio.Task[None]]"
    ) -> None:
        if isinstance(action, Send):
            callers.append(asyncio.create_task(self._call(batcher, self._sent, action)))
            self._sent += 1
        elif isinstance(action, Leave) and action.back <= len(callers):
            callers[-action.back].cancel()
        elif isinstance(action, Turn):
            await asyncio.sleep(0.001 if action.pause else 0)
        elif isinstance(action, Break):
            self._broke = True
            defects = {"raise": RuntimeError("broken"), "exit": SystemExit("told to end")}
            self._instances[action.instance].defect = defects.get(action.how)

    async def _over(self, caller: "asyncio.Task[None]") -> bool:
        """Say whether a caller has its answer; raise what it found wrong with it."""
        if not caller.done():
            return False
        if caller.cancelled():
            self.outcomes["cancelled"] += 1
        else:
            caller.result()
        return True

    async def _call(self, batcher: Batcher, number: int, send: Send) -> None:
        sent = pictures(number, send)
        deadline = None
        if send.deadline_s is not None:
            deadline = asyncio.get_running_loop().time() + send.deadline_s
        try:
            answer = await batcher.submit(
                sent, RequestOptions(deadline, send.priority, send.timeout_s)
            )
        except NyquistError as error:
            self._check_error(error, send)
            return
        assert not send.bad
        assert np.array_equal(answer["double"], 2 * sent), "a reply of another request"
        self.outcomes["answered"] += 1

    def _check_error(self, error: NyquistError, send: Send) -> None:
        if isinstance(error, InferenceFailed):
            assert send.bad or self._broke, "a neighbour's failure"
        elif isinstance(error, DeadlinePassed):
            assert send.deadline_s is not None
        elif isinstance(error, QueueTimeout):
            assert send.priority != 1, "this level has no timeout"
            assert send.priority != 3, "this level delays, it does not refuse"
        else:
            assert isinstance(error, QueueFull)
        self.outcomes[type(error).__name__] += 1


def random_actions(requests: int, seed: int) -> Iterator[Action]:
    """Bursts of callers of every kind, some of whom leave, and instances that break and mend."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    for number in range(requests):
        yield Send(
            rows=dice.randint(1, 4),
            width=dice.choice((2, 2, 2, 3)),
            priority=dice.randint(0, 4),
            timeout_s=dice.choice((0.0, 0.0005)),
            deadline_s=dice.choice((None, None, None, 0.0, 0.0005, 0.005)),
            bad=dice.random() < 0.03,
        )
        if dice.random() < 0.2:
            yield Leave(dice.randint(1, 30))
        if dice.random() < (0.1 if number // 100 % 10 else 0.01):  # every tenth hundred is a flood
            yield Turn(pause=dice.random() < 0.7)
        if dice.random() < 0.001:
            yield Break(dice.randint(0, 1), dice.choice(("raise", "exit")))
        if dice.random() < 0.01:
            yield Break(dice.randint(0, 1), "mend")


def main() -> None:
    """Play a long run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("nyquist.server.scheduling.instance").setLevel(logging.CRITICAL)
    traffic = Traffic()
    asyncio.run(traffic.play(random_actions(arguments.requests, arguments.seed)))
    print(f"{arguments.requests} requests: {dict(traffic.outcomes.most_common())}")  # noqa: T201 - its output


if __name__ == "__main__":
    main()
