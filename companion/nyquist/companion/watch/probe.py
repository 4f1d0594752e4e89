"""Ask the live server what PyTorch has answered, again and again.

schedule -> served versions -> reference of each -> parity and latency -> verdict -> shifts, a few
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from threading import Event
from time import monotonic, perf_counter, time
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from nyquist.client.client import RemoteModel
from nyquist.companion.measures.parity import Parity, Predict, compare
from nyquist.companion.measures.shift_consistency import Consistency
from nyquist.companion.measures.tolerances import consistency_misses, parity_misses
from nyquist.companion.references.network import Reference
from nyquist.companion.references.repository import LoadedReference, Unverifiable
from nyquist.companion.references.subjects import Subjects
from nyquist.companion.watch.metrics import Metrics
from nyquist.companion.watch.pace import Pace
from nyquist.companion.watch.record import (
    PROBE,
    SERVED,
    TORCH,
    UNVERSIONED,
    Disagreement,
    Key,
    ModelState,
    Point,
    Record,
    Seen,
    ServerState,
)
from nyquist.companion.watch.rollouts import Rollouts
from nyquist.companion.watch.shift_trials import CIRCULAR, ShiftTrials, fitting_protocols
from nyquist.companion.watch.verdict import Finding, Standing, Verdict
from nyquist.server.wire.connection import WrongConnection
from nyquist.server.wire.errors import ArtifactError

logger = logging.getLogger(__name__)

TURNS_A_PROBE = 1
"""Batches of each size that a probe compares."""

NO_REFERENCE = "no reference: its shift consistency is measured, its answers are held against none"


@dataclass(frozen=True)
class Compared:
    """What one probe measured.

    Attributes:
        parity: over all its pictures; None without a reference.
        latency_s: of each batch, by backend and batch size, in seconds.
        pictures: that were sent, (N, ...).
        served: logits of the server, (N, C).
        reference: logits of PyTorch, (N, C); None without a reference.
    """

    parity: Parity | None
    latency_s: Mapping[tuple[str, int], list[float]]
    pictures: NDArray[Any]
    served: NDArray[Any]
    reference: NDArray[Any] | None


@dataclass
class ProbedModel:
    """One version that is probed, as long as its graph and its reference stay the same.

    Attributes:
        remote: as the server describes it.
        known: what it is held against.
        trials: of shifts, by protocol.
        turn: probes so far.
    """

    remote: RemoteModel
    known: LoadedReference
    trials: dict[str, ShiftTrials] = field(init=False)
    turn: int = 0

    def __post_init__(self) -> None:
        same = self.known.head.same
        self.trials = {
            name: ShiftTrials(self.known.pictures, protocol, same=same)
            for name, protocol in fitting_protocols(self.known, self.known.pictures).items()
        }

    @property
    def key(self) -> Key:
        """Name and version."""
        return key_of(self.remote)

    @property
    def consistency(self) -> dict[str, Consistency]:
        """What is known of each protocol; those with trials left are left out."""
        measured = {name: trials.consistency for name, trials in self.trials.items()}
        return {name: share for name, share in measured.items() if share is not None}

    def next_batches(self) -> list[NDArray[Any]]:
        """Return the reference pictures of the next probe, in batches of each size."""
        sizes = self.known.batch_sizes * TURNS_A_PROBE
        ends = np.cumsum(sizes) + self.turn * sum(sizes)
        self.turn += 1
        pictures = self.known.pictures
        return [
            pictures[np.arange(end - size, end) % len(pictures)]
            for size, end in zip(sizes, ends, strict=True)
        ]

    def finding(self, parity: Parity | None) -> Finding | None:
        """Hold the figures against the tolerances; None where there are none to hold them to."""
        tolerances = self.known.tolerances
        if parity is None or tolerances is None:
            return None
        circular = self.consistency.get(CIRCULAR)
        return Finding(
            parity=parity.relative_error <= tolerances.parity,
            consistency=circular.share >= tolerances.consistency if circular else None,
        )


class Prober:
    """Probes every served version of every model that is looked at, in one thread.

    Args:
        subjects: models of the server, and what they are held against.
        metrics: that show what was found.
        record: that keeps it.
        rollouts: that are told which versions are served.
        pace: of the work.
        stopped: ends the probing.
    """

    def __init__(
        self,
        subjects: Subjects,
        metrics: Metrics,
        record: Record,
        rollouts: Rollouts,
        pace: Pace,
        stopped: Event,
    ) -> None:
        self._client, self._subjects = subjects.client, subjects
        self._metrics, self._record, self._rollouts = metrics, record, rollouts
        self._pace, self._stopped = pace, stopped
        self._probed: dict[Key, ProbedModel] = {}
        self._standings: dict[Key, Standing] = {}

    def run(self, period_s: float, shifts: int) -> None:
        """Probe once every period until stopped; what a probe leaves of it is for shifts.

        Args:
            period_s: from the start of one probe to that of the next.
            shifts: trials of each protocol in a period, once each has been made.
        """
        while not self._stopped.is_set():
            began = monotonic()
            due = began + period_s
            try:
                self.probe()
                now = monotonic()  # where probing takes a period, shifts get as long as it took
                self.try_shifts(shifts, max(due, 2 * now - began))
            except grpc.RpcError as error:
                logger.warning("a probe ended early: %s", _in_words(error))
            except (ArtifactError, WrongConnection) as error:
                logger.warning("nothing can be probed: %s", error)
            except Exception:
                logger.exception("a probe failed")
            self._stopped.wait(max(0.0, due - monotonic()))

    def probe(self) -> None:
        """Compare every served version once, and judge it."""
        if not self._server_answers():
            self._metrics.probes["failed"].inc()
            return
        served: set[Key] = set()
        names = self._subjects.names()
        if not names:
            logger.warning("nothing can be probed: the repository holds no model yet")
        for name in names:
            served |= self._probe_model(name)
        for key in self._standings.keys() - served:
            self._forget(key)

    def try_shifts(self, shifts: int, due: float) -> None:
        """Make trials of every version until there are enough of them, or it is due."""
        for subject in list(self._probed.values()):
            predict = self._served(subject)
            for trials in subject.trials.values():
                end = trials.done + (trials.left or shifts)
                while trials.done < end and not self._stopped.is_set():
                    trials.make(predict, min(end - trials.done, subject.known.trials_a_call))
                    if monotonic() > due:
                        break  # the next probe comes first
            self._metrics.consistency(subject.key, PROBE, subject.consistency)

    def _server_answers(self) -> bool:
        """Ask whether the server is there, and say so once when that changes."""
        before = self._record.server()
        try:
            self._client.ready()
            up, reason = True, ""
        except grpc.RpcError as error:
            up = error.code() is grpc.StatusCode.UNIMPLEMENTED  # it is there, and has no health
            reason = "" if up else _in_words(error)
        self._metrics.server_up.set(up)
        if up is not before.up:
            self._record.note_server(ServerState(before.target, up, time(), reason))
            if up:
                logger.info("the server at %s answers", before.target)
            else:
                logger.warning("the server at %s is away: %s", before.target, reason)
        return up

    def _probe_model(self, name: str) -> set[Key]:
        """Probe the versions of one model, and return those that are served."""
        try:
            versions = self._client.describe(name).versions
        except (grpc.RpcError, ValueError) as error:
            if not _gone(error):
                self._metrics.probes["failed"].inc()
                logger.warning("%s cannot be probed: %s", name, _in_words(error))
            return {key for key in self._standings if key[0] == name and not _gone(error)}
        versions = versions or ("",)
        for version in versions:
            try:
                self._probe_version(self._client.describe(name, version))
            except (grpc.RpcError, ValueError) as error:
                self._metrics.probes["failed"].inc()
                logger.warning("%s version %s: %s", name, version, _in_words(error))
        self._rollouts.note_served(name, versions)
        return {(name, version or UNVERSIONED) for version in versions}

    def _probe_version(self, remote: RemoteModel) -> None:
        key = key_of(remote)
        try:
            subject = self._subject(remote)
        except (Unverifiable, ValueError) as error:
            self._unverifiable(remote, str(error))
            return
        while not self._stopped.is_set():
            try:
                compared = self._compare(subject)
            except Unverifiable as error:  # the reference does not take what the server does
                self._unverifiable(remote, str(error))
                return
            if self._client.describe(remote.name, remote.version).sha256 != remote.sha256:
                return  # reloaded meanwhile: these answers are of neither graph
            self._judge(subject, compared)
            standing = self._standings[key]
            if (
                standing.verdict in (Verdict.FAILING, Verdict.UNVERIFIABLE)
                or not standing.bad_parity
            ):
                return  # else ask again at once: one bad answer is no proof, and a period is long

    def _subject(self, remote: RemoteModel) -> ProbedModel:
        """Return what is probed of a version: as before, or afresh if anything has changed."""
        known = self._subjects.known(remote)
        key = key_of(remote)
        subject = self._probed.get(key)
        if (
            subject is None
            or subject.known.manifest is not known.manifest
            or subject.remote.sha256 != remote.sha256
        ):
            logger.info("probing %s version %s, sha256 %s", *key, remote.sha256 or "not told")
            self._metrics.forget_figures(key)
            self._metrics.know(key, known.tolerances)
            whole = self._subjects.completed(remote, known)
            subject = self._probed[key] = ProbedModel(whole, known)
        return subject

    def _served(self, subject: ProbedModel) -> Predict:
        remote = subject.remote
        return self._pace.paced(lambda pictures: self._client.infer(remote, pictures))

    def _compare(self, subject: ProbedModel) -> Compared:
        """Send the next reference pictures through both paths, and time them."""
        latency_s: dict[tuple[str, int], list[float]] = {}
        answers: dict[str, list[NDArray[Any]]] = {SERVED: [], TORCH: []}
        paths: dict[str, Predict] = {
            SERVED: lambda pictures: self._client.infer(subject.remote, pictures)
        }
        if subject.known.reference:
            paths[TORCH] = subject.known.reference.predict
        batches = subject.next_batches()
        for batch in batches:
            for backend, predict in paths.items():
                logits, seconds = self._pace.paced(_timed)(predict, batch)
                answers[backend].append(logits)
                latency_s.setdefault((backend, len(batch)), []).append(seconds)
                self._metrics.took(subject.key, backend, len(batch), seconds)
        pictures, served = np.concatenate(batches), np.concatenate(answers[SERVED])
        if not answers[TORCH]:
            return Compared(None, latency_s, pictures, served, None)
        reference = np.concatenate(answers[TORCH])
        parity = compare(reference, served, subject.known.head.same)
        return Compared(parity, latency_s, pictures, served, reference)

    def _judge(self, subject: ProbedModel, compared: Compared) -> None:
        """Take down what a probe has found, and what it makes of the verdict."""
        key, parity, now = subject.key, compared.parity, time()
        finding = subject.finding(parity)
        standing = self._standing(subject.remote).after(finding)
        if parity:
            self._metrics.parity(key, PROBE, parity)
        self._metrics.probes["ok"].inc()
        if finding and not finding.parity:
            self._record.note_disagreement(worst_of(subject, compared, now))
        seen = Seen(parity, subject.consistency)
        self._stand(subject.remote, standing, reason_of(subject, parity), subject.known, seen)
        self._record.note_point(
            key,
            Point(
                time_s=now,
                sha256=subject.remote.sha256,
                verdict=standing.verdict or Verdict.UNVERIFIABLE,
                parity=parity,
                consistency={name: one.share for name, one in seen.consistency.items()},
                latency_s={path: median(times) for path, times in compared.latency_s.items()},
            ),
        )

    def _unverifiable(self, remote: RemoteModel, reason: str) -> None:
        key = key_of(remote)
        self._probed.pop(key, None)
        self._metrics.forget(key)
        standing = self._standing(remote).after(None)
        self._stand(remote, standing, reason, None, Seen())

    def _stand(
        self,
        remote: RemoteModel,
        standing: Standing,
        reason: str,
        known: LoadedReference | None,
        seen: Seen,
    ) -> None:
        """Show where a version stands, and say so in the log when its verdict changes."""
        key, now = key_of(remote), time()
        before = self._standings.get(key, Standing()).verdict
        verdict = standing.verdict or Verdict.UNVERIFIABLE
        self._standings[key] = standing
        last = self._record.verdict(key, remote.sha256)
        since = last[1] if last and last[0] is verdict else now
        self._record.note_model(
            ModelState(
                name=remote.name,
                version=key[1],
                sha256=remote.sha256,
                provider=remote.provider,
                verdict=verdict,
                since_s=since,
                reason=reason,
                probed_s=now,
                manifest=known.manifest if known else None,
                probe=seen,
            )
        )
        if verdict is Verdict.FAILING:
            self._rollouts.note_failing(key, remote.sha256, reason)
        if verdict is not before:
            level = logging.INFO if verdict is Verdict.HEALTHY else logging.WARNING
            words = f": {reason}" if reason else ""
            logger.log(level, "%s version %s is %s%s", *key, verdict.value, words)

    def _standing(self, remote: RemoteModel) -> Standing:
        """Return where a version stands; at first as the last run of the companion left it."""
        last = self._record.verdict(key_of(remote), remote.sha256)
        return self._standings.get(key_of(remote), Standing(last[0]) if last else Standing())

    def _forget(self, key: Key) -> None:
        logger.info("%s version %s is not served any more", *key)
        self._probed.pop(key, None)
        self._standings.pop(key, None)
        self._metrics.forget(key)
        self._record.forget(key)


def worst_of(subject: ProbedModel, compared: Compared, now: float) -> Disagreement:
    """Return the picture of a probe whose answers lie furthest apart."""
    reference = compared.served if compared.reference is None else compared.reference
    apart = np.nan_to_num(np.abs(reference - compared.served), nan=np.inf).max(axis=1)
    at = int(apart.argmax())
    return Disagreement(
        time_s=now,
        model=subject.remote.name,
        version=subject.key[1],
        sha256=subject.remote.sha256,
        source=PROBE,
        layout=subject.known.layout,
        picture=compared.pictures[at].copy(),
        served=compared.served[at].copy(),
        reference=reference[at].copy(),
        labels=subject.known.labels,
        head=subject.known.head,
    )


def key_of(remote: RemoteModel) -> Key:
    """Return name and version, as the record, the metrics and the page have them."""
    return remote.name, remote.version or UNVERSIONED


def reason_of(subject: ProbedModel, parity: Parity | None) -> str:
    """Say which tolerances a version misses, and what it is held against if not PyTorch."""
    allowed = subject.known.tolerances
    if parity is None or allowed is None:
        return NO_REFERENCE
    circular = subject.consistency.get(CIRCULAR)
    said = [*parity_misses(parity.relative_error, parity.max_abs_error, allowed.parity)]
    if circular:
        said += consistency_misses(circular.share, allowed.consistency)
    reference = subject.known.reference
    if reference and reference.words != Reference.words:
        said.append(f"held against an {reference.words}")
    return "; ".join(said)


def _timed(predict: Predict, batch: NDArray[Any]) -> tuple[NDArray[Any], float]:
    start = perf_counter()
    return predict(batch), perf_counter() - start


def _gone(error: grpc.RpcError | ValueError) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.NOT_FOUND


def _in_words(error: grpc.RpcError | ValueError) -> str:
    if isinstance(error, ValueError):
        return str(error)
    return f"{error.code().name}: {error.details()}"
