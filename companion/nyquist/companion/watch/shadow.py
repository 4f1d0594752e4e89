"""Live traffic that the server sends with its answers: taken in, compared, and let go.

Mirror -> queue (drops when full) -> PyTorch -> compare -> the server again, a pixel aside

The two pictures a pixel aside are the mirrored one rolled around the edge, and moved with zeros
entering; each by one pixel down or right, in turn. That the answer stays is consistency of
production traffic.
"""

import logging
from collections import deque
from dataclasses import dataclass, field
from itertools import cycle
from time import monotonic, time

import grpc
import numpy as np

from nyquist.client.client import Client
from nyquist.companion.measures.parity import Parity, compare, pooled
from nyquist.companion.measures.shift_consistency import Consistency, consistency_of
from nyquist.companion.measures.shifts import Pictures, shift_circularly, shift_with_zeros
from nyquist.companion.references.repository import LoadedReference, References, Unverifiable
from nyquist.companion.references.subjects import number_of
from nyquist.companion.watch.metrics import Metrics
from nyquist.companion.watch.mirrored import decoded
from nyquist.companion.watch.pace import Pace
from nyquist.companion.watch.record import SHADOW, Disagreement, Key, Record, Seen
from nyquist.server.wire.byte_queue import ByteQueue
from nyquist.server.wire.connection import WrongConnection
from nyquist.server.wire.errors import InvalidRequest
from nyquist.server.wire.pb import shadow_pb2 as pb

logger = logging.getLogger(__name__)

STEPS = ((0, 1), (1, 0))
OUTLIER = 10.0
"""Spreads of the reference pictures' logits. What is beyond is an outlier, and counts as these."""

Mirrored = ByteQueue[pb.MirroredInference]
"""Inferences that wait to be compared."""

ONE_PIXEL = {"circular": shift_circularly, "zero_padded": shift_with_zeros}


