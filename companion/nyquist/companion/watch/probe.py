"""Ask the live server what PyTorch has answered, again and again.

schedule -> served versions -> reference of each -> parity and latency -> verdict -> shifts, a few

A version that is new gets a first answer before any gets a whole one: one round of shifts, then one
picture through both paths.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from statistics import median
from threading import Event
from time import monotonic, perf_counter, time
from typing import Any, TypeVar

import grpc
import numpy as np
from numpy.typing import NDArray

from nyquist.client.client import RemoteModel
from nyquist.companion.measures.parity import Parity, Predict, compare
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

S = TypeVar("S")
T = TypeVar("T")

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
        parity: that the last probe found; None before the first, and without a reference.
        turn: probes so far.
    """

    remote: RemoteModel
    known: LoadedReference
    trials: dict[str, ShiftTrials] = field(init=False)
    parity: Parity | None = None
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
    def cost(self) -> float:
        """Multiply-adds of a picture; the cheap models are looked at first."""
        manifest = self.known.manifest
        return manifest.figures.multiply_adds if manifest else inf

    @property
    def seen(self) -> Seen:
        """What is known; a protocol with trials left has its progress instead of its figure."""
        measured = {name: trials.consistency for name, trials in self.trials.items()}
        return Seen(
            self.parity,
            {name: share for name, share in measured.items() if share is not None},
            {name: self.trials[name].progress for name, share in measured.items() if share is None},
        )

    def next_batches(self) -> list[NDArray[Any]]:
        """Return the reference pictures of the next probe, in batches of each size.

        That of the first is one picture: all models are to have a first answer soon.
        """
        sizes = self.known.batch_sizes * TURNS_A_PROBE if self.turn else self.known.batch_sizes[:1]
        ends = np.cumsum(sizes) + self.turn * sum(sizes)
        self.turn += 1
        pictures = self.known.pictures
        return [
            pictures[np.arange(end - size, end) % len(pictures)]
            for size, end in zip(sizes, ends, strict=True)
        ]

    @property
    def finding(self) -> Finding | None:
        """Hold the figures against the tolerances; None where there are none to hold them to."""
        tolerances = self.known.tolerances
        if self.known.reference is None or tolerances is None:
            return None
        parity, circular = self.parity, self.trials[CIRCULAR].consistency
        return Finding(
            parity=parity.relative_error <= tolerances.parity if parity else None,
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
        remotes: list[RemoteModel] = []
        for name in names:
            served |= self._find(name, remotes)
        found = [self._attempt(self._asked, remote, remote) for remote in remotes]
        subjects = sorted((one for one in found if one), key=lambda one: one.cost)
        for step in (self._look_first, self._probe_version):
            for subject in subjects:
                self._attempt(step, subject, subject.remote)
        for key in self._standings.keys() - served:
            self._forget(key)

    def try_shifts(self, shifts: int, due: float) -> None:
        """Make trials until there are enough of them, or it is due; what is known gets its turn."""
        subjects = sorted(self._probed.values(), key=lambda one: one.cost)
        every = [(subject, trials) for subject in subjects for trials in subject.trials.values()]
        known = [(subject, trials) for subject, trials in every if not trials.left]
        for subject, trials, end in rounds_left(subjects):
            self._make(subject, trials, end, due)
            if monotonic() > due:
                break  # the next probe comes first
        for subject, trials in known:
            self._make(subject, trials, trials.done + shifts, due)

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

    def _find(self, name: str, remotes: list[RemoteModel]) -> set[Key]:
        """Describe the versions of one model, and return those that are served."""
        try:
            versions = self._client.describe(name).versions or ("",)
        except (grpc.RpcError, ValueError) as error:
            if not _gone(error):
                self._metrics.probes["failed"].inc()
                logger.warning("%s cannot be probed: %s", name, _in_words(error))
            return {key for key in self._standings if key[0] == name and not _gone(error)}
        for version in versions:
            try:
                remotes.append(self._client.describe(name, version))
            except (grpc.RpcError, ValueError) as error:
                self._failed(name, version, error)
        self._rollouts.note_served(name, versions)
        return {(name, version or UNVERSIONED) for version in versions}

    def _attempt(self, step: Callable[[S], T], of: S, remote: RemoteModel) -> T | None:
        """Take a step of one version, whose failure is not that of the others."""
        try:
            return None if self._stopped.is_set() else step(of)
        except Unverifiable as error:
            self._unverifiable(remote, str(error))
        except (grpc.RpcError, ValueError) as error:
            self._failed(remote.name, remote.version, error)
        return None

    def _failed(self, name: str, version: str, error: grpc.RpcError | ValueError) -> None:
        self._metrics.probes["failed"].inc()
        logger.warning("%s version %s: %s", name, version, _in_words(error))

    def _look_first(self, subject: ProbedModel) -> None:
        """Make the first round of shifts, which are asked of the server alone."""
        trials = subject.trials[CIRCULAR]
        if not trials.done:
            self._make(subject, trials, trials.ends[0], inf)

    def _make(self, subject: ProbedModel, trials: ShiftTrials, end: int, due: float) -> None:
        """Make trials up to an end, or until it is due, and show what they say."""
        predict = self._served(subject)
        while trials.done < end and not self._stopped.is_set():
            trials.make(predict, min(end - trials.done, subject.known.trials_a_call))
            if monotonic() > due:
                break
        self._metrics.consistency(subject.key, PROBE, subject.seen.consistency)
        standing, finding = self._standing(subject.remote), subject.finding
        if standing.verdict is Verdict.MEASURING and finding and finding.whole:
            standing = standing.after(finding)
        self._stand(subject, standing)

    def _probe_version(self, subject: ProbedModel) -> None:
        remote = subject.remote
        while not self._stopped.is_set():
            compared = self._compare(subject)
            if self._client.describe(remote.name, remote.version).sha256 != remote.sha256:
                return  # reloaded meanwhile: these answers are of neither graph
            self._judge(subject, compared)
            standing = self._standings[subject.key]
            if (
                standing.verdict in (Verdict.FAILING, Verdict.UNVERIFIABLE)
                or not standing.bad_parity
            ):
                return  # else ask again at once: one bad answer is no proof, and a period is long

    def _asked(self, remote: RemoteModel) -> ProbedModel:
        """Return what is probed of a version. Raises Unverifiable where nobody says what it is."""
        try:
            return self._subject(remote)
        except ValueError as error:
            raise Unverifiable(str(error)) from error

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
            self._stand(subject, self._standing(remote).after(subject.finding))
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
        key, now = subject.key, time()
        subject.parity = compared.parity
        finding = subject.finding
        standing = self._standing(subject.remote).after(finding)
        if compared.parity:
            self._metrics.parity(key, PROBE, compared.parity)
        self._metrics.probes["ok"].inc()
        if finding and finding.parity is False:
            self._record.note_disagreement(worst_of(subject, compared, now))
        self._stand(subject, standing)
        consistency = subject.seen.consistency
        self._record.note_point(
            key,
            Point(
                time_s=now,
                sha256=subject.remote.sha256,
                verdict=standing.verdict or Verdict.UNVERIFIABLE,
                parity=compared.parity,
                consistency={name: one.share for name, one in consistency.items()},
                latency_s={path: median(times) for path, times in compared.latency_s.items()},
            ),
        )

    def _unverifiable(self, remote: RemoteModel, reason: str) -> None:
        key = key_of(remote)
        self._probed.pop(key, None)
        self._metrics.forget(key)
        self._show(remote, self._standing(remote).after(None), reason, None, Seen())

    def _stand(self, subject: ProbedModel, standing: Standing) -> None:
        self._show(subject.remote, standing, reason_of(subject), subject.known, subject.seen)

    def _show(
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
            well = verdict in (Verdict.HEALTHY, Verdict.MEASURING)
            level = logging.INFO if well else logging.WARNING
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


def reason_of(subject: ProbedModel) -> str:
    """Say what a version misses, what is not known yet, and what stands in for PyTorch."""
    allowed, reference = subject.known.tolerances, subject.known.reference
    if reference is None or allowed is None:
        return NO_REFERENCE
    said: list[str] = []
    if subject.parity is None:
        said.append("parity: measuring")
    else:
        parity = subject.parity
        said += parity_misses(parity.relative_error, parity.max_abs_error, allowed.parity)
    circular = subject.trials[CIRCULAR]
    if circular.consistency is None:
        said.append(f"circular shifts: {circular.progress.words}")
    else:
        said += consistency_misses(circular.consistency.share, allowed.consistency)
    if reference.words != Reference.words:
        said.append(f"held against an {reference.words}")
    return "; ".join(said)


def rounds_left(
    subjects: Sequence[ProbedModel],
) -> Iterator[tuple[ProbedModel, ShiftTrials, int]]:
    """Yield the rounds that are left and where each ends: of all models before the next round.

    The protocol that is judged comes before the others.
    """
    for judged in (True, False):
        left = [
            (subject, trials)
            for subject in subjects
            for name, trials in subject.trials.items()
            if trials.left and (name == CIRCULAR) is judged
        ]
        for at in range(max((len(trials.ends) for _, trials in left), default=0)):
            for subject, trials in left:
                if at < len(trials.ends) and trials.done < trials.ends[at]:
                    yield subject, trials, trials.ends[at]


def _timed(predict: Predict, batch: NDArray[Any]) -> tuple[NDArray[Any], float]:
    start = perf_counter()
    return predict(batch), perf_counter() - start


def _gone(error: grpc.RpcError | ValueError) -> bool:
    return isinstance(error, grpc.RpcError) and error.code() is grpc.StatusCode.NOT_FOUND


def _in_words(error: grpc.RpcError | ValueError) -> str:
    if isinstance(error, ValueError):
        return str(error)
    return f"{error.code().name}: {error.details()}"
