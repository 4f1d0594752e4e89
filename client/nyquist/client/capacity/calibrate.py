"""One measured replica: its profile.

ModelConfig -> rules of the batcher
requests of 1, 2, 4, ..., one at a time, and ModelStatistics after each -> seconds of its run,
                                           and of what it takes beside that
many callers -> requests a second, largest batch, runs side by side -> what the event loop has to do
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from math import ceil
from time import monotonic, perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.client.capacity.arrivals import Closed
from nyquist.client.capacity.fleet import Scenario, simulate
from nyquist.client.capacity.replica import Outcome
from nyquist.client.capacity.replica_profile import QUANTILES, Batching, Profile
from nyquist.client.client import MAX_MESSAGE_BYTES, Client, RemoteModel
from nyquist.server.wire import tensors
from nyquist.server.wire.connection import Connection
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from nyquist.server.wire.pb.model_config_pb2 import ModelConfig

NS = 1e9
CALL_TIMEOUT_S = 60.0
LEAST_REQUESTS = 20
"""Of each size, however long they take."""
STEPS = 12
"""Halvings in the search for the loop's share."""
CALLERS_A_PICTURE = 4
"""Of the largest batch, so that the next one waits when a run ends."""
MOST_CALLERS = 64
SIMULATED_RUNS = 300
SHORT_S = 0.0001
SIDE = 224
"""Height and width of a picture where the model leaves them open."""


@dataclass(frozen=True)
class Runs:
    """What a server counted of the runs of one batch size.

    Attributes:
        count: of them.
        seconds: that they took, all together, their pictures put together included.
    """

    count: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Alone:
    """Requests of one size, one after the other.

    Attributes:
        runs: seconds of each one's run. (N,)
        beside: seconds of each one's latency that were not its run. (N,)
    """

    runs: NDArray[np.float64]
    beside: NDArray[np.float64]


@dataclass(frozen=True)
class Pressed:
    """What a stretch of load gave.

    Attributes:
        answers: how many.
        lasted_s: it all.
        runs: by batch size.
    """

    answers: int
    lasted_s: float
    runs: Mapping[int, Runs]

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.answers / self.lasted_s

    @property
    def busy(self) -> float:
        """Runs at a time, on average."""
        return sum(one.seconds for one in self.runs.values()) / self.lasted_s


class Replica:
    """A server that is to be measured, and that nobody else asks meanwhile. Close it.

    Args:
        connection: to it.
        model: name of the model.

    Raises:
        grpc.RpcError: a call failed.
        ValueError: there is no such model, or it takes no pictures.
    """

    def __init__(self, connection: Connection, model: str) -> None:
        with Client(connection) as client:
            self.about: RemoteModel = client.look_up(model)
        if not self.about.datatype:
            raise ValueError(f"the server does not say what {model} takes")
        self._metadata = connection.metadata()
        most = ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES)
        self._channel = connection.channel((most,))
        self._stub = stubs.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def config(self) -> ModelConfig:
        """Ask for the model's configuration. Raises grpc.RpcError."""
        asked = pb.ModelConfigRequest(name=self.about.name, version=self.about.version)
        return self._stub.ModelConfig(asked, **self._call()).config

    def alone(self, pictures: int, seconds: float) -> "Alone":
        """Ask for so many pictures again and again, and how long each run took.

        Raises:
            grpc.RpcError: a call failed.
            ValueError: the server counts no such runs.
        """
        request, until = self._request(pictures), monotonic() + seconds
        runs: list[float] = []
        beside: list[float] = []
        before = self.counted()
        while len(runs) < LEAST_REQUESTS or monotonic() < until:
            sent = perf_counter()
            self._stub.ModelInfer(request, **self._call())
            took = perf_counter() - sent
            after = self.counted()
            ran = between(before, after).get(pictures, Runs())
            if ran.count != 1:
                raise ValueError(
                    f"after a request of {pictures} pictures the server has counted {ran.count} "
                    "runs of that size, expected 1: does somebody else ask it?"
                )
            runs.append(ran.seconds)
            beside.append(max(0.0, took - ran.seconds))
            before = after
        return Alone(np.array(runs), np.array(beside))

    def press(self, callers: int, seconds: float) -> Pressed:
        """Let so many callers ask for a picture each, again and again.

        Raises:
            grpc.RpcError: a call failed.
        """
        request, numbers = self._request(1), count()
        before, began = self.counted(), perf_counter()
        until = monotonic() + seconds

        def ask() -> int:
            answered = 0
            while next(numbers) < LEAST_REQUESTS or monotonic() < until:
                self._stub.ModelInfer(request, **self._call())
                answered += 1
            return answered

        with ThreadPoolExecutor(callers) as pool:
            each = [task.result() for task in [pool.submit(ask) for _ in range(callers)]]
        return Pressed(sum(each), perf_counter() - began, between(before, self.counted()))

    def counted(self) -> dict[int, Runs]:
        """Ask for the runs of each size since the model was loaded. Raises grpc.RpcError."""
        asked = pb.ModelStatisticsRequest(name=self.about.name, version=self.about.version)
        (counted,) = self._stub.ModelStatistics(asked, **self._call()).model_stats
        return {
            one.batch_size: Runs(
                one.compute_infer.count, (one.compute_input.ns + one.compute_infer.ns) / NS
            )
            for one in counted.batch_stats
        }

    def _request(self, pictures: int) -> pb.ModelInferRequest:
        shape = (pictures, *(side if side > 0 else SIDE for side in self.about.shape))
        values = np.random.default_rng(0).random(shape)
        dtype = tensors.DTYPES[self.about.datatype]
        scale = 255 if np.issubdtype(dtype, np.integer) else 1
        request = pb.ModelInferRequest(
            model_name=self.about.name,
            model_version=self.about.version,
            raw_input_contents=[(values * scale).astype(dtype).tobytes()],
        )
        request.inputs.add(name=self.about.input, datatype=self.about.datatype, shape=shape)
        return request

    def _call(self) -> dict[str, Any]:
        return {"timeout": CALL_TIMEOUT_S, "metadata": self._metadata}