class Allowance:
    """So many a second and no more; what was not used is lost after a second.

    Args:
        rate: a second; 0 allows none.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._left, self._then = rate, 0.0, monotonic()

    def spend(self, count: int) -> bool:
        """Return whether `count` more are allowed now, and take them off if they are."""
        now = monotonic()
        self._left = min(self._left + (now - self._then) * self._rate, max(self._rate, count))
        self._then = now
        if self._left < count or not self._rate:
            return False
        self._left -= count
        return True


@dataclass
class TrafficWindow:
    """The latest pictures of one graph's traffic.

    Attributes:
        sha256: of the graph.
        limit: pictures, about: requests are kept whole.
        parities: of each request.
        same: how far each answer stayed, 0..1, by protocol.
    """

    sha256: str
    limit: int
    parities: deque[Parity] = field(default_factory=deque)
    same: dict[str, deque[float]] = field(init=False)

    def __post_init__(self) -> None:
        self.same = {name: deque(maxlen=self.limit) for name in ONE_PIXEL}

    def add(self, parity: Parity) -> None:
        """Add a request; the oldest go where there are too many pictures."""
        self.parities.append(parity)
        held = sum(one.pictures for one in self.parities)
        while held - self.parities[0].pictures >= self.limit:
            held -= self.parities.popleft().pictures

    @property
    def seen(self) -> Seen:
        """What the window shows."""
        shares: dict[str, Consistency] = {
            name: consistency_of(np.array(same)) for name, same in self.same.items() if same
        }
        return Seen(pooled(self.parities), shares)


class ShadowWorker:
    """Compares what waits in the queue, in one thread.

    Args:
        queue: of what the server sends.
        client: of the server.
        references: of its models.
        metrics: that show what was found.
        record: that keeps it.
        pace: of the work.
        rate: moved pictures a second, at most, that the server is asked for.
        window: pictures that the figures are over.
    """

    def __init__(
        self,
        queue: Mirrored,
        client: Client,
        references: References,
        metrics: Metrics,
        record: Record,
        pace: Pace,
        rate: float,
        window: int,
    ) -> None:
        self._queue, self._client, self._references = queue, client, references
        self._metrics, self._record, self._pace = metrics, record, pace
        self._allowance, self._limit = Allowance(rate), window
        self._windows: dict[Key, TrafficWindow] = {}
        self._steps = cycle(STEPS)

    def run(self) -> None:
        """Compare until the queue is closed."""
        check = self._pace.paced(self._check)
        while (inference := self._queue.first()) is not None:
            try:
                check(inference)
            except Unverifiable:
                self._metrics.unverifiable.inc()
            except (InvalidRequest, grpc.RpcError, WrongConnection) as error:
                logger.warning("live traffic of %s: %s", inference.model_name, error)
            except Exception:
                logger.exception("live traffic of %s", inference.model_name)
            self._queue.done()

    def _check(self, inference: pb.MirroredInference) -> None:
        key = (inference.model_name, inference.model_version)
        known = self._references.loaded(key[0], number_of(key[1]), inference.sha256)
        pictures, served = decoded(inference, known)
        if known.reference is None or known.tolerances is None:
            raise Unverifiable(f"no reference of {key[0]!r}")
        reference = known.reference.predict(pictures)
        if not np.isfinite(reference).all():
            return  # a caller's NaN or infinity, which no graph need answer alike
        parity = compare(reference, served, known.head.same)
        window = self._window(key, inference.sha256)
        counted = parity.bounded(OUTLIER * (self._record.spread(key) or parity.spread))
        if counted != parity:
            self._metrics.shadow_outlier(key)
        window.add(counted)
        if parity.relative_error > known.tolerances.parity:
            at = int(np.nan_to_num(np.abs(reference - served), nan=np.inf).max(axis=1).argmax())
            self._disagree(inference, known, pictures[at], served[at], reference[at])
        self._move(key, known, pictures, served, window)
        if self._record.verifies(key, inference.sha256):  # still: its series may have ended
            self._show(key, window.seen)

    def _show(self, key: Key, seen: Seen) -> None:
        if seen.parity:
            self._metrics.parity(key, SHADOW, seen.parity)
        self._metrics.consistency(key, SHADOW, seen.consistency)
        self._metrics.shadow_checked(key)
        self._record.note_shadow(key, seen)

    def _window(self, key: Key, sha256: str) -> TrafficWindow:
        window = self._windows.get(key)
        if window is None or window.sha256 != sha256:
            window = self._windows[key] = TrafficWindow(sha256, self._limit)
        return window

    def _move(
        self,
        key: Key,
        known: LoadedReference,
        pictures: Pictures,
        served: Pictures,
        window: TrafficWindow,
    ) -> None:
        """Ask for the same pictures a pixel aside, as far as that is allowed."""
        if len(pictures) > known.max_batch_size:
            return
        if not self._allowance.spend(len(pictures) * len(ONE_PIXEL)):
            return
        remote = self._client.describe(*key)
        if remote.sha256 != window.sha256:
            return  # reloaded: it would be another graph's answer
        offsets = np.broadcast_to(next(self._steps), (len(pictures), 2))
        for name, shift in ONE_PIXEL.items():
            answer = self._client.infer(remote, shift(pictures, offsets, known.axes))
            window.same[name].extend(known.head.same(answer, served).tolist())

    def _disagree(
        self,
        inference: pb.MirroredInference,
        known: LoadedReference,
        picture: Pictures,
        served: Pictures,
        reference: Pictures,
    ) -> None:
        self._record.note_disagreement(
            Disagreement(
                time_s=time(),
                model=inference.model_name,
                version=inference.model_version,
                sha256=inference.sha256,
                source=SHADOW,
                layout=known.layout,
                picture=picture.copy(),
                served=served.copy(),
                reference=reference.copy(),
                labels=known.labels,
                head=known.head,
                trace_id=inference.trace_id,
            )
        )
