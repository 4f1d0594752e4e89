"""What one loaded version has done since it was loaded, as the statistics extension counts it.

queue -> run -> answer -> ModelStatistics
"""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from threading import Lock

from nyquist.server.wire.errors import (
    DeadlinePassed,
    InferenceFailed,
    QueueFull,
    QueueTimeout,
    Stopping,
)
from nyquist.server.wire.pb import inference_pb2 as pb

FAILURES: Mapping[str, tuple[type[BaseException], ...]] = {
    "REJECTED": (QueueFull, QueueTimeout, Stopping),
    "CANCELED": (asyncio.CancelledError, DeadlinePassed),
    "BACKEND": (InferenceFailed,),
    "OTHER": (BaseException,),
}
"""Errors by Triton's reasons; the first that fits counts."""

NS = 1_000_000_000


@dataclass(slots=True)
class _Duration:
    """How often something happened, and how long all of it took."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, count: int = 1) -> None:
        self.count += count
        self.ns += round(seconds * NS) * count

    def message(self) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=self.count, ns=self.ns)


@dataclass(slots=True)
class _Batch:
    """Runs of one batch size."""

    gather: _Duration = field(default_factory=_Duration)
    infer: _Duration = field(default_factory=_Duration)


class Statistics:
    """Counters of one loaded version; used from the event loop and from the instances' threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._success = _Duration()
        self._fails = {reason: _Duration() for reason in FAILURES}
        self._queue, self._gather, self._infer = _Duration(), _Duration(), _Duration()
        self._encode = _Duration()
        self._batches: dict[int, _Batch] = {}
        self._last_ms = 0

    def answered(self, seconds: float, encode_s: float) -> None:
        """Count a request that was answered, and the time that it took to encode the answer."""
        success, encode = self._success, self._encode
        with self._lock:
            success.count += 1
            success.ns += int(seconds * NS)
            encode.ns += int(encode_s * NS)

    def failed(self, error: BaseException, seconds: float) -> None:
        """Count a request that was not."""
        with self._lock:
            self._fails[_reason(error)].add(seconds)

    def failures(self) -> dict[str, int]:
        """Return how many requests failed, by Triton's reasons."""
        return {reason: duration.count for reason, duration in self._fails.items()}

    def ran(
        self, requests: int, pictures: int, queue_s: float, gather_s: float, infer_s: float
    ) -> None:
        """Count a run; each request in it is counted with the time of the whole run.

        All stages are counted here, at once: perf_analyzer gives up when it finds them unequal.

        Args:
            requests: that rode in it.
            pictures: of all of them.
            queue_s: that they had waited, all together.
            gather_s: to put them together.
            infer_s: to compute them.
        """
        now_ms = time.time_ns() // 1_000_000
        with self._lock:
            self._queue.count += requests
            self._queue.ns += round(queue_s * NS)
            self._encode.count += requests
            self._gather.add(gather_s, requests)
            self._infer.add(infer_s, requests)
            batch = self._batches.setdefault(pictures, _Batch())
            batch.gather.add(gather_s)
            batch.infer.add(infer_s)
            self._last_ms = now_ms

    def message(self, name: str, version: str) -> pb.ModelStatistics:
        """Return all of it."""
        with self._lock:
            return pb.ModelStatistics(
                name=name,
                version=version,
                last_inference=self._last_ms,
                inference_count=sum(
                    size * batch.infer.count for size, batch in self._batches.items()
                ),
                execution_count=sum(batch.infer.count for batch in self._batches.values()),
                inference_stats=pb.InferStatistics(
                    success=self._success.message(),
                    fail=pb.StatisticDuration(
                        count=sum(fail.count for fail in self._fails.values()),
                        ns=sum(fail.ns for fail in self._fails.values()),
                    ),
                    queue=self._queue.message(),
                    compute_input=self._gather.message(),
                    compute_infer=self._infer.message(),
                    compute_output=self._encode.message(),
                ),
                batch_stats=[
                    pb.InferBatchStatistics(
                        batch_size=size,
                        compute_input=batch.gather.message(),
                        compute_infer=batch.infer.message(),
                    )
                    for size, batch in sorted(self._batches.items())
                ],
            )


def _reason(error: BaseException) -> str:
    return next(reason for reason, kinds in FAILURES.items() if isinstance(error, kinds))
