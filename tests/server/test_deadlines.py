import asyncio
import random

import numpy as np
from nyquist.server.scheduling.deadlines import TIMER_STEP_S, Deadlines
from nyquist.server.scheduling.waiting_room import Ticket


def test_each_is_told_once_it_is_late_whatever_was_watched_before_and_no_other() -> None:
    async def body() -> None:
        loop, dice = asyncio.get_running_loop(), random.Random(0)  # noqa: S311 - no secret
        told: list[Ticket] = []
        last = loop.create_future()

        def tell(ticket: Ticket) -> None:
            told.append(ticket)
            assert loop.time() >= due[ticket] - TIMER_STEP_S
            if ticket is final:
                last.set_result(None)

        deadlines, began = Deadlines(tell), loop.time()
        tickets = [Ticket(np.empty(0), loop.create_future()) for _ in range(200)]
        due = {ticket: began + dice.choice((0.0, 0.02, 0.04, 60.0)) for ticket in tickets}
        gone = set(tickets[::3])
        for ticket, when in due.items():
            deadlines.watch(ticket, when)
        for ticket in gone:
            deadlines.forget(ticket, None)
        final = Ticket(np.empty(0), loop.create_future())
        due[final] = began + 0.06
        deadlines.watch(final, due[final])
        await asyncio.wait_for(last, 20)
        late = [ticket for ticket in tickets if due[ticket] < began + 60 and ticket not in gone]
        assert set(told) == {*late, final}
        assert len(told) == len(late) + 1
        deadlines.close()

    asyncio.run(body())
