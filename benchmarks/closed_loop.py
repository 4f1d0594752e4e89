"""Callers that each wait for their answer before they ask again, and how long they waited."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

import grpc
import numpy as np

METHOD = "/inference.GRPCInferenceService/ModelInfer"
CONNECTIONS = 4
TIMEOUT_S = 60.0


@dataclass
class Answers:
    """What callers got.

    Attributes:
        seconds: that each answered request took.
        errors: requests without an answer.
    """

    seconds: list[float] = field(default_factory=list)
    errors: int = 0

    def add(self, others: "Answers") -> None:
        """Count those of others too."""
        self.seconds += others.seconds
        self.errors += others.errors

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the latency, in milliseconds."""
        return float(np.percentile(self.seconds, percent)) * 1000


async def closed_loop(target: str, body: bytes, requests: int, concurrency: int) -> Answers:
    """Send requests from so many callers, over four connections."""
    left, answers = iter(range(requests)), Answers()

    async def caller(channel: grpc.aio.Channel) -> None:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        for _ in left:
            began = perf_counter()
            try:
                await call(body, timeout=TIMEOUT_S)
            except grpc.aio.AioRpcError:
                answers.errors += 1
            else:
                answers.seconds.append(perf_counter() - began)

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(target, options) for _ in range(min(CONNECTIONS, concurrency))
    ]
    await asyncio.gather(*(caller(channels[n % len(channels)]) for n in range(concurrency)))
    for channel in channels:
        await channel.close()
    return answers


@contextmanager
def repository_of(folder: Path) -> Iterator[Path]:
    """Give a repository of one model meanwhile."""
    with TemporaryDirectory() as repository:
        (Path(repository) / folder.name).symlink_to(folder.resolve())
        yield Path(repository)
