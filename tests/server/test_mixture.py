import asyncio

import grpc

from tests.processes import RunningServer
from tests.server.mixture import Mixture, calls


def test_calls_of_every_kind_at_once_get_the_answers_that_they_get_alone(
    server: RunningServer,
) -> None:
    async def send() -> Mixture:
        async with grpc.aio.insecure_channel(server.target) as channel:
            mixture = Mixture(channel, calls(["fashion_strided"]))
            await mixture.send(600, in_flight=64)
            return mixture

    mixture = asyncio.run(send())
    assert not mixture.wrong
    assert mixture.outcomes.total() >= 300
    assert {kind.partition(" [")[0] for kind in mixture.outcomes} >= {
        "ModelInfer: OK",
        "ModelInfer: INVALID_ARGUMENT",
        "ModelStreamInfer: OK",
    }
