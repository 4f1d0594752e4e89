"""scheduling/policy.py: what is decided, as a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import cast

import numpy as np
import pytest

from nyquist.server.scheduling.limits import BatchLimits
from nyquist.server.scheduling.policy import (
    ALONE,
    FOR_A_CHANGE,
    Idle,
    Policy,
    Start,
    WaitUntil,
)
from nyquist.server.scheduling.request_queue import PendingRequest

NOW = 100.0


@dataclass(eq=False)
class Arrived:
    """What the policy reads of a request."""

    count: int = 1
    arrived: float = NOW - 1
    size: int = 1

    @property
    def pictures(self) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return np.zeros((self.count, self.size), np.float32)


@dataclass
class Waits:
    """A queue of them, in its order."""

    requests: Sequence[Arrived]
    count: int = field(init=False)
    pictures: int = field(init=False)

    def __post_init__(self) -> None:
        self.count = len(self.requests)
        self.pictures = sum(request.count for request in self.requests)

    def __iter__(self) -> Iterator[PendingRequest]:
        return cast(Iterator[PendingRequest], iter(self.requests))


def decide(
    waiting: Sequence[Arrived],
    limits: BatchLimits,
    running: int = 0,
    idle: Idle = Idle(1),  # noqa: B008 - a value
    now: float = NOW,
) -> list[int] | WaitUntil:
    """Return the places in the queue of the requests that start, or the wait."""
    decision = Policy(limits).next(Waits(waiting), running, idle, now)
    if isinstance(decision, WaitUntil):
        return decision
    known = [id(request) for request in waiting]
    return [known.index(id(request)) for request in decision.requests]


one, two, three = Arrived(1), Arrived(2), Arrived(3)
other = Arrived(1, size=7)
four = BatchLimits(4)


@pytest.mark.parametrize(
    ("waiting", "limits", "decision"),
    [
        ([], four, FOR_A_CHANGE),
        ([one], four, [0]),
        ([one, two], four, [0, 1]),
        ([one, three, two], four, [0, 1]),
        ([two, three, one], four, [0]),
        ([one, other, two], four, [0, 2]),
        ([other, one, Arrived(1, size=7)], four, [0, 2]),
        ([one, two], BatchLimits(4, merge=False), [0]),
        ([one, Arrived(1), two], BatchLimits(4, best_size=2), [0, 1]),
        ([three, one], BatchLimits(4, best_size=2), [0]),
    ],
)
def test_a_free_instance_takes_what_fits_into_one_run(
    waiting: list[Arrived], limits: BatchLimits, decision: list[int] | WaitUntil
) -> None:
    assert decide(waiting, limits) == decision


def delayed(count: int, age_s: float, limits: BatchLimits) -> list[int] | WaitUntil:
    return decide([Arrived(1, NOW - age_s) for _ in range(count)], limits)


@pytest.mark.parametrize(
    ("count", "age_s", "preferred", "decision"),
    [
        (1, 0.25, (), WaitUntil(NOW + 0.75)),
        (1, 1.0, (), [0]),
        (4, 0.25, (), [0, 1, 2, 3]),
        (3, 0.25, (2,), [0, 1]),
        (1, 0.25, (2,), WaitUntil(NOW + 0.75)),
        (3, 1.0, (2,), [0, 1, 2]),
        (3, 0.25, (4,), WaitUntil(NOW + 0.75)),
    ],
)
def test_the_first_of_a_batch_waits_for_company_as_long_as_the_model_says(
    count: int, age_s: float, preferred: tuple[int, ...], decision: list[int] | WaitUntil
) -> None:
    limits = BatchLimits(4, max_queue_delay_s=1.0, preferred_sizes=preferred)
    assert delayed(count, age_s, limits) == decision


def test_nobody_is_waited_for_at_the_end_of_time() -> None:
    limits = BatchLimits(4, max_queue_delay_s=60.0)
    assert decide([Arrived(1, NOW)], limits, now=inf) == [0]


@pytest.mark.parametrize(
    ("keeps_busy", "pictures", "running", "decision"),
    [
        (0.8, 1, 0, [0]),
        (0.8, 1, 1, FOR_A_CHANGE),
        (0.8, 3, 1, [0]),  # 2.4
        (0.8, 3, 2, FOR_A_CHANGE),
        (2.6, 1, 1, [0]),
        (2.6, 1, 2, FOR_A_CHANGE),
        (2.6, 3, 6, [0]),
        (0.0, 1, 9, [0]),
    ],
)
def test_no_more_instances_work_than_the_event_loop_keeps_busy(
    keeps_busy: float, pictures: int, running: int, decision: list[int] | WaitUntil
) -> None:
    assert decide([Arrived(pictures)], BatchLimits(4, keeps_busy=keeps_busy), running) == decision


def test_nothing_starts_without_a_free_instance() -> None:
    busy = Idle(0, low_latency=True)
    assert decide([one], four, 1, busy) == FOR_A_CHANGE


@pytest.mark.parametrize(
    ("waiting", "running", "idle", "alone", "low_latency"),
    [
        ([one], 0, Idle(1, low_latency=True, alone=ALONE - 1), ALONE, True),
        ([one], 0, Idle(1, low_latency=True, alone=ALONE - 2), ALONE - 1, False),
        ([one], 0, Idle(1, low_latency=False, alone=ALONE), ALONE + 1, False),
        ([one], 1, Idle(1, low_latency=True, alone=ALONE), 0, False),
        ([one, two], 0, Idle(1, low_latency=True, alone=ALONE), 0, False),
        ([one, other], 0, Idle(1, low_latency=True, alone=ALONE), 0, False),
    ],
)
def test_who_has_been_alone_for_a_while_gets_the_instance_of_low_latency(
    waiting: list[Arrived], running: int, idle: Idle, alone: int, low_latency: bool
) -> None:
    decision = Policy(four).next(Waits(waiting), running, idle, NOW)
    assert isinstance(decision, Start)
    assert (decision.alone, decision.low_latency) == (alone, low_latency)


@pytest.mark.parametrize(
    ("waiting", "running", "together", "low_latency"),
    [
        ([one], 0, 0, True),
        ([one, two, one], 0, 0, True),  # all three sooner, one batch after the other
        ([one] * 4, 0, 0, False),  # an instance for each is as quick, and costs less
        ([one, two], 1, 0, False),  # another instance is at work, and would have to share its core
        ([one, two], 1, 1, None),  # they come with the next batch
        ([one, two, one], 1, 1, False),  # with those that run they are too many
        ([one, two], 2, 1, False),  # the cores are shared already
    ],
)
def test_few_who_wait_get_all_threads_and_more_an_instance_for_each(
    waiting: list[Arrived], running: int, together: int, low_latency: bool | None
) -> None:
    limits, free = BatchLimits(4, few=3), running == 0
    idle = Idle(4, low_latency=free, alone=ALONE, together=together)
    decision = Policy(limits).next(Waits(waiting), running, idle, NOW)
    if low_latency is None:
        assert decision == FOR_A_CHANGE
    else:
        assert isinstance(decision, Start)
        assert decision.low_latency is low_latency
