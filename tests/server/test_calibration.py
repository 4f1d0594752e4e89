from collections.abc import Callable
from typing import Any

import pytest

from server.calibration import HANDLING_S, best_batch_size, open_engines
from server.engine import CPU, CUDA, Execution
from server.session_settings import SessionSettings


class Timed:
    """An engine whose time for a batch is known."""

    def __init__(
        self, threads: int, time_batch: Callable[[int], float], provider: str = CPU
    ) -> None:
        self.threads, self.time_batch, self.provider = threads, time_batch, provider


@pytest.mark.parametrize(
    ("one_s", "two_s", "operator", "model", "grouped", "sessions", "lone"),
    [
        (0.0005, 0.0004, 0, 0, False, [1], False),  # two threads cost more than they save
        (0.0010, 0.0005, 0, 0, False, [2], False),  # they halve the time
        (0.0200, 0.0190, 0, 0, False, [1, 1], False),  # large, one session on each core
        (0.0200, 0.0140, 0, 0, False, [1, 1], True),  # and one of two for who is alone
        (0.0200, 0.0140, 0, 0, True, [1], False),  # the same, but the model has an instance group
        (0.0200, 0.0110, 0, 0, False, [2], False),  # large, and they save much
        (0.0200, 0.0140, 2, 0, False, [2], False),  # the operator has chosen
        (0.0200, 0.0140, 0, 2, False, [2], False),  # the model has
    ],
)
def test_sessions_get_one_thread_where_more_bring_little_and_nobody_has_chosen(
    one_s: float,
    two_s: float,
    operator: int,
    model: int,
    grouped: bool,
    sessions: list[int],
    lone: bool,
) -> None:
    def open_engine(settings: SessionSettings) -> Any:
        one = settings.intra_op_threads == 1
        return Timed(1, lambda _: one_s) if one else Timed(2, lambda _: two_s)

    settings = SessionSettings(intra_op_threads=model)
    execution = Execution(threads=operator)
    engines, alone = open_engines(settings, execution, open_engine, fill_cores=not grouped)
    assert [engine.threads for engine in engines] == sessions
    assert ([alone.threads] if alone else []) == [2] * lone


@pytest.mark.parametrize(
    ("picture_s", "grows_at", "best"),
    [
        (0.010, 2, 2),  # from 4 pictures on, each takes longer than in a batch of 2
        (0.010, 1, 2),  # a little longer already in a batch of 2, but one less is handled
        (HANDLING_S / 8, 64, 64),  # what is handled costs more than the model
        (0.030, 64, 1),  # what is handled is nothing beside the model
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


def test_a_gpu_takes_the_largest_batch() -> None:
    engine: Any = Timed(1, lambda _: pytest.fail("a GPU is not timed"), provider=CUDA)
    assert best_batch_size(engine, 64) == 64
