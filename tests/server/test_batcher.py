import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from server.batcher import Batcher, BatchLimits
from server.errors import DeadlinePassed, InferenceFailed, QueueFull, Stopping
from server.metrics import Metrics, ModelMetrics
from tests.fakes import GatedDouble

Test = Callable[[Batcher, GatedDouble], Awaitable[None]]


def pictures(*values: float) -> NDArray[Any]:
    return np.array(values, np.float32)[:, None]


def model_metrics() -> ModelMetrics:
    return Metrics().model("m", "1")


def with_batcher(test: Test, **limits: Any) -> GatedDouble:
    """Run a test against a batcher whose model waits at a gate; returns the model."""
    model = GatedDouble()

    async def body() -> None:
        batcher = Batcher(model, BatchLimits(**{"max_batch_size": 4} | limits), model_metrics())
        try:
            async with asyncio.timeout(20):
                await test(batcher, model)
        finally:
            model.open()
            await batcher.close()

    asyncio.run(body())
    return model


def submit(batcher: Batcher, *values: float) -> "asyncio.Task[dict[str, NDArray[Any]]]":
    return asyncio.create_task(batcher.submit(pictures(*values), None))


async def busy(batcher: Batcher, model: GatedDouble) -> "asyncio.Task[dict[str, NDArray[Any]]]":
    """Occupy the model, so that what comes next has to wait."""
    first = submit(batcher, 0.0)
    await asyncio.to_thread(model.entered.wait)
    return first


async def settled() -> None:
    """Let every task that can run go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_each_caller_gets_its_own_rows_back() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        first, second = submit(batcher, 1.0), submit(batcher, 2.0, 3.0)
        await settled()
        model.open()
        assert (await first)["double"].tolist() == [[2.0]]
        assert (await second)["double"].tolist() == [[4.0], [6.0]]

    assert with_batcher(test).batches == [[0.0], [1.0, 2.0, 3.0]]


def test_requests_that_wait_run_together_up_to_the_largest_batch_in_order() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, float(value)) for value in range(1, 7)]
        await settled()
        model.open()
        await asyncio.gather(*waiting)

    assert with_batcher(test).batches == [[0.0], [1.0, 2.0, 3.0, 4.0], [5.0, 6.0]]


def test_a_request_that_does_not_fit_any_more_opens_the_next_batch() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, 1, 2, 3), submit(batcher, 4, 5), submit(batcher, 6)]
        await settled()
        model.open()
        await asyncio.gather(*waiting)

    assert with_batcher(test).batches == [[0.0], [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]


def test_without_dynamic_batching_every_request_runs_alone() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, 1.0), submit(batcher, 2.0)]
        await settled()
        model.open()
        await asyncio.gather(*waiting)

    assert with_batcher(test, merge=False).batches == [[0.0], [1.0], [2.0]]


def test_a_queue_delay_lets_a_lone_request_wait_for_company() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        model.open()
        await asyncio.gather(*(submit(batcher, float(value)) for value in range(4)))

    assert with_batcher(test, max_queue_delay_s=15.0).batches == [[0.0, 1.0, 2.0, 3.0]]


def test_a_queue_delay_ends_when_nobody_comes() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        model.open()
        await submit(batcher, 1.0)

    assert with_batcher(test, max_queue_delay_s=0.01).batches == [[1.0]]


def test_a_cancelled_caller_does_not_disturb_its_neighbours() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, float(value)) for value in (1, 2, 3)]
        await settled()
        waiting[1].cancel()
        await settled()
        model.open()
        assert (await waiting[0])["double"].tolist() == [[2.0]]
        assert (await waiting[2])["double"].tolist() == [[6.0]]

    assert with_batcher(test).batches == [[0.0], [1.0, 3.0]]


def test_a_caller_cancelled_while_its_batch_runs_does_not_disturb_its_neighbours() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        running = await busy(batcher, model)
        waiting = submit(batcher, 1.0)
        await settled()
        running.cancel()
        await settled()
        model.open()
        assert (await waiting)["double"].tolist() == [[2.0]]
        with pytest.raises(asyncio.CancelledError):
            await running

    with_batcher(test)


def test_a_deadline_that_passes_in_the_queue_ends_the_wait_and_the_request_is_not_run() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        soon = asyncio.get_running_loop().time() + 0.01
        with pytest.raises(DeadlinePassed):
            await batcher.submit(pictures(9.0), soon)
        late = submit(batcher, 1.0)
        await settled()
        model.open()
        await late

    assert with_batcher(test).batches == [[0.0], [1.0]]


def test_one_request_more_than_the_queue_holds_is_refused_and_a_place_freed_is_used() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, 1.0), submit(batcher, 2.0)]
        await settled()
        with pytest.raises(QueueFull, match="maximum queue size of 2"):
            await batcher.submit(pictures(3.0), None)
        waiting[0].cancel()
        await settled()
        waiting.append(submit(batcher, 4.0))
        await settled()
        model.open()
        await asyncio.gather(*waiting[1:])

    assert with_batcher(test, max_queue_size=2).batches == [[0.0], [2.0, 4.0]]


def test_a_run_that_fails_fails_its_callers_alone() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        model.open()
        with pytest.raises(InferenceFailed):
            await batcher.submit(pictures(model.poison), None)
        assert (await batcher.submit(pictures(2.0), None))["double"].tolist() == [[4.0]]

    with_batcher(test)


def test_closing_answers_who_waits_and_refuses_who_comes() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = submit(batcher, 1.0)
        await settled()
        closing = asyncio.create_task(batcher.close())
        await settled()
        assert not batcher.alive
        with pytest.raises(Stopping):
            await batcher.submit(pictures(2.0), None)
        model.open()
        await closing
        assert (await waiting)["double"].tolist() == [[2.0]]

    with_batcher(test)


def test_every_reply_belongs_to_its_request_whoever_leaves() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        model.open()
        generator = np.random.default_rng(0)
        tasks = {}
        for number in range(500):
            rows = int(generator.integers(1, 5))
            tasks[float(number)] = submit(batcher, *[float(number)] * rows)
            if generator.random() < 0.3:
                tasks[float(generator.choice(list(tasks)))].cancel()
            if generator.random() < 0.2:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*tasks.values(), return_exceptions=True)
        answered = 0
        for value, answer in zip(tasks, answers, strict=True):
            if not isinstance(answer, asyncio.CancelledError):
                assert not isinstance(answer, BaseException)
                assert set(answer["double"].ravel().tolist()) == {2 * value}
                answered += 1
        assert answered > 100

    with_batcher(test, max_queue_size=10_000)
