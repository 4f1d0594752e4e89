from typing import Any

import pytest

from server.calibration import open_engines
from server.engine import CPU, Execution
from server.session_settings import SessionSettings


class Timed:
    """An engine whose time for a picture depends on its threads."""

    provider = CPU

    def __init__(self, threads: int, picture_s: float) -> None:
        self.threads, self._picture_s = threads, picture_s

    def time_picture(self) -> float:
        return self._picture_s


@pytest.mark.parametrize(
    ("one_s", "two_s", "operator", "model", "grouped", "sessions"),
    [
        (0.0005, 0.0004, 0, 0, False, [1]),  # two threads cost more than they save
        (0.0010, 0.0005, 0, 0, False, [2]),  # they halve the time
        (0.0200, 0.0150, 0, 0, False, [1, 1]),  # large, and they save little: one on each core
        (0.0200, 0.0150, 0, 0, True, [1]),  # the same, but the model has an instance group
        (0.0200, 0.0110, 0, 0, False, [2]),  # large, and they save much
        (0.0200, 0.0150, 2, 0, False, [2]),  # the operator has chosen
        (0.0200, 0.0150, 0, 2, False, [2]),  # the model has
    ],
)
def test_sessions_get_one_thread_where_more_bring_little_and_nobody_has_chosen(
    one_s: float, two_s: float, operator: int, model: int, grouped: bool, sessions: list[int]
) -> None:
    def open_engine(settings: SessionSettings) -> Any:
        return Timed(1, one_s) if settings.intra_op_threads == 1 else Timed(2, two_s)

    settings = SessionSettings(intra_op_threads=model)
    execution = Execution(threads=operator)
    engines = open_engines(settings, execution, open_engine, fill_cores=not grouped)
    assert [engine.threads for engine in engines] == sessions
