"""A simulated replica beside the server's own batcher: the same requests, the same batches."""

import asyncio
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from simpy import Environment

from nyquist.client.capacity.replica import Outcome, Replica, Request
from nyquist.client.capacity.replica_profile import Batching, Profile
from nyquist.server.scheduling.batcher import Batcher
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.errors import QueueFull
from tests.fakes import GatedDouble

PATIENCE_S = 20.0
RUN_S = 1.0


async def _until_entered(model: GatedDouble) -> None:
    assert await asyncio.to_thread(model.entered.wait, PATIENCE_S), "no run began"


def of_the_batcher(waves: Sequence[Sequence[int]], rules: Batching) -> list[int]:
    """Return the pictures of each batch: a wave comes while the batch before it runs."""

    async def body() -> list[int]:
        model = GatedDouble()
        batcher = Batcher([model], rules.limits, Metrics().model("m", "1"), QueueBudget(1 << 20))
        asked: list[asyncio.Task[Any]] = []
        for number, wave in enumerate(waves):
            for count in wave:
                pictures = np.zeros((count, 1), np.float32)
                asked.append(asyncio.create_task(batcher.submit(pictures)))
            if number == 0:
                await _until_entered(model)
            else:
                await asyncio.sleep(0)  # all of the wave are in the queue
        model.open()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(one, dict | QueueFull) for one in found)
        await batcher.close()
        return [len(batch) for batch in model.batches]

    return asyncio.run(body())


def of_the_simulation(waves: Sequence[Sequence[int]], rules: Batching) -> list[int]:
    env, batches = Environment(), []
    profile = Profile(
        model="m",
        device="none",
        origin="this test",
        run_s={1: RUN_S, rules.max_batch_size + 1: RUN_S},
        loop_s=0.0,
        wire_s=0.0,
        batching=rules,
    )

    def tell(request: Request, left: float, outcome: Outcome) -> None:
        if outcome is Outcome.ANSWERED:
            batches.append((left, request.count))

    replica = Replica(env, profile, np.random.default_rng(0), tell)
    for number, wave in enumerate(waves):
        env.run(until=(number + 0.01) * RUN_S / len(waves))
        for count in wave:
            replica.take(Request(env.now, count))
    env.run()
    ends = sorted({left for left, _ in batches})
    return [sum(count for left, count in batches if left == end) for end in ends]


WAVES = [[[1, 1, 1], [1]], [[1], [1] * 9], [[1], [2, 1, 3, 1, 4], [1, 1]], [[3], [1, 4, 1]]]
RULES = [
    Batching(max_batch_size=4),
    Batching(max_batch_size=8, best_size=3),
    Batching(max_batch_size=4, merge=False),
    Batching(max_batch_size=4, max_queue_size=5),
]
PATIENT = Batching(max_batch_size=8, preferred_sizes=(1, 6), max_queue_delay_s=1000.0)


@pytest.mark.parametrize(
    ("waves", "rules"),
    [
        *((waves, rules) for waves in WAVES for rules in RULES),
        ([[1], [2, 1, 3, 1, 1, 4]], PATIENT),
    ],
)
def test_batches_are_those_of_the_servers_own_batcher(
    waves: list[list[int]], rules: Batching
) -> None:
    assert of_the_simulation(waves, rules) == of_the_batcher(waves, rules)
