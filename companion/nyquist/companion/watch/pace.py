"""Work a little, rest the longer: what leaves the cores to the server."""

from collections.abc import Callable
from threading import Event
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Pace:
    """Keeps the work of one thread to a share of a core.

    Args:
        share: of the time that is worked, above 0 and up to 1.
        stopped: ends every rest at once.
        clock: seconds, of which the differences count.
    """

    def __init__(
        self, share: float, stopped: Event, clock: Callable[[], float] = perf_counter
    ) -> None:
        self._rest_per_work, self._stopped, self._clock = 1 / share - 1, stopped, clock

    def paced(self, work: Callable[P, T]) -> Callable[P, T]:
        """Return the same work, followed by its rest."""

        def worked(*args: P.args, **kwargs: P.kwargs) -> Any:  # noqa: ANN401 - T, behind a wrapper
            start = self._clock()
            try:
                return work(*args, **kwargs)
            finally:
                self._stopped.wait((self._clock() - start) * self._rest_per_work)

        return worked
