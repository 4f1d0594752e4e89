"""The deadlines of the requests of one model, watched by one timer.

watch -> the timer, at the earliest -> those over theirs are told -> the timer, at the next

Most requests are answered long before their deadline, and a timer for each costs more than all else
that waiting does. So the timer of one that has been answered is left to go off and find nothing.
"""

import asyncio
from collections.abc import Callable
from math import inf

from nyquist.server.scheduling.request_queue import PendingRequest

TIMER_STEP_S = 0.001
"""uvloop's timers go by the millisecond, and may go off half of one early."""


class Deadlines:
    """Watches requests from the event loop.

    Args:
        tell_late: called with each request that is over its deadline, once.
    """

    def __init__(self, tell_late: Callable[[PendingRequest], None]) -> None:
        self._tell_late = tell_late
        self._loop = asyncio.get_running_loop()
        self._watched: dict[PendingRequest, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = inf
        self.forget = self._watched.pop

    def watch(self, request: PendingRequest, deadline: float) -> None:
        """Tell when it is past `deadline`, on the loop's clock, until `forget(request, None)`."""
        self._watched[request] = deadline
        if deadline < self._next:
            self._set_timer(deadline)

    def close(self) -> None:
        """Watch no more."""
        self._watched.clear()
        self._set_timer(inf)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = when
        self._timer = None if when == inf else self._loop.call_at(when, self._look)

    def _look(self) -> None:
        now = self._loop.time() + TIMER_STEP_S
        for request in [request for request, when in self._watched.items() if when <= now]:
            del self._watched[request]
            self._tell_late(request)
        self._set_timer(min(self._watched.values(), default=inf))
