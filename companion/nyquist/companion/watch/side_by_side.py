"""Live pictures, answered by both versions of a model that are served: a candidate's evidence.

an inference -> two versions served? -> a picture, and moved by a pixel -> both -> Rollouts

The candidate is the highest version that is served, the baseline the one below it. Whichever
answered the caller, both are asked anew, either of them first by turns, so that neither has the
warmer caches. One picture of each request is taken: those of one request are often alike.
"""

import logging
from dataclasses import dataclass
from itertools import cycle
from threading import Event
from time import perf_counter, time
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from nyquist.client.client import RemoteModel
from nyquist.companion.measures.shifts import Pictures, shift_with_zeros
from nyquist.companion.references.subjects import Subjects
from nyquist.companion.watch.candidate import Comparison, Pair
from nyquist.companion.watch.mirrored import pictures_of
from nyquist.companion.watch.record import SHADOW, Disagreement
from nyquist.companion.watch.rollouts import Rollouts
from nyquist.models.spec import Preprocessing
from nyquist.server.wire.byte_queue import ByteQueue
from nyquist.server.wire.connection import WrongConnection
from nyquist.server.wire.errors import NyquistError
from nyquist.server.wire.framing import DYNAMIC
from nyquist.server.wire.head import Head
from nyquist.server.wire.pb import shadow_pb2 as pb

logger = logging.getLogger(__name__)

WAITING = 4
WAITING_BYTES = 16 * 1024 * 1024
"""Inferences that wait: a sample, so that what finds no room is not missed."""

MOVES = np.array([[0, 1], [1, 0]])
"""Right and down; in turn with left and up."""

REFUSED = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT)
"""A version that says this has no answer to a picture; others say nothing of the version."""

Waiting = ByteQueue[pb.MirroredInference]


@dataclass(frozen=True)
class Rivals:
    """Two versions that are served at once.

    Attributes:
        baseline: the lower number.
        candidate: the highest.
    """

    baseline: RemoteModel
    candidate: RemoteModel

    @property
    def pair(self) -> Pair:
        """By their graphs."""
        old, new = self.baseline, self.candidate
        return Pair(new.name, old.version, new.version, old.sha256, new.sha256)

    @property
    def misfit(self) -> str:
        """Why callers of the one cannot be answered by the other; empty if they can."""
        old, new = self.baseline, self.candidate
        if old.datatype != new.datatype or not covers(new.shape, old.shape):
            said = f"takes {_input(new)}, version {old.version} {_input(old)}"
        elif _answer(old) != _answer(new):
            said = f"answers with {_answer(new)}, version {old.version} {_answer(old)}"
        else:
            return ""
        return f"version {new.version} {said}"


@dataclass(frozen=True)
class Answer:
    """What a version made of one picture.

    Attributes:
        numbers: of the picture and then of its moves, (1 + moves, n); None where it has none.
        seconds: that it took.
    """

    numbers: NDArray[Any] | None
    seconds: float


