"""Records as a companion would keep them, for the pages that show them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.client.load import Reading
from nyquist.companion.measures.parity import Parity
from nyquist.companion.measures.shift_consistency import Consistency
from nyquist.companion.page.guard import hosts
from nyquist.companion.page.lab.routes import Lab
from nyquist.companion.page.lab.served import Models
from nyquist.companion.page.routes import routes
from nyquist.companion.page.web import REQUEST_S, WebListener, application
from nyquist.companion.watch.candidate import Comparison, Pair
from nyquist.companion.watch.history import History
from nyquist.companion.watch.limits import Limits
from nyquist.companion.watch.live import LiveLoad
from nyquist.companion.watch.metrics import Metrics
from nyquist.companion.watch.record import (
    PROBE,
    Disagreement,
    ModelState,
    Point,
    Record,
    Seen,
    ServerState,
)
from nyquist.companion.watch.rollouts import Rollouts
from nyquist.companion.watch.shift_trials import Progress
from nyquist.companion.watch.verdict import Verdict
from nyquist.server.artifact.manifest import Manifest
from nyquist.server.front.access import Authorizer
from nyquist.server.wire.connection import is_loopback

NOW_S = 1_790_000_000.0
PERIOD_S = 60.0
SHA256 = "5a" * 32
LABELS = ("shirt", "coat", "bag")
HEALTHY = Parity(2e-6, 1e-6, 1.0, 12, 2.0)
BROKEN = Parity(0.5, 0.01, 0.75, 12, 2.0)
SOUND, QUIET = ("sound", "1"), ("quiet", "1")
EVERY_S = 5.0


def new_record() -> Record:
    """Return a record that nothing was noted in."""
    return Record("127.0.0.1:8001", probes=100, disagreements=50, disagreement_bytes=1 << 20)


def filled_record(manifest: Manifest, probes: int = 30) -> Record:
    """Return a record of a healthy model, a failing one, and one without a reference."""
    record = new_record()
    record.note_server(ServerState("127.0.0.1:8001", up=True, since_s=NOW_S))
    for name, verdict, parity in (
        ("sound", Verdict.HEALTHY, HEALTHY),
        ("broken", Verdict.FAILING, BROKEN),
    ):
        record.note_model(state(name, verdict, parity, manifest))
        for at in range(probes):
            record.note_point((name, "1"), point(at, verdict, parity))
    record.note_model(
        replace(
            state("stranger", Verdict.UNVERIFIABLE, HEALTHY, manifest),
            manifest=None,
            probe=Seen(),
            reason="there is no reference of 'stranger' version 1, only of none",
        )
    )
    record.note_disagreement(disagreement())
    return record


def state(name: str, verdict: Verdict, parity: Parity, manifest: Manifest) -> ModelState:
    """Return how a version is after its last probe."""
    return ModelState(
        name=name,
        version="1",
        sha256=SHA256,
        provider="CPUExecutionProvider",
        verdict=verdict,
        since_s=NOW_S,
        reason="parity: logits differ" if verdict is Verdict.FAILING else "",
        probed_s=NOW_S,
        manifest=manifest,
        probe=Seen(parity, {"circular": Consistency(0.985, 0.004, 64)}),
        shadow=Seen(parity, {"zero_padded": Consistency(0.97, 0.01, 40)}),
    )


def young(manifest: Manifest) -> ModelState:
    """Return how a version is that is not known yet: a few circular shifts were tried."""
    made = Progress(16, 256, 3, 7, Consistency(14 / 16, 0.085, 16))
    begun = Progress(0, 256, 0, 7, None)
    return replace(
        state("young", Verdict.MEASURING, HEALTHY, manifest),
        reason="parity: measuring; circular shifts: 3 of 7 rounds",
        probe=Seen(None, {}, {"circular": made, "zero_padded": begun}),
        shadow=None,
    )


def point(at: int, verdict: Verdict, parity: Parity) -> Point:
    """Return the probe number `at`: its consistency is not known at first."""
    shares = {"circular": 0.985, "zero_padded": 0.95 + 0.001 * (at % 7), "half_pixel": 0.97}
    batches = [("onnxruntime", 1, 0.003), ("onnxruntime", 8, 0.012), ("torch", 1, 0.005)]
    return Point(
        time_s=NOW_S + PERIOD_S * at,
        sha256=SHA256,
        verdict=verdict,
        parity=parity,
        consistency=shares if at > 4 else {},
        latency_s={(path, size): seconds * (1 + 0.1 * (at % 3)) for path, size, seconds in batches},
    )


def disagreement(
    picture: NDArray[Any] | None = None, layout: str = "HWC", model: str = "broken"
) -> Disagreement:
    """Return a picture that is a coat when served, and a shirt to PyTorch."""
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8, 1) * 4
    return Disagreement(
        time_s=NOW_S,
        model=model,
        version="1",
        sha256=SHA256,
        source=PROBE,
        layout=layout,
        picture=grey if picture is None else picture,
        served=np.array([1.5, 2.0, -1.0], np.float32),
        reference=np.array([1.5, 1.25, -1.0], np.float32),
        labels=LABELS,
    )


def filled_history() -> History:
    """Return what is known of three candidates: one held, one hardly begun, one that is failing."""
    history, dice = History(), np.random.default_rng(0)
    for name, pictures, share in (("broken", 60, 0.5), ("sound", 5, 0.0), ("stranger", 3, 0.0)):
        pair = Pair(name, "1", "2", SHA256, "6b" * 32)
        for at in range(pictures):
            apart = float(dice.random() < share)
            flips, seconds = float(dice.random() < 0.1), 0.004 * dice.lognormal(0, 0.2)
            comparison = Comparison(NOW_S + at, apart, 0.0, flips, 0.9, 0.8, 0.004, seconds)
            history.note_comparison(pair, comparison)
            if apart:
                history.note_difference(pair, disagreement(), kept=20)
    return history


def readings(count: int) -> Iterator[Reading]:
    """Yield readings of 10 requests a second, a fifth slow; later 20; and one refused a second."""
    answered = 0.0
    for at in range(count):
        answered += EVERY_S * (10 if at < 30 else 20) if at else 0.0
        buckets = {0.01: 0.8 * answered, 0.1: 0.8 * answered, 0.2: answered, inf: answered}
        none = dict.fromkeys(buckets, 0.0)
        yield Reading(
            EVERY_S * at, {SOUND: buckets, QUIET: none}, {SOUND: EVERY_S * at}, {SOUND: 3.0}
        )


def filled_live(count: int = 60) -> LiveLoad:
    """Return what has looked so many times at a server under load."""
    steps = readings(count)
    live = LiveLoad(lambda: next(steps), "server:8002")
    for _ in range(count):
        live.look()
    return live


@contextmanager
def listening(
    record: Record,
    report: Path,
    metrics: Metrics | None = None,
    history: History | None = None,
    authorizer: Authorizer | None = None,
    *,
    host: str = "127.0.0.1",
    allowed_hosts: Sequence[str] = (),
    live: LiveLoad | None = None,
    request_s: float = REQUEST_S,
) -> Iterator[WebListener]:
    """Serve the pages of a record, as a companion does, on a free port."""
    metrics, history = metrics or Metrics(PERIOD_S), history or History()
    rollouts = Rollouts(Limits(), history)
    rollouts.note_failing(("stranger", "2"), "6b" * 32, "parity: logits differ")
    lab = Lab(Models([]))
    private = bool(authorizer) or is_loopback(host)
    live = live or LiveLoad(None, "")
    shown = routes(
        record, rollouts, history, metrics.registry, report, live, callers_pictures=private
    )
    pages = [*shown, *lab.routes()]
    listener = WebListener(
        application(metrics.registry, pages, hosts(allowed_hosts, host), authorizer),
        "127.0.0.1",
        0,
        request_s=request_s,
    )
    try:
        yield listener
    finally:
        listener.close()
        lab.close()
