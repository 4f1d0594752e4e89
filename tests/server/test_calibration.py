from collections.abc import Callable
from time import perf_counter, thread_time
from typing import Any

import pytest

from nyquist.server.runtime.calibration import (
    HANDLING_S,
    REQUEST_S,
    best_batch_size,
    open_engines,
)
from nyquist.server.runtime.session_plan import CPU, CUDA, Execution
from nyquist.server.runtime.session_settings import SessionSettings


class Timed:
    """An engine whose time for a batch is known."""

    def __init__(
        self, threads: int, time_batch: Callable[[int], float], provider: str = CPU
    ) -> None:
        self.threads, self.provider = threads, provider
        self._time_batch, self.clocks = time_batch, set[Callable[[], float]]()

    def time_batch(self, size: int, clock: Callable[[], float] = perf_counter) -> float:
        self.clocks.add(clock)
        return self._time_batch(size)


@pytest.mark.parametrize(
    ("cores", "one_s", "all_s", "operator", "model", "grouped", "sessions", "few"),
    [
        (2, 0.0005, 0.0004, 0, 0, False, [1, 1], 0),  # more threads bring little
        (16, 0.0005, 0.0001, 0, 0, False, [1] * 4, 0),  # small, and few sessions will do
        (
            2,
            0.0010,
            0.0005,
            0,
            0,
            False,
            [1, 1],
            1,
        ),  # small, and they halve the time of who is alone
        (2, 0.0200, 0.0190, 0, 0, False, [1, 1], 0),  # large, one session on each core
        (2, 0.0200, 0.0140, 0, 0, False, [1, 1], 1),  # and one of all for who is alone
        (2, 0.0200, 0.0140, 0, 0, True, [1], 0),  # the same, but the model has a group
        (
            2,
            0.0200,
            0.0101,
            0,
            0,
            False,
            [1, 1],
            1,
        ),  # large, and they save much: if nobody else waits
        (2, 0.0200, 0.0110, 0, 0, True, [2], 0),  # there is one session, and they save much
        (2, 0.0200, 0.0140, 2, 0, False, [2], 0),  # the operator has chosen
        (2, 0.0200, 0.0140, 0, 2, False, [2], 0),  # the model has
        (
            16,
            0.0080,
            0.0020,
            0,
            0,
            False,
            [1] * 16,
            3,
        ),  # four times quicker with 16: for up to three
        (16, 0.0080, 0.0020, 0, 0, True, [16], 0),  # but for all where there is no other session
        (16, 0.0320, 0.0021, 0, 0, False, [1] * 16, 15),
        (64, 0.0080, 0.0020, 0, 0, False, [4] * 16, 1),  # weights are not copied 64 times
    ],
)
def test_sessions_get_one_thread_and_few_requests_one_of_all_unless_somebody_has_chosen(
    cores: int,
    one_s: float,
    all_s: float,
    operator: int,
    model: int,
    grouped: bool,
    sessions: list[int],
    few: int,
) -> None:
    def open_engine(settings: SessionSettings) -> Any:
        threads = settings.intra_op_threads or cores
        return Timed(threads, lambda _: one_s if threads == 1 else all_s)

    settings = SessionSettings(intra_op_threads=model)
    execution = Execution(threads=operator)
    found = open_engines(settings, execution, open_engine, fill_cores=not grouped)
    assert [engine.threads for engine in found.engines] == sessions
    assert (found.low_latency.threads if found.low_latency else 0) == (cores if few else 0)
    assert found.few == few or not few
    assert found.keeps_busy == (pytest.approx(one_s / REQUEST_S) if len(sessions) > 1 else 0)


@pytest.mark.parametrize(
    ("picture_s", "grows_at", "best"),
    [
        (0.001, 2, 2),  # from 4 pictures on, each takes longer than in a batch of 2
        (0.001, 1, 4),  # a little longer already in a batch of 2, but fewer are handled
        (HANDLING_S / 8, 64, 64),  # what is handled costs more than the model
        (0.030, 64, 1),  # what is handled is nothing beside the model
        (0.080, 64, 1),  # nor beside one that is slow
        (0.500, 64, 64),  # not even a batch of 2 was tried
    ],
)
def test_the_best_batch_size_is_where_a_larger_one_brings_nothing_more(
    picture_s: float, grows_at: int, best: int
) -> None:
    tried = []

    def time_batch(size: int) -> float:
        tried.append(size)
        return size * picture_s * (1.0 if size <= grows_at else 1.02)

    engine: Any = Timed(1, time_batch)
    assert best_batch_size(engine, 64) == best
    assert sum(tried) * picture_s < 1


def test_no_batch_is_tried_beyond_one_that_is_worse_whose_memory_would_be_kept_for_nothing() -> (
    None
):
    tried = []

    def time_batch(size: int) -> float:
        tried.append(size)
        return size * (0.0005 if size <= 2 else 0.0006)

    engine: Any = Timed(1, time_batch)
    assert best_batch_size(engine, 16) == 2
    assert tried == [1, 2, 4]


@pytest.mark.parametrize(("threads", "clock"), [(1, thread_time), (2, perf_counter)])
def test_the_best_batch_size_of_one_thread_does_not_turn_on_what_else_the_machine_does(
    threads: int, clock: Callable[[], float]
) -> None:
    engine: Any = Timed(threads, lambda size: size * 0.01)
    best_batch_size(engine, 16)
    assert engine.clocks == {clock}


def test_a_gpu_takes_the_largest_batch() -> None:
    engine: Any = Timed(1, lambda _: pytest.fail("a GPU is not timed"), provider=CUDA)
    assert best_batch_size(engine, 64) == 64
