"""Bodies that do not come, come late, or come all at once."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from nyquist.server.front.bodies import Bodies, BodyLimits
from nyquist.server.wire.errors import NyquistError, QueueFull, TooManyCalls, TooSlow


async def waiting(bodies: Bodies, peer: str) -> NyquistError | None:
    """Wait for a body that never comes, and return why that was ended."""
    body = bodies.begin(peer)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return body.ended
    finally:
        bodies.finish(body)
    return None


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await test()

    asyncio.run(bounded())


def test_a_body_that_does_not_come_is_ended() -> None:
    async def test() -> None:
        bodies = Bodies(BodyLimits(1000, first_s=0.01))
        assert isinstance(await waiting(bodies, "a"), TooSlow)
        assert not len(bodies)

    run(test)


def test_where_all_places_are_taken_the_oldest_makes_room_for_another_peer() -> None:
    async def test() -> None:
        bodies = Bodies(BodyLimits(1000), places=2)
        first, second = (asyncio.create_task(waiting(bodies, "a")) for _ in range(2))
        await asyncio.sleep(0)
        assert len(bodies) == 2
        with pytest.raises(TooManyCalls, match="2 messages"):
            bodies.begin("a")
        other = bodies.begin("b")
        assert isinstance(await first, TooManyCalls)
        assert not second.done()
        second.cancel()
        await second
        bodies.finish(other)
        assert not len(bodies)

    run(test)


def test_bytes_that_others_hold_are_refused_to_all_but_the_oldest() -> None:
    async def test() -> None:
        bodies = Bodies(BodyLimits(1000, all_bytes=100))
        oldest, next_one = bodies.begin("a"), bodies.begin("b")
        bodies.reserve(next_one, 60)
        bodies.reserve(oldest, 60)
        with pytest.raises(QueueFull, match=r"messages .* hold 120, this one has 30"):
            bodies.reserve(next_one, 30)
        bodies.finish(oldest)
        bodies.reserve(next_one, 30)
        assert bodies.held_bytes == 90
        bodies.finish(next_one)
        assert bodies.held_bytes == 0

    run(test)
