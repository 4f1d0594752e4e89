"""The life that server and companion share: what is said of health, and what runs beside."""

import asyncio
import os
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, cast

from grpc_health.v1 import health_pb2

from nyquist.server.front.lifecycle import Health, Status, run_beside, run_until_signal

SERVING, NOT_SERVING, GONE = (
    health_pb2.HealthCheckResponse.SERVING,
    health_pb2.HealthCheckResponse.NOT_SERVING,
    health_pb2.HealthCheckResponse.SERVICE_UNKNOWN,
)
NO_CONTEXT = cast(Any, None)


async def listed(health: Health) -> Mapping[str, Status]:
    answer = await health.List(health_pb2.HealthListRequest(), NO_CONTEXT)
    return {name: one.status for name, one in answer.statuses.items()}


async def checked(health: Health, service: str) -> Status:
    answer = await health.Check(health_pb2.HealthCheckRequest(service=service), NO_CONTEXT)
    return Status(answer.status)


def test_a_service_that_is_gone_is_checked_as_such_and_listed_no_more() -> None:
    async def test() -> None:
        now = {"": SERVING, "a": SERVING, "b": NOT_SERVING}
        health = Health(lambda: now, GONE)
        await health.tell()
        assert await listed(health) == now
        del now["a"]
        await health.tell()
        assert await listed(health) == {"": SERVING, "b": NOT_SERVING}
        assert [await checked(health, name) for name in ("a", "b")] == [GONE, NOT_SERVING]

    asyncio.run(test())


def test_what_changes_is_told_when_it_changes() -> None:
    async def test() -> None:
        now, changes, waits = {"a": NOT_SERVING}, asyncio.Queue[None](), asyncio.Semaphore(0)

        async def changed() -> None:
            waits.release()
            await changes.get()

        health = Health(lambda: now, GONE)
        async with AsyncExitStack() as stack:
            run_beside(stack, health.keep_true(changed))
            await waits.acquire()
            for status in (SERVING, NOT_SERVING):
                now["a"] = status
                changes.put_nowait(None)
                await waits.acquire()
                assert await listed(health) == {"a": status}
                assert await checked(health, "a") == status

    asyncio.run(asyncio.wait_for(test(), timeout=30))


def test_a_drain_is_the_last_word() -> None:
    async def test() -> None:
        health = Health(lambda: {"": SERVING, "a": SERVING}, GONE)
        await health.tell()
        await health.drain()
        await health.tell()
        assert await listed(health) == {"": NOT_SERVING, "a": NOT_SERVING}
        assert await checked(health, "a") == NOT_SERVING

    asyncio.run(test())


def test_what_runs_beside_ends_in_the_reverse_of_its_start() -> None:
    ended: list[str] = []

    async def work(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    async def test() -> None:
        async with AsyncExitStack() as stack:
            for name in ("first", "second"):
                run_beside(stack, work(name))
            await asyncio.sleep(0)  # or they would end before they begin

    asyncio.run(test())
    assert ended == ["second", "first"]


class Endless:
    """What starts for ever; it asks for its own end."""

    left = False

    async def __aenter__(self) -> "Endless":
        os.kill(os.getpid(), signal.SIGTERM)
        try:
            await asyncio.Event().wait()
        finally:
            self.left = True
        return self

    async def __aexit__(self, *_: object) -> None:
        raise AssertionError("it never started")

    async def drain(self, seconds: float) -> None:
        del seconds
        raise AssertionError("it never started")


def test_a_signal_ends_a_start() -> None:
    starting = Endless()
    asyncio.run(run_until_signal(starting, drain_s=60, grace_s=60))
    assert starting.left