class SideBySide:
    """Compares versions on what waits in the queue, in one thread.

    Args:
        subjects: models of the server that are looked at.
        rollouts: that take comparisons down.
        rate: pictures a second, at most, that both versions are asked for; 0: none.
        stopped: ends the work.
    """

    def __init__(self, subjects: Subjects, rollouts: Rollouts, rate: float, stopped: Event) -> None:
        self._client, self._subjects, self._rollouts = subjects.client, subjects, rollouts
        self._rate, self._stopped = rate, stopped
        self._dice = np.random.default_rng()
        self._queue: Waiting = ByteQueue(WAITING, WAITING_BYTES, lambda one: one.ByteSize())
        self._rivals: dict[str, Rivals | None] = {}
        self._turns = cycle((1, -1))

    def offer(self, inference: pb.MirroredInference) -> None:
        """Take an inference in, if there is room. Waits for nothing."""
        if self._rate:
            self._queue.put(inference)

    def close(self) -> None:
        """Take nothing any more."""
        self._queue.close()

    def run(self) -> None:
        """Compare until the queue is closed."""
        while (inference := self._queue.first()) is not None:
            began = perf_counter()
            try:
                self.compare(inference)
            except (grpc.RpcError, NyquistError, WrongConnection, ValueError) as error:
                self._rivals.pop(inference.model_name, None)
                logger.debug("versions of %s: %s", inference.model_name, error)
            except Exception:
                logger.exception("versions of %s", inference.model_name)
            self._queue.done()
            self._stopped.wait(max(0.0, 1 / self._rate - (perf_counter() - began)))

    def compare(self, inference: pb.MirroredInference) -> None:
        """Ask both versions for one picture of an inference, if there are two.

        Raises:
            grpc.RpcError: the server has it.
            ValueError: what it says of the model cannot be understood, or the picture not be read.
            ArtifactError: nothing says which models are looked at.
        """
        name = inference.model_name
        if name not in self._subjects.names():
            return
        rivals = self._rivals.get(name) or self._find(name)
        if rivals is None:
            return
        if rivals.misfit:
            self._rollouts.note_misfit(rivals.pair, rivals.misfit)
            self._rivals[name] = self._find(name)
            return
        picture = self._picture(inference)
        compared = self._ask(rivals, picture)
        now = self._rivals[name] = self._find(name)
        if compared is None or now is None or now.pair != rivals.pair:
            return  # reloaded meanwhile: these answers are of neither pair
        baseline, candidate = compared
        comparison = comparison_of(rivals.candidate.head, baseline, candidate, inference.trace_id)
        self._rollouts.note(rivals.pair, comparison)
        if comparison.disagreement and candidate.numbers is not None:
            difference = self._difference(rivals, picture, baseline, candidate, inference.trace_id)
            self._rollouts.note_difference(rivals.pair, difference)

    def _find(self, name: str) -> Rivals | None:
        """Ask the server for the two highest versions of a model; None if it serves one."""
        versions = self._client.describe(name).versions
        self._rollouts.note_served(name, versions)
        if len(versions) < 2:
            return None
        old, new = (self._client.describe(name, version) for version in versions[-2:])
        return Rivals(old, new)

    def _picture(self, inference: pb.MirroredInference) -> Pictures:
        """Return one picture, (1, ...)."""
        pictures = pictures_of(inference)
        at = int(self._dice.integers(len(pictures)))
        return pictures[at : at + 1]

    def _ask(self, rivals: Rivals, picture: Pictures) -> tuple[Answer, Answer] | None:
        """Ask both, by turns in either order; None where the baseline itself has no answer."""
        turn = next(self._turns)
        pictures = with_moves(rivals.baseline, picture, turn)
        order = (rivals.baseline, rivals.candidate)[::turn]
        baseline, candidate = [self._answer(version, pictures) for version in order][::turn]
        if baseline.numbers is None or not np.isfinite(baseline.numbers).all():
            return None
        if candidate.numbers is not None and not np.isfinite(candidate.numbers).all():
            candidate = Answer(None, candidate.seconds)
        return baseline, candidate

    def _answer(self, version: RemoteModel, pictures: Pictures) -> Answer:
        most = version.max_batch_size or 1
        parts = [pictures[at : at + most] for at in range(0, len(pictures), most)]
        start = perf_counter()
        try:
            numbers = np.concatenate([self._client.infer(version, part) for part in parts])
        except grpc.RpcError as error:
            if error.code() not in REFUSED:
                raise
            return Answer(None, perf_counter() - start)
        seconds = perf_counter() - start
        return Answer(numbers.reshape(len(numbers), -1).astype(np.float64), seconds)

    def _difference(
        self,
        rivals: Rivals,
        picture: Pictures,
        baseline: Answer,
        candidate: Answer,
        trace_id: str,
    ) -> Disagreement:
        new = rivals.candidate
        if baseline.numbers is None or candidate.numbers is None:
            raise ValueError("there is no picture of an answer that is none")
        return Disagreement(
            time_s=time(),
            model=new.name,
            version=new.version,
            sha256=new.sha256,
            source=SHADOW,
            layout=new.picture.layout if new.picture else "CHW",
            picture=picture[0].copy(),
            served=candidate.numbers[0],
            reference=baseline.numbers[0],
            labels=self._labels(new, picture),
            head=new.head,
            trace_id=trace_id,
        )

    def _labels(self, version: RemoteModel, picture: Pictures) -> tuple[str, ...]:
        """Return the names of the classes, which a server tells with its answers; none else."""
        if version.head.kind == "embedding":
            return ()
        (ranked,) = self._client.classify(version, picture)
        named = {one.index: one.label for one in ranked}
        return tuple(named[at] for at in sorted(named)) if all(named.values()) else ()


def covers(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Say whether what has one shape may have the other: an open axis takes any size."""
    return len(shape) == len(other) and all(
        one in (DYNAMIC, wanted) for one, wanted in zip(shape, other, strict=True)
    )


def with_moves(version: RemoteModel, picture: Pictures, turn: int) -> Pictures:
    """Return a picture and the same moved by a pixel with zeros entering. (1, ...) -> (3, ...).

    An input that is no picture has no moves: (1, ...) -> (1, ...).
    """
    if version.picture is None:
        return picture
    axes = Preprocessing(version.picture.layout).shift_axes
    moved = shift_with_zeros(np.repeat(picture, len(MOVES), axis=0), turn * MOVES, axes)
    return np.concatenate([picture, moved])


def comparison_of(head: Head, baseline: Answer, candidate: Answer, trace_id: str) -> Comparison:
    """Hold two answers against each other; a candidate's that is none differs, whatever it is."""
    old, new = baseline.numbers, candidate.numbers
    if old is None:
        raise ValueError("the baseline has no answer to compare with")
    sure = confidence(head, old[0])
    if new is None or new.shape != old.shape:
        apart, flips, candidate_sure = 1.0, 1.0, None if sure is None else 0.0
    else:
        apart = 1 - float(head.same(new[:1], old[:1])[0])
        flips, candidate_sure = flips_of(head, new), confidence(head, new[0])
    return Comparison(
        time_s=time(),
        disagreement=apart,
        baseline_flips=flips_of(head, old),
        candidate_flips=flips,
        baseline_confidence=sure,
        candidate_confidence=candidate_sure,
        baseline_s=baseline.seconds,
        candidate_s=candidate.seconds,
        trace_id=trace_id,
    )


def flips_of(head: Head, numbers: NDArray[Any]) -> float:
    """Return the share of the moves that change the answer, 0..1; 0 without moves."""
    moves = len(numbers) - 1
    if not moves:
        return 0.0
    still = head.same(np.repeat(numbers[:1], moves, axis=0), numbers[1:])
    return 1 - float(still.mean())


def confidence(head: Head, numbers: NDArray[Any]) -> float | None:
    """Return the probability of an answer, (n,) -> 0..1; of labels the least sure one's."""
    if head.kind == "embedding":
        return None
    shares = head.probabilities(numbers)
    if head.labelled:
        return float(np.maximum(shares, 1 - shares).min().clip(0, 1))
    return float(shares.max().clip(0, 1))


def _input(version: RemoteModel) -> str:
    return f"{version.datatype} {list(version.shape)}"


def _answer(version: RemoteModel) -> str:
    shape = list(version.outputs.get(version.output, ()))
    return f"{version.output} {shape} as {version.head.kind}"
