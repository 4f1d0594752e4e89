import asyncio
import random

import numpy as np

from nyquist.server.scheduling.deadlines import TIMER_STEP_S, Deadlines
from nyquist.server.scheduling.request_queue import PendingRequest


class StoppedLoop(asyncio.SelectorEventLoop):
    """A loop whose clock goes when it is told to."""

    now_s = 100.0

    def time(self) -> float:
        return self.now_s


def test_a_request_is_told_at_its_deadline_and_not_before() -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, StoppedLoop)
        told: list[PendingRequest] = []
        deadlines = Deadlines(told.append)
        request = PendingRequest(np.empty(0), loop.create_future())
        deadlines.watch(request, 110.0)
        for now_s, late in ((110.0 - 2 * TIMER_STEP_S, []), (110.0, [request]), (900.0, [request])):
            loop.now_s = now_s
            for _ in range(5):
                await asyncio.sleep(0)
            assert told == late
        deadlines.close()

    with asyncio.Runner(loop_factory=StoppedLoop) as runner:
        runner.run(body())


def test_each_is_told_once_it_is_late_whatever_was_watched_before_and_no_other() -> None:
    async def body() -> None:
        loop, dice = asyncio.get_running_loop(), random.Random(0)  # noqa: S311 - no secret
        told: list[PendingRequest] = []
        last = loop.create_future()

        def tell(request: PendingRequest) -> None:
            told.append(request)
            assert loop.time() >= due[request] - TIMER_STEP_S
            if request is final:
                last.set_result(None)

        deadlines, began = Deadlines(tell), loop.time()
        requests = [PendingRequest(np.empty(0), loop.create_future()) for _ in range(200)]
        due = {request: began + dice.choice((0.0, 0.02, 0.04, 60.0)) for request in requests}
        gone = set(requests[::3])
        for request, when in due.items():
            deadlines.watch(request, when)
        for request in gone:
            deadlines.forget(request, None)
        final = PendingRequest(np.empty(0), loop.create_future())
        due[final] = began + 0.06
        deadlines.watch(final, due[final])
        await asyncio.wait_for(last, 20)
        late = [
            request for request in requests if due[request] < began + 60 and request not in gone
        ]
        assert set(told) == {*late, final}
        assert len(told) == len(late) + 1
        deadlines.close()

    asyncio.run(body())