def calibrate(
    replica: Replica,
    *,
    seconds: float,
    device: str,
    start_s: float,
    tell: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure a replica.

    Args:
        replica: that nobody else asks.
        seconds: of load for each batch size; four times that for many callers.
        device: what computes, in words.
        start_s: from the start of a replica until it is ready, which nothing here measures.
        tell: called with a line about each step.

    Raises:
        grpc.RpcError: a call failed.
        ValueError: the server counts no runs.
    """
    config = replica.config()
    batching = _batching(config)
    replica.press(1, seconds / 4)  # whatever is done at the first calls alone
    alone: dict[int, Alone] = {}
    for size in _sizes(batching.max_batch_size):
        tell(f"requests of {size}, one at a time")
        alone[size] = replica.alone(size, seconds)
    callers = min(MOST_CALLERS, CALLERS_A_PICTURE * batching.max_batch_size)
    tell(f"{callers} callers")
    many = replica.press(callers, 4 * seconds)
    largest = max(many.runs)
    if batching.merge and not batching.preferred_sizes and largest < batching.max_batch_size / 2:
        batching = batching.model_copy(update={"best_size": largest})
    # by medians, and how far all lie from them: of large batches there are few, and some disturbed
    runs = np.concatenate([one.runs / np.median(one.runs) for one in alone.values()])
    profile = Profile(
        model=replica.about.name,
        device=device,
        origin="measured by nyquist plan calibrate",
        run_s={
            size: _significant(float(np.median(one.runs) * runs.mean()))
            for size, one in alone.items()
        },
        run_spread=_spread(runs),
        loop_s=0.0,
        wire_s=float(alone[1].beside.mean()),
        wire_spread=_spread(alone[1].beside),
        instances=sum(group.count or 1 for group in config.instance_group)
        or max(1, ceil(many.busy - 0.1)),
        start_s=start_s,
        batching=batching,
    )
    return _with_loop(profile, many, callers)


def _sizes(most: int) -> list[int]:
    """Return 1, 2, 4, ... and the largest."""
    return [*(2**power for power in range(most.bit_length()) if 2**power < most), most]


def _batching(config: ModelConfig) -> Batching:
    batching = config.dynamic_batching
    queue = batching.default_queue_policy
    return Batching(
        max_batch_size=max(1, config.max_batch_size),
        merge=config.HasField("dynamic_batching"),
        max_queue_delay_s=batching.max_queue_delay_microseconds / 1e6,
        preferred_sizes=tuple(sorted(batching.preferred_batch_size)),
        **({"max_queue_size": queue.max_queue_size} if queue.max_queue_size else {}),
        timeout_s=queue.default_timeout_microseconds / 1e6,
    )


def _spread(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Return quantiles as shares of the average."""
    return tuple(
        round(float(value), 3) for value in np.percentile(values, QUANTILES) / values.mean()
    )


def between(before: Mapping[int, Runs], after: Mapping[int, Runs]) -> dict[int, Runs]:
    """Return what was counted from one moment to another."""
    return {
        size: Runs(now.count - then.count, now.seconds - then.seconds)
        for size, now in after.items()
        if now.count > (then := before.get(size, Runs())).count
    }


def _with_loop(profile: Profile, many: Pressed, callers: int) -> Profile:
    """Find the loop's share of what a request takes beside its run.

    It is the one with which simulated callers get as many answers a second as real ones got, with
    runs that take as long as theirs took. So what is cheaper for many callers than for one, or
    dearer, is in it.
    """
    beside_s, busy = profile.wire_s, replace_run_times(profile, many.runs)
    size = max(many.runs)
    seconds = SIMULATED_RUNS * max(float(busy.run_times(size)[size]), SHORT_S)
    least, most = 0.0, beside_s
    for _ in range(STEPS):
        loop_s = (least + most) / 2
        tried = busy.model_copy(update={"loop_s": loop_s, "wire_s": beside_s - loop_s})
        scenario = Scenario(tried, 1, 0.0, seconds, seconds / 10, Closed(callers))
        rate = float(simulate(scenario, seed=0).of(Outcome.ANSWERED).sum()) / seconds
        least, most = (loop_s, most) if rate > many.rate else (least, loop_s)
    return profile.model_copy(
        update={"loop_s": _significant(least), "wire_s": _significant(beside_s - least)}
    )


def replace_run_times(profile: Profile, runs: Mapping[int, Runs]) -> Profile:
    """Return a profile with the seconds that runs took in another stretch of load.

    Sizes that were not run there are scaled as those that were.
    """
    known = profile.run_times(max(*runs, *profile.run_s))
    counted = sum(one.count for one in runs.values())
    scale = sum(one.seconds / known[size] for size, one in runs.items()) / counted
    update = {size: seconds * scale for size, seconds in profile.run_s.items()}
    return profile.model_copy(update={"run_s": {k: _significant(v) for k, v in update.items()}})


def _significant(seconds: float) -> float:
    """Round to three digits: no time here is known better."""
    return float(f"{seconds:.3g}")
