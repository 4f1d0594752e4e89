import asyncio
import gc
import time
import weakref
from collections.abc import Awaitable, Callable
from threading import Event
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nyquist.server.scheduling.batcher import DEFAULT_OPTIONS, Batcher, RequestOptions
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.scheduling.instance import runs_left_behind
from nyquist.server.scheduling.limits import BatchLimits, QueuePolicy
from nyquist.server.scheduling.policy import ALONE
from nyquist.server.telemetry.metrics import Metrics, ModelMetrics
from nyquist.server.wire.errors import (
    DeadlinePassed,
    InferenceFailed,
    QueueFull,
    QueueTimeout,
    Stopping,
)
from tests.fakes import GatedDouble

BYTES = 1 << 20
PATIENCE_S = 20.0
LONG_S = 10.0  # what no run here takes, on any machine

Test = Callable[[Batcher, GatedDouble], Awaitable[None]]


def pictures(*values: float) -> NDArray[Any]:
    return np.array(values, np.float32)[:, None]


class SkippingLoop(asyncio.SelectorEventLoop):
    """A loop whose clock can be put forward, so that a long wait is over at once."""

    ahead_s = 0.0

    def time(self) -> float:
        return super().time() + self.ahead_s


def run(body: Awaitable[Any]) -> Any:
    """Run a test on a loop that can skip time."""

    async def awaited() -> Any:
        return await body

    with asyncio.Runner(loop_factory=SkippingLoop) as runner:
        return runner.run(awaited())


def skip(seconds: float) -> None:
    """Put the clock of the running loop forward."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SkippingLoop)
    loop.ahead_s += seconds


def model_metrics() -> ModelMetrics:
    return Metrics().model("m", "1")


def with_batcher(
    test: Test, *, max_queue_size: int = 1024, budget: QueueBudget | None = None, **limits: Any
) -> GatedDouble:
    """Run a test against a batcher whose model waits at a gate; returns the model."""
    model = GatedDouble()
    policies = {"levels": (QueuePolicy(max_queue_size),)}
    settings = BatchLimits(**{"max_batch_size": 4} | policies | limits)

    async def body() -> None:
        held = budget or QueueBudget(BYTES)
        batcher = Batcher([model], settings, model_metrics(), held, first_probe_s=0.001)
        try:
            async with asyncio.timeout(6 * LONG_S):
                await test(batcher, model)
        finally:
            model.open()
            await batcher.close()

    run(body())
    return model


def submit(
    batcher: Batcher, *values: float, options: RequestOptions = DEFAULT_OPTIONS
) -> "asyncio.Task[dict[str, NDArray[Any]]]":
    return asyncio.create_task(batcher.submit(pictures(*values), options))


async def busy(batcher: Batcher, model: GatedDouble) -> "asyncio.Task[dict[str, NDArray[Any]]]":
    """Occupy the model, so that what comes next has to wait."""
    first = submit(batcher, 0.0)
    await entered(model)
    return first


async def entered(model: GatedDouble) -> None:
    """Wait until a run has reached the gate."""
    assert await asyncio.to_thread(model.entered.wait, PATIENCE_S), "no run began"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread or a timer will bring about."""
    ends = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends, "it did not come about"
        await asyncio.sleep(0.001)


async def later(batcher: Batcher, seconds: float) -> None:
    """Wait until a timer of the batcher has gone off that was set after all others."""
    deadline = asyncio.get_running_loop().time() + seconds
    with pytest.raises(DeadlinePassed):
        await batcher.submit(pictures(9.0), RequestOptions(deadline))


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


def test_a_run_is_filled_up_to_the_best_size_and_a_larger_request_runs_alone() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, *values) for values in ((1,), (2,), (3, 4, 5), (6,))]
        await settled()
        model.open()
        await asyncio.gather(*waiting)

    batches = with_batcher(test, best_size=2).batches
    assert batches == [[0.0], [1.0, 2.0], [3.0, 4.0, 5.0], [6.0]]


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
            await batcher.submit(pictures(9.0), RequestOptions(deadline=soon))
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
            await batcher.submit(pictures(3.0))
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
            await batcher.submit(pictures(model.poison))
        assert (await batcher.submit(pictures(2.0)))["double"].tolist() == [[4.0]]

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
            await batcher.submit(pictures(2.0))
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


