"""What a server is given in every round: a request, when to send it, for how long."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from benchmarks.load import Closed, Open
from benchmarks.model import MeasuredModel, Request
from benchmarks.results import Fact


@dataclass(frozen=True)
class Work:
    """One load.

    Attributes:
        facts: that tell it from other work.
        request: to be sent.
        pattern: when; of an open loop, given the most images a second that closed loops reached.
        seconds: of the window.
    """

    facts: Mapping[str, Fact]
    request: Request
    pattern: Callable[[float], Closed | Open]
    seconds: float


def closed(
    request: Request,
    concurrency: int,
    seconds: float,
    connections: int = 4,
    payload: str = "tensor",
) -> Work:
    """Return a closed loop."""
    facts: dict[str, Fact] = {"load": "closed", "payload": payload, "batch": request.images}
    pattern = Closed(concurrency, connections)
    return Work({**facts, "concurrency": concurrency}, request, lambda _: pattern, seconds)


def poisson(request: Request, fraction: float, seconds: float) -> Work:
    """Return an open loop at a fraction of what closed loops reached in the same round."""
    facts: dict[str, Fact] = {"load": "open", "payload": "tensor", "batch": request.images}
    return Work(
        {**facts, "fraction": fraction}, request, lambda most: Open(most * fraction), seconds
    )


@lru_cache(maxsize=64)
def tensors(subject: MeasuredModel, batch: int, side: int = 0) -> Request:
    """Return `MeasuredModel.tensor_request`, made once."""
    return subject.tensor_request(batch, side)


@lru_cache(maxsize=8)
def jpeg_file(subject: MeasuredModel) -> Request:
    """Return `MeasuredModel.jpeg_request` of one picture, made once."""
    return subject.jpeg_request(1)
