"""What the companion has seen, kept in memory and bounded: what the page shows.

probe, shadow -> Record -> the page, through `models`, `history`, `disagreements` and `server`

All that is handed out is frozen; a reader may keep it and needs no lock.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, Protocol

from numpy.typing import NDArray

from nyquist.companion.measures.parity import Parity
from nyquist.companion.measures.shift_consistency import Consistency
from nyquist.companion.references.subjects import number_of
from nyquist.companion.watch.shift_trials import Progress
from nyquist.companion.watch.verdict import Verdict
from nyquist.server.artifact.manifest import Manifest
from nyquist.server.wire.head import CLASSES, Head

Key = tuple[str, str]
"""Name and version of a model."""

UNVERSIONED = "none"
"""Version of a model whose server has none: to Prometheus an empty label is a missing one."""

PROBE, SHADOW = "probe", "shadow"
SERVED, TORCH = "onnxruntime", "torch"
BACKENDS = (SERVED, TORCH)


@dataclass(frozen=True)
class Seen:
    """What one source has seen of the graph that is served now.

    Attributes:
        parity: against PyTorch; None before the first comparison.
        consistency: under shifts, by protocol; those that are not known yet are left out.
        progress: of those, by protocol.
    """

    parity: Parity | None = None
    consistency: Mapping[str, Consistency] = field(default_factory=dict)
    progress: Mapping[str, Progress] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelState:
    """How one version of a model is.

    Attributes:
        name: of the model.
        version: of it.
        sha256: of the graph that is served; empty where the server does not say.
        provider: execution provider that runs it; likewise.
        verdict: on it.
        since_s: when the verdict became this one, in Unix time.
        reason: why it is not healthy, in words; empty if it is.
        probed_s: when it was last probed, in Unix time.
        manifest: of its reference; None if it is unverifiable, or has none.
        probe: what the probes have seen.
        shadow: what live traffic has shown; None before there was any.
    """

    name: str
    version: str
    sha256: str
    provider: str
    verdict: Verdict
    since_s: float
    reason: str
    probed_s: float
    manifest: Manifest | None
    probe: Seen
    shadow: Seen | None = None

    @property
    def key(self) -> Key:
        """Name and version."""
        return self.name, self.version


@dataclass(frozen=True)
class Point:
    """One probe in the history of a version.

    Attributes:
        time_s: when, in Unix time.
        sha256: of the graph that was served then.
        verdict: after it.
        parity: that it measured; None without a reference.
        consistency: shares by protocol, as they were known then.
        latency_s: median time of a batch, by backend (BACKENDS) and batch size, in seconds.
    """

    time_s: float
    sha256: str
    verdict: Verdict
    parity: Parity | None
    consistency: Mapping[str, float]
    latency_s: Mapping[tuple[str, int], float]


@dataclass(frozen=True)
class Disagreement:
    """One picture that the served graph and PyTorch answer differently.

    Attributes:
        time_s: when, in Unix time.
        model: name of the model.
        version: of it.
        sha256: of the graph that answered.
        source: PROBE or SHADOW.
        layout: order of the picture's axes: CHW or HWC.
        picture: as the model takes it, without the batch.
        served: logits of the served graph, (C,).
        reference: logits of PyTorch, (C,).
        labels: of the classes; empty where the model has none.
        head: how they are read.
        trace_id: of the request, hexadecimal; empty for probes and where it had none.
    """

    time_s: float
    model: str
    version: str
    sha256: str
    source: str
    layout: str
    picture: NDArray[Any]
    served: NDArray[Any]
    reference: NDArray[Any]
    labels: tuple[str, ...]
    head: Head = CLASSES
    trace_id: str = ""

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return self.picture.nbytes + self.served.nbytes + self.reference.nbytes


@dataclass(frozen=True)
class ServerState:
    """How the server is to reach.

    Attributes:
        target: HOST:PORT.
        up: whether it answered when the last probe began; None before the first.
        since_s: when that became so, in Unix time.
        reason: why it is away, in words; empty if it is not.
    """

    target: str
    up: bool | None = None
    since_s: float = 0.0
    reason: str = ""


class Kept(Protocol):
    """What outlives the record."""

    def points(self, latest: int, /) -> Mapping[Key, Iterable[Point]]:
        """Return the latest probes of each version, the oldest first."""

    def verdict(self, key: Key, sha256: str, /) -> tuple[Verdict, float] | None:
        """Return the last verdict on a graph, and when it became so."""

    def note_probe(self, key: Key, point: Point, /) -> None:
        """Keep a probe."""

    def note_verdict(self, key: Key, sha256: str, verdict: Verdict, reason: str, /) -> None:
        """Keep a verdict that has become another."""


class Record:
    """Keeps the latest of everything; safe to use from several threads.

    Args:
        target: HOST:PORT of the server.
        probes: kept of each version.
        disagreements: kept of all versions together.
        disagreement_bytes: that those may take.
        kept: of earlier runs, and for later ones; None: nothing is.
    """

    def __init__(
        self,
        target: str,
        probes: int,
        disagreements: int,
        disagreement_bytes: int,
        kept: Kept | None = None,
    ) -> None:
        self._probes, self._limit_bytes = probes, disagreement_bytes
        self._limit, self._kept = disagreements, kept
        self._server = ServerState(target)
        self._models: dict[Key, ModelState] = {}
        self._history = {
            key: deque(points, maxlen=probes)
            for key, points in (kept.points(probes) if kept else {}).items()
        }
        self._disagreements: deque[Disagreement] = deque()
        self._held_bytes = 0
        self._lock = Lock()

    def server(self) -> ServerState:
        """Return how the server is to reach."""
        with self._lock:
            return self._server

    def models(self) -> tuple[ModelState, ...]:
        """Return every version that is served, by name and number."""
        with self._lock:
            return tuple(
                sorted(
                    self._models.values(), key=lambda state: (state.name, number_of(state.version))
                )
            )

    def history(self, name: str, version: str) -> tuple[Point, ...]:
        """Return the probes of a version, the oldest first."""
        with self._lock:
            return tuple(self._history.get((name, version), ()))

    def disagreements(self, name: str = "") -> tuple[Disagreement, ...]:
        """Return the disagreements of one model, or of all, the latest first."""
        with self._lock:
            return tuple(one for one in reversed(self._disagreements) if name in ("", one.model))

    def verifies(self, key: Key, sha256: str) -> bool:
        """Say whether this graph of a version is served and its reference is known."""
        with self._lock:
            state = self._models.get(key)
            return state is not None and state.manifest is not None and state.sha256 == sha256

    def spread(self, key: Key) -> float:
        """Return that of the logits of a version's reference pictures; 0 before it was probed."""
        with self._lock:
            state = self._models.get(key)
        return state.probe.parity.spread if state and state.probe.parity else 0.0

    def verdict(self, key: Key, sha256: str) -> tuple[Verdict, float] | None:
        """Return the last verdict on a graph and when it became so, this run or an earlier one."""
        with self._lock:
            state = self._models.get(key)
        if state and state.sha256 == sha256:
            return state.verdict, state.since_s
        return self._kept.verdict(key, sha256) if self._kept else None

    def note_server(self, state: ServerState) -> None:
        """Take down how the server is."""
        with self._lock:
            self._server = state

    def note_model(self, state: ModelState) -> None:
        """Take down how a version is; what live traffic showed of the same graph stays."""
        before = self.verdict(state.key, state.sha256)
        with self._lock:
            known = self._models.get(state.key)
            if known and known.sha256 == state.sha256 and state.shadow is None:
                state = replace(state, shadow=known.shadow)
            self._models[state.key] = state
        if self._kept and (before is None or before[0] is not state.verdict):
            self._kept.note_verdict(state.key, state.sha256, state.verdict, state.reason)

    def note_shadow(self, key: Key, seen: Seen) -> None:
        """Take down what live traffic shows of a version."""
        with self._lock:
            if key in self._models:
                self._models[key] = replace(self._models[key], shadow=seen)

    def note_point(self, key: Key, point: Point) -> None:
        """Add a probe to the history of a version."""
        with self._lock:
            self._history.setdefault(key, deque(maxlen=self._probes)).append(point)
        if self._kept:
            self._kept.note_probe(key, point)

    def note_disagreement(self, disagreement: Disagreement) -> None:
        """Add a disagreement; the oldest go where there are too many."""
        with self._lock:
            self._disagreements.append(disagreement)
            self._held_bytes += disagreement.size_bytes
            while len(self._disagreements) > self._limit or self._held_bytes > self._limit_bytes:
                self._held_bytes -= self._disagreements.popleft().size_bytes

    def forget(self, key: Key) -> None:
        """Drop a version that is not served any more; its disagreements stay."""
        with self._lock:
            self._models.pop(key, None)
            self._history.pop(key, None)