# What Triton's users know: preferred sizes, priorities, timeouts.


def test_a_batch_is_cut_to_the_largest_preferred_size_that_can_be_made() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, float(value)) for value in range(1, 8)]
        await settled()
        model.open()
        await asyncio.gather(*waiting)

    batches = with_batcher(test, max_batch_size=8, preferred_sizes=(2, 4)).batches
    assert batches == [[0.0], [1.0, 2.0, 3.0, 4.0], [5.0, 6.0], [7.0]]


def test_a_preferred_size_ends_the_wait_for_company() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        model.open()
        await asyncio.gather(submit(batcher, 1.0), submit(batcher, 2.0))

    limits: dict[str, Any] = {
        "max_queue_delay_s": 15.0,
        "max_batch_size": 8,
        "preferred_sizes": (2, 6),
    }
    assert with_batcher(test, **limits).batches == [[1.0, 2.0]]


def test_after_the_wait_for_company_all_that_came_runs_whatever_is_preferred() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, value) for value in (1.0, 2.0, 3.0)]
        await later(batcher, 0.01)
        model.open()
        await asyncio.gather(*waiting)

    batches = with_batcher(test, max_queue_delay_s=0.001, preferred_sizes=(2,)).batches
    assert batches == [[0.0], [1.0, 2.0, 3.0]]


def priorities(*values: int) -> dict[str, Any]:
    return {"levels": (QueuePolicy(),) * max(values), "default_level": values[0]}


def test_higher_priorities_run_first_and_in_their_order() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [
            submit(batcher, 31.0, options=RequestOptions(priority=3)),
            submit(batcher, 21.0),
            submit(batcher, 11.0, options=RequestOptions(priority=1)),
            submit(batcher, 22.0, options=RequestOptions(priority=9)),
            submit(batcher, 12.0, options=RequestOptions(priority=1)),
        ]
        await settled()
        model.open()
        await asyncio.gather(*waiting)

    batches = with_batcher(test, max_batch_size=2, **priorities(2, 3)).batches
    assert batches == [[0.0], [11.0, 12.0], [21.0, 22.0], [31.0]]


def test_a_priority_level_has_a_queue_of_its_own_size() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, 1.0)]
        await settled()
        with pytest.raises(QueueFull, match="maximum queue size of 1"):
            await batcher.submit(pictures(2.0))
        waiting.append(submit(batcher, 3.0, options=RequestOptions(priority=2)))
        await settled()
        model.open()
        await asyncio.gather(*waiting)

    levels = (QueuePolicy(max_size=1), QueuePolicy(max_size=1))
    assert with_batcher(test, levels=levels).batches == [[0.0], [1.0, 3.0]]


def test_a_request_over_its_time_is_refused_and_not_run() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = submit(batcher, 1.0)
        await settled()
        skip(LONG_S)
        with pytest.raises(QueueTimeout, match=r"^Request timeout expired$"):
            await waiting
        model.open()

    assert with_batcher(test, levels=(QueuePolicy(timeout_s=LONG_S),)).batches == [[0.0]]


def test_a_request_that_runs_is_over_its_time_no_more() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        running = await busy(batcher, model)
        waiting = submit(batcher, 1.0)
        await settled()
        skip(LONG_S)
        with pytest.raises(QueueTimeout):
            await waiting
        model.open()
        assert (await running)["double"].tolist() == [[0.0]]

    with_batcher(test, levels=(QueuePolicy(timeout_s=LONG_S),))


def test_a_delayed_request_lets_those_in_time_pass_and_runs_after_them() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        late = submit(batcher, 1.0, options=RequestOptions(timeout_s=0.001))
        await later(batcher, 0.01)
        in_time = submit(batcher, 2.0)
        await settled()
        model.open()
        await asyncio.gather(late, in_time)

    policy = QueuePolicy(timeout_s=15.0, delay=True, override=True)
    batches = with_batcher(test, max_batch_size=1, levels=(policy,)).batches
    assert batches == [[0.0], [2.0], [1.0]]


