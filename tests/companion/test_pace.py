"""The rest after each piece of work, on a clock of the test's own."""

from threading import Event, Thread

import pytest

from nyquist.companion.watch.pace import Pace


class Clock:
    """Stands still but for what is worked; also the event that rests are waited on.

    Attributes:
        now_s: what it shows.
    """

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    def work(self, seconds: float) -> float:
        """Work for some seconds, and return them."""
        self.now_s += seconds
        return seconds


class Rests(Event):
    """Takes note of every wait, and does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.taken_s: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.taken_s.append(timeout)
        return False


@pytest.mark.parametrize(("share", "rest_s"), [(0.25, 9.0), (0.5, 3.0), (1.0, 0.0)])
def test_work_is_its_share_of_the_time_and_rest_the_others(share: float, rest_s: float) -> None:
    clock, rests = Clock(), Rests()
    work = Pace(share, rests, clock).paced(clock.work)
    assert [work(3.0), work(3.0)] == [3.0, 3.0]
    assert rests.taken_s == pytest.approx([rest_s, rest_s])


def test_work_that_fails_rests_too() -> None:
    clock, rests = Clock(), Rests()

    def failing() -> None:
        clock.work(1.0)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        Pace(0.2, rests, clock).paced(failing)()
    assert rests.taken_s == pytest.approx([4.0])


def test_a_stop_ends_the_rest_at_once() -> None:
    clock, stopped = Clock(), Event()
    working = Thread(target=Pace(0.001, stopped, clock).paced(clock.work), args=(60,), daemon=True)
    working.start()
    stopped.set()
    working.join(timeout=30)
    assert not working.is_alive()
