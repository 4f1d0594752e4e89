"""One stream of requests: answered side by side, the answers in the order of the requests.

read, while there is room -> answer, many at a time -> deliver in order
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress

Answer = Callable[[bytes], Awaitable[bytes]]


async def ordered_answers(
    requests: AsyncIterator[bytes], answer: Answer, in_flight: int, stopping: asyncio.Event
) -> AsyncIterator[bytes]:
    """Answer requests until they end or `stopping` is set; those read by then are answered.

    Args:
        requests: read no further than there is room, so that the sender has to wait.
        answer: never raises but for bugs; cancelled if the caller leaves.
        in_flight: requests that are answered at a time.
        stopping: set to read no more.
    """
    room = asyncio.Semaphore(in_flight)
    answers: asyncio.Queue[asyncio.Task[bytes] | None] = asyncio.Queue()
    async with asyncio.TaskGroup() as tasks:  # its tasks end with it, however that comes

        async def read() -> None:
            async for request in _until(stopping, requests, room):
                answers.put_nowait(tasks.create_task(_awaited(answer(request))))
            answers.put_nowait(None)

        tasks.create_task(read())
        while task := await answers.get():
            yield await task
            room.release()


async def _awaited(answer: Awaitable[bytes]) -> bytes:
    return await answer


async def _until(
    stopping: asyncio.Event, requests: AsyncIterator[bytes], room: asyncio.Semaphore
) -> AsyncIterator[bytes]:
    """Yield requests, each once there is room for it, until they end or `stopping` is set."""
    stopped = asyncio.create_task(stopping.wait())
    following: asyncio.Future[bytes] | None = None
    try:
        while True:
            await room.acquire()
            following = asyncio.ensure_future(anext(requests))
            await asyncio.wait({following, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if not following.done():
                return
            try:
                request = following.result()
            except StopAsyncIteration:
                return
            yield request
    finally:
        for task in (stopped, following):
            if task is not None and not task.done():
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