@pytest.mark.parametrize(
    ("policy", "asked_s", "timeout_s"),
    [
        (QueuePolicy(timeout_s=2.0, override=True), 1.0, 1.0),
        (QueuePolicy(timeout_s=2.0, override=True), 3.0, 2.0),
        (QueuePolicy(timeout_s=2.0, override=True), 0.0, 2.0),
        (QueuePolicy(timeout_s=2.0), 1.0, 2.0),
        (QueuePolicy(override=True), 1.0, 0.0),
    ],
)
def test_a_request_may_shorten_its_timeout_where_it_is_allowed_to(
    policy: QueuePolicy, asked_s: float, timeout_s: float
) -> None:
    assert policy.timeout_of(asked_s) == timeout_s


# Shapes.


def test_only_pictures_of_one_shape_share_a_run_and_the_oldest_goes_first() -> None:
    shapes: list[tuple[int, ...]] = []

    class Shapes(GatedDouble):
        def run(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
            shapes.append(batch.shape)
            return super().run(batch)

    async def body() -> None:
        model = Shapes()
        batcher = Batcher([model], BatchLimits(4), model_metrics(), QueueBudget(BYTES))
        await busy(batcher, model)
        sizes = [2, 3, 2, 3, 3, 2, 2]
        waiting = [
            asyncio.create_task(batcher.submit(np.full((1, size), value, np.float32)))
            for value, size in enumerate(sizes)
        ]
        await settled()
        model.open()
        for value, (size, task) in enumerate(zip(sizes, waiting, strict=True)):
            assert (await task)["double"].tolist() == [[2.0 * value] * size]
        await batcher.close()

    run(body())
    assert shapes == [(1, 1), (4, 2), (3, 3)]


# Bytes.


def test_all_models_together_hold_no_more_bytes_than_they_may() -> None:
    budget = QueueBudget(3 * 4)

    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = submit(batcher, 1.0, 2.0)
        await settled()
        other = Batcher([GatedDouble()], BatchLimits(4), model_metrics(), budget)
        with pytest.raises(QueueFull, match="queued bytes of 12: 12 are held, the request has 4"):
            await other.submit(pictures(3.0))
        waiting.cancel()
        await settled()
        assert budget.held_bytes == 4, "who leaves the queue gives back; what runs is still held"
        await other.close()
        model.open()

    with_batcher(test, budget=budget)
    assert budget.held_bytes == 0


def test_a_request_that_finds_the_queue_full_holds_no_bytes() -> None:
    budget = QueueBudget(BYTES)

    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = submit(batcher, 1.0)
        await settled()
        with pytest.raises(QueueFull):
            await batcher.submit(pictures(2.0))
        assert budget.held_bytes == 2 * 4
        model.open()
        await waiting

    with_batcher(test, budget=budget, max_queue_size=1)
    assert budget.held_bytes == 0


# Instances.


def test_every_instance_works_and_a_free_one_takes_what_waits() -> None:
    async def body() -> None:
        models = [GatedDouble(), GatedDouble()]
        batcher = Batcher(models, BatchLimits(4), model_metrics(), QueueBudget(BYTES))
        running = [submit(batcher, 1.0)]
        await settled()
        running.append(submit(batcher, 2.0))
        for model in models:
            await entered(model)
        waiting = [submit(batcher, 3.0), submit(batcher, 4.0)]
        await settled()
        models[0].open()
        assert [(await task)["double"].item() for task in waiting] == [6.0, 8.0]
        assert not models[1].batches[1:]
        models[1].open()
        assert {(await task)["double"].item() for task in running} == {2.0, 4.0}
        assert models[0].batches[1:] == [[3.0, 4.0]]
        await batcher.close()

    run(body())


@pytest.mark.parametrize(("instances", "busy"), [(1, 1), (2, 2), (3, 2), (4, 2)])
def test_all_instances_work_at_once_where_requests_are_large_and_a_few_where_they_are_small(
    instances: int, busy: int
) -> None:
    async def body() -> None:
        models = [GatedDouble() for _ in range(instances)]
        limits = BatchLimits(4, merge=False, keeps_busy=2.6)
        batcher = Batcher(models, limits, model_metrics(), QueueBudget(BYTES))
        small = [submit(batcher, 1.0) for _ in range(instances)]
        await settled()
        await until(lambda: sum(model.entered.is_set() for model in models) >= busy)
        await later(batcher, 0.01)
        assert sum(model.entered.is_set() for model in models) == busy
        large = [submit(batcher, 1.0, 2.0, 3.0, 4.0) for _ in range(instances)]
        async with asyncio.timeout(20):
            await until(lambda: all(model.entered.is_set() for model in models))
        for model in models:
            model.open()
        await asyncio.gather(*small, *large)
        await batcher.close()

    run(body())


@pytest.mark.parametrize("preserve_ordering", [False, True])
def test_order_is_kept_over_instances_where_it_is_asked_for(preserve_ordering: bool) -> None:
    async def body() -> list[float]:
        models = [GatedDouble(), GatedDouble()]
        limits = BatchLimits(1, preserve_ordering=preserve_ordering)
        batcher = Batcher(models, limits, model_metrics(), QueueBudget(BYTES))
        order: list[float] = []
        tasks = [submit(batcher, 1.0), submit(batcher, 2.0)]
        for task in tasks:
            task.add_done_callback(lambda done: order.append(done.result()["double"].item()))
        for model in models:
            await entered(model)
        (slow,) = [model for model in models if model.batches == [[1.0]]]
        (quick,) = [model for model in models if model.batches == [[2.0]]]
        quick.open()
        third = submit(batcher, 3.0)  # runs on the quick instance, after the second was delivered
        await until(lambda: len(quick.batches) == 2)
        slow.open()
        await asyncio.gather(*tasks, third)
        await batcher.close()
        return order

    assert run(body()) == ([2.0, 4.0] if preserve_ordering else [4.0, 2.0])


def test_a_busy_model_does_not_hold_up_another() -> None:
    async def body() -> None:
        budget = QueueBudget(BYTES)
        busy_model, other_model = GatedDouble(), GatedDouble()
        other_model.open()
        first = Batcher([busy_model], BatchLimits(4), model_metrics(), budget)
        second = Batcher([other_model], BatchLimits(4), model_metrics(), budget)
        stuck = [await busy(first, busy_model), *(submit(first, 1.0) for _ in range(500))]
        await settled()
        for value in range(20):
            assert (await second.submit(pictures(value)))["double"].item() == 2 * value
        busy_model.open()
        await asyncio.gather(*stuck)
        await first.close()
        await second.close()

    run(body())


def test_who_is_alone_has_an_instance_that_nobody_else_gets() -> None:
    async def body() -> None:
        models, quick = [GatedDouble(), GatedDouble()], GatedDouble()
        quick.open()
        batcher = Batcher(
            models, BatchLimits(1), model_metrics(), QueueBudget(BYTES), low_latency=quick
        )
        assert (await batcher.submit(pictures(1.0)))["double"].item() == 2.0
        both = [submit(batcher, 2.0), submit(batcher, 3.0)]
        for model in models:
            await entered(model)
            model.open()
        await asyncio.gather(*both)
        assert quick.batches == [[1.0]]
        for value in range(ALONE):
            await batcher.submit(pictures(value))
        assert len(quick.batches) == 2
        await batcher.close()

    run(body())


# Failure.


def test_a_request_that_fails_does_not_disturb_those_of_its_batch() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        await busy(batcher, model)
        waiting = [submit(batcher, value) for value in (1.0, model.poison, 3.0)]
        await settled()
        model.open()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(answers[1], InferenceFailed)
        assert [answers[i]["double"].item() for i in (0, 2)] == [2.0, 6.0]  # type: ignore[index] # both are answers
        assert batcher.alive

    with_batcher(test)


@pytest.mark.parametrize("defect", [RuntimeError("broken"), SystemExit("the thread must end")])
def test_an_instance_that_fails_fails_its_requests_and_the_readiness_until_it_works_again(
    defect: BaseException,
) -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        model.open()
        model.defect = defect
        with pytest.raises(InferenceFailed, match="failed on this batch"):
            await batcher.submit(pictures(1.0))
        await until(lambda: not batcher.alive)
        with pytest.raises(InferenceFailed, match="out of service"):
            await batcher.submit(pictures(2.0))
        model.defect = None
        await until(lambda: batcher.alive)
        assert (await batcher.submit(pictures(3.0)))["double"].item() == 6.0

    with_batcher(test)


def test_who_waits_for_an_instance_that_fails_is_told() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        running = await busy(batcher, model)
        waiting = [submit(batcher, float(value)) for value in range(10)]
        await settled()
        model.defect = RuntimeError("broken")
        model.open()
        answers = await asyncio.gather(running, *waiting, return_exceptions=True)
        assert all(isinstance(answer, InferenceFailed) for answer in answers)
        assert not batcher.alive

    with_batcher(test)


def test_a_closed_batcher_keeps_no_session_for_a_later_probe(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(
        "CRITICAL", logger="nyquist.server.scheduling.instance"
    )  # a record keeps its traceback

    async def closed() -> "weakref.ref[GatedDouble]":
        model = GatedDouble()
        model.open()
        model.defect = RuntimeError("broken")
        batcher = Batcher(
            [model], BatchLimits(1), model_metrics(), QueueBudget(BYTES), first_probe_s=60.0
        )
        with pytest.raises(InferenceFailed):
            await batcher.submit(pictures(1.0))
        await until(lambda: not batcher.alive)
        await batcher.close()
        return weakref.ref(model)

    async def body() -> None:
        left = await closed()
        gc.collect()
        assert left() is None

    run(body())


def test_the_other_instance_answers_while_one_is_out_of_service() -> None:
    async def body() -> None:
        models = [GatedDouble(), GatedDouble()]
        batcher = Batcher(
            models, BatchLimits(1), model_metrics(), QueueBudget(BYTES), first_probe_s=60.0
        )
        tasks = [submit(batcher, 1.0), submit(batcher, 2.0)]
        for model in models:
            await entered(model)
        models[0].defect = RuntimeError("broken")
        for model in models:
            model.open()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(isinstance(answer, InferenceFailed) for answer in answers) == 1
        await until(lambda: not batcher.alive)
        for value in range(5):
            assert (await batcher.submit(pictures(value)))["double"].item() == 2 * value
        await batcher.close()

    run(body())


def test_an_answer_of_the_wrong_length_is_nobodys() -> None:
    class Short(GatedDouble):
        def run(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
            return {"double": batch[:0]}

    async def body() -> None:
        batcher = Batcher([Short()], BatchLimits(4), model_metrics(), QueueBudget(BYTES))
        with pytest.raises(InferenceFailed):
            await batcher.submit(pictures(1.0))
        await batcher.close()

    run(body())


def test_the_gauge_of_readiness_follows_the_instances() -> None:
    async def body() -> None:
        metrics = Metrics()

        def ready() -> float | None:
            labels = {"model": "m", "version": "1"}
            return metrics.registry.get_sample_value("nyquist_model_ready", labels)

        model = GatedDouble()
        model.open()
        series = metrics.model("m", "1")
        budget = QueueBudget(BYTES)
        batcher = Batcher([model], BatchLimits(4), series, budget, first_probe_s=0.001)
        assert ready() == 1
        model.defect = RuntimeError("broken")
        with pytest.raises(InferenceFailed):
            await batcher.submit(pictures(1.0))
        await until(lambda: not batcher.alive)
        assert ready() == 0
        model.defect = None
        await until(lambda: batcher.alive)
        assert ready() == 1
        await batcher.close()
        assert ready() == 0

    run(body())


# Runs that take too long.


def test_a_run_that_takes_too_long_fails_its_callers_and_the_readiness_until_it_has_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        model.deaf = True
        running = [submit(batcher, 1.0)]
        await entered(model)
        running += [submit(batcher, 2.0), submit(batcher, 3.0)]
        await settled()
        skip(LONG_S)
        answers = await asyncio.gather(*running, return_exceptions=True)
        assert str(answers[0]) == "the model took longer than 10 s on this batch"
        assert all("out of service" in str(answer) for answer in answers[1:])
        assert all(isinstance(answer, InferenceFailed) for answer in answers)
        assert model.terminated
        assert not batcher.alive
        with pytest.raises(InferenceFailed, match="out of service"):
            await batcher.submit(pictures(4.0))
        model.open()
        await until(lambda: batcher.alive)
        assert (await batcher.submit(pictures(5.0)))["double"].item() == 10.0

    model = with_batcher(test, max_run_s=LONG_S)
    assert model.batches == [[1.0], [5.0]]
    for said in ("takes longer than 10 s", "has ended", "back in service"):
        assert said in caplog.text


def test_a_batch_that_was_told_to_end_is_not_run_request_by_request() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        tasks = [submit(batcher, 1.0), submit(batcher, 2.0)]
        await entered(model)
        skip(LONG_S)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert ["took longer" in str(answer) for answer in answers] == [True, True]
        await until(lambda: batcher.alive)
        assert not model.terminated

    assert with_batcher(test, max_run_s=LONG_S).batches == [[1.0, 2.0]]


def test_what_is_told_to_end_while_it_runs_request_by_request_goes_no_further() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        model.ungated = 1
        tasks = [submit(batcher, value) for value in (model.poison, 2.0, 3.0)]
        await until(lambda: len(model.batches) == 2)
        skip(LONG_S)
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert ["took longer" in str(answer) for answer in answers] == [True, True, True]
        await until(lambda: batcher.alive)

    batches = with_batcher(test, max_run_s=LONG_S).batches
    assert batches == [[GatedDouble.poison, 2.0, 3.0], [GatedDouble.poison]]


def test_the_other_instance_answers_while_a_run_does_not_end() -> None:
    async def body() -> None:
        stuck, sound = GatedDouble(), GatedDouble()
        stuck.deaf = True
        limits = BatchLimits(1, max_run_s=LONG_S, preserve_ordering=True)
        batcher = Batcher([sound, stuck], limits, model_metrics(), QueueBudget(BYTES))
        first = submit(batcher, 1.0)  # the last instance works first
        await entered(stuck)
        sound.open()
        others = [submit(batcher, 2.0), submit(batcher, 3.0)]
        await until(lambda: len(sound.batches) == 2)
        skip(LONG_S)
        assert [(await task)["double"].item() for task in others] == [4.0, 6.0]
        assert not batcher.alive
        with pytest.raises(InferenceFailed, match="took longer than"):
            await first
        stuck.open()
        await until(lambda: batcher.alive)
        await batcher.close()

    run(body())


def test_a_run_that_ends_in_time_is_left_alone() -> None:
    async def test(batcher: Batcher, model: GatedDouble) -> None:
        first = await busy(batcher, model)
        skip(0.7 * LONG_S)
        await settled()
        model.open()
        await first
        model.close()
        second = await busy(batcher, model)
        skip(0.7 * LONG_S)  # together longer than one may take
        await settled()
        assert not model.terminated
        model.open()
        assert (await second)["double"].item() == 0.0
        assert batcher.alive

    assert with_batcher(test, max_run_s=LONG_S).batches == [[0.0], [0.0]]


def test_a_probe_that_does_not_end_is_given_up_too() -> None:
    class StuckProbe(GatedDouble):
        def __init__(self) -> None:
            super().__init__()
            self.gate_of_probe = Event()

        def probe(self) -> None:
            assert self.gate_of_probe.wait(timeout=20)
            super().probe()

    async def body() -> None:
        model = StuckProbe()
        model.open()
        limits = BatchLimits(1, max_run_s=LONG_S)
        batcher = Batcher([model], limits, model_metrics(), QueueBudget(BYTES), first_probe_s=0.001)
        with pytest.raises(InferenceFailed, match="failed on this batch"):
            await batcher.submit(pictures(model.poison))
        assert batcher.alive
        skip(LONG_S)
        await until(lambda: not batcher.alive)
        model.gate_of_probe.set()
        await until(lambda: batcher.alive)
        await batcher.close()

    run(body())


def test_a_batcher_closes_without_a_run_that_does_not_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body() -> GatedDouble:
        model = GatedDouble()
        model.deaf = True
        limits = BatchLimits(1, max_run_s=LONG_S)
        batcher = Batcher([model], limits, model_metrics(), QueueBudget(BYTES), last_word_s=0.01)
        running = submit(batcher, 1.0)
        await entered(model)
        skip(LONG_S)
        await batcher.close()
        with pytest.raises(InferenceFailed, match="took longer"):
            await running
        assert runs_left_behind()
        model.open()
        await until(lambda: not runs_left_behind())
        return model

    run(body())
    assert "left behind" in caplog.text
