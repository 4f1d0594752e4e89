"""Parity, shift consistency and latency on demand, step by step.

subject -> Paths (the live server, PyTorch) -> progress, progress, ... -> report

Each step is one call of a path, so that a long check can be followed, shared with others and left.
The messages of nyquist.v1.Validation are the results, whoever asks and wherever it runs.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from time import perf_counter
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from nyquist.client.client import Client, RemoteModel
from nyquist.companion.measures.parity import Predict, compare
from nyquist.companion.measures.shift_consistency import DEFAULT_PAIRS, Consistency
from nyquist.companion.references.repository import BATCH_SIZES, LoadedReference, Unverifiable
from nyquist.companion.references.subjects import Subjects
from nyquist.companion.watch.shift_trials import CIRCULAR, ShiftTrials, fitting_protocols
from nyquist.server.artifact.built import Built, circular_of, one_pixel_of
from nyquist.server.wire import tensors
from nyquist.server.wire.errors import InvalidRequest, ModelNotFound, ModelNotReady, NyquistError
from nyquist.server.wire.pb import validation_pb2 as pb

DEFAULT_RUNS = 20
WARM_RUNS = 3
MAX_RUNS = 1000
MAX_PAIRS = 64


@dataclass(frozen=True)
class Paths:
    """The two ways to an answer.

    Attributes:
        client: of the live server.
        remote: the model as the server describes it.
        known: what it is held against.
    """

    client: Client
    remote: RemoteModel
    known: LoadedReference

    def served(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """Ask the live server. (B, ...) -> (B, C)."""
        return self.client.infer(self.remote, pictures)

    def reference(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """Ask the reference. (B, ...) -> (B, C). Raises Unverifiable if there is no reference."""
        if self.known.reference is None:
            raise Unverifiable(f"no reference of {self.remote.name!r}")
        return self.known.reference.predict(pictures)

    @property
    def sides(self) -> Sequence[Predict]:
        """The ways that there are: the server, and PyTorch where there is a reference."""
        return (self.served, self.reference) if self.known.reference else (self.served,)

    def graph(self) -> pb.Graph:
        """Say what is looked at."""
        return pb.Graph(
            model_name=self.remote.name,
            model_version=self.remote.version,
            sha256=self.remote.sha256,
            execution_provider=self.remote.provider,
            no_reference=self.known.reference is None,
            reference=self.known.reference.words if self.known.reference else "",
        )

    def pictures(self, subject: pb.Subject) -> NDArray[Any]:
        """Return the caller's pictures, or the reference ones.

        Raises:
            InvalidRequest: they are not what the model takes.
        """
        if not subject.HasField("pictures"):
            return self.known.pictures
        sent, wanted = subject.pictures, self.known.input
        count, *shape = sent.shape or (0,)
        if sent.datatype != wanted.datatype or not wanted.fits(shape) or count < 1:
            raise InvalidRequest(
                f"pictures are {sent.datatype} {tuple(sent.shape)}, the model takes "
                f"{wanted.datatype} (N, {', '.join(map(str, wanted.shape))})"
            )
        size = prod(sent.shape) * tensors.DTYPES[sent.datatype].itemsize
        if len(sent.raw) != size:
            raise InvalidRequest(f"pictures have {len(sent.raw)} bytes, their shape {size}")
        return tensors.from_raw(sent.raw, sent.datatype, tuple(sent.shape)).copy()


class Validation:
    """Answers nyquist.v1.Validation in this process; each method as its stub, for one call.

    Args:
        subjects: the models of the live server, and what they are held against.
        any_graph: compare whatever graph is served with the reference of its version, where the
            companion that runs calls another graph than the reference's unverifiable.
    """

    def __init__(self, subjects: Subjects, *, any_graph: bool = False) -> None:
        self._subjects, self._any_graph = subjects, any_graph

    def paths(self, subject: pb.Subject) -> Paths:
        """Find the two ways to the answers of a model.

        Raises:
            NyquistError: the server does not serve it, or its reference is of another graph.
        """
        if not subject.model_name:
            raise InvalidRequest("subject.model_name is empty; name a model that is served")
        client = self._subjects.client
        remote = client.describe(subject.model_name, subject.model_version)
        known = self._subjects.known(remote, any_graph=self._any_graph)
        return Paths(client, self._subjects.completed(remote, known), known)

    def check_parity(self, request: pb.CheckParityRequest) -> Iterator[pb.CheckParityResponse]:
        """Send all pictures through both paths, in batches of every size."""
        paths = self.paths(request.subject)
        if paths.known.reference is None:
            yield pb.CheckParityResponse(report=pb.ParityReport(graph=paths.graph()))
            return
        pictures = paths.pictures(request.subject)
        parts = list(batches(pictures, paths.known.batch_sizes))
        served, reference = [], []
        for done, part in enumerate(parts):
            yield pb.CheckParityResponse(progress=pb.Progress(done=done, total=len(parts)))
            served.append(paths.served(part))
            reference.append(paths.reference(part))
        parity = compare(np.concatenate(reference), np.concatenate(served), paths.known.head.same)
        manifest = paths.known.manifest
        tolerance = paths.known.tolerances.parity if paths.known.tolerances else 0.0
        report = pb.ParityReport(
            graph=paths.graph(),
            pictures=len(pictures),
            max_abs_error=parity.max_abs_error,
            mean_abs_error=parity.mean_abs_error,
            relative_error=parity.relative_error,
            argmax_agreement=parity.agreement,
            tolerance=tolerance,
            holds=parity.relative_error <= tolerance,
            built_batch_error=manifest.figures.batch_error if manifest else 0.0,
        )
        yield pb.CheckParityResponse(report=report)

    def check_shift_consistency(
        self, request: pb.CheckShiftConsistencyRequest
    ) -> Iterator[pb.CheckShiftConsistencyResponse]:
        """Move all pictures, by each protocol, on both paths."""
        paths = self.paths(request.subject)
        pictures = paths.pictures(request.subject)
        fitting = fitting_protocols(paths.known, pictures)
        names = _chosen_protocols(request.protocols, list(fitting))
        pairs = _within("pairs", request.pairs or DEFAULT_PAIRS, MAX_PAIRS)
        sides = paths.sides
        trials = {
            name: [
                ShiftTrials(
                    pictures,
                    fitting[name],
                    pairs=pairs,
                    seed=request.seed,
                    same=paths.known.head.same,
                )
                for _ in sides
            ]
            for name in names
        }
        total = len(sides) * pairs * len(pictures) * len(names)
        for each in trials.values():
            for predict, side in zip(sides, each, strict=True):
                while side.left:
                    done = sum(one.done for pair in trials.values() for one in pair)
                    progress = pb.Progress(done=done, total=total)
                    yield pb.CheckShiftConsistencyResponse(progress=progress)
                    side.make(predict, paths.known.trials_a_call)
        report = _consistency_report(paths, len(pictures), trials)
        report.pairs = 0 if paths.known.head.kind == "embedding" else pairs
        yield pb.CheckShiftConsistencyResponse(report=report)

    def compare_latency(
        self, request: pb.CompareLatencyRequest
    ) -> Iterator[pb.CompareLatencyResponse]:
        """Time both paths in turn at each batch size, once they are warm."""
        paths = self.paths(request.subject)
        pictures = paths.pictures(request.subject)
        sizes = request.batch_sizes or paths.known.batch_sizes
        for size in sizes:
            _within("batch_sizes", size, paths.known.max_batch_size)
        runs = _within("runs", request.runs or DEFAULT_RUNS, MAX_RUNS)
        report = pb.LatencyReport(graph=paths.graph(), runs=runs)
        total = len(sizes) * (WARM_RUNS + runs)
        for at, size in enumerate(sizes):
            batch = pictures[np.arange(size) % len(pictures)]
            seconds = np.empty((WARM_RUNS + runs, len(paths.sides)))
            for run in range(len(seconds)):
                progress = pb.Progress(done=at * len(seconds) + run, total=total)
                yield pb.CompareLatencyResponse(progress=progress)
                for side, predict in enumerate(paths.sides):
                    start = perf_counter()
                    predict(batch)
                    seconds[run, side] = perf_counter() - start
            median, p95 = np.quantile(seconds[WARM_RUNS:], (0.5, 0.95), axis=0)
            measured = report.measured.add(batch_size=size)
            measured.served_s, measured.served_p95_s = median[0], p95[0]
            if paths.known.reference:
                measured.reference_s, measured.reference_p95_s = median[1], p95[1]
        yield pb.CompareLatencyResponse(report=report)

    def describe_model(self, request: pb.DescribeModelRequest) -> Iterator[pb.ModelDescription]:
        """Say what a model is, in one step of seconds."""
        paths = self.paths(request.subject)
        if paths.known.manifest is None:
            raise Unverifiable(f"no reference of {paths.remote.name!r}")
        about = self._subjects.references.describe(paths.known.manifest)
        described = pb.ModelDescription.FromString(about)
        described.graph.CopyFrom(paths.graph())
        yield described


def batches(pictures: NDArray[Any], sizes: Sequence[int] = BATCH_SIZES) -> Iterator[NDArray[Any]]:
    """Cut all pictures into batches of 1, 3, 8, 1, 3, 8, ... of them."""
    at = turn = 0
    while at < len(pictures):
        size = sizes[turn % len(sizes)]
        yield pictures[at : at + size]
        at, turn = at + size, turn + 1


def as_ours(error: grpc.RpcError) -> NyquistError:
    """Return what an error of the server that is watched means to a caller of the companion."""
    words = f"the server: {error.code().name}: {error.details()}"
    kinds = {
        grpc.StatusCode.NOT_FOUND: ModelNotFound,
        grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    }
    return kinds.get(error.code(), ModelNotReady)(words)


def _consistency_report(
    paths: Paths, pictures: int, trials: dict[str, list[ShiftTrials]]
) -> pb.ConsistencyReport:
    tolerance = paths.known.tolerances.consistency if paths.known.tolerances else 0.0
    report = pb.ConsistencyReport(
        graph=paths.graph(), pictures=pictures, tolerance=tolerance, holds=True
    )
    if manifest := paths.known.manifest:
        report.built_circular.CopyFrom(_built(circular_of(manifest)))
        if one_pixel := one_pixel_of(manifest):
            report.built_one_pixel.CopyFrom(_built(one_pixel))
    for name, sides in trials.items():
        served, *reference = (one.consistency or Consistency(0.0, 0.0, 0) for one in sides)
        measured = report.measured.add(protocol=name)
        measured.served, measured.served_error = served.share, served.standard_error
        for of_reference in reference:
            measured.reference = of_reference.share
            measured.reference_error = of_reference.standard_error
        if name == CIRCULAR:
            report.holds = served.share >= tolerance
    return report


def _chosen_protocols(asked: Sequence[str], fitting: Sequence[str]) -> list[str]:
    for name in asked:
        if name not in fitting:
            raise InvalidRequest(
                f"no protocol {name!r} for pictures of this model; choose from {', '.join(fitting)}"
            )
    return list(dict.fromkeys(asked)) or list(fitting)


def _within(name: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise InvalidRequest(f"{name} must be from 1 to {most}, got {value}")
    return value


def _built(figure: Built) -> pb.ConsistencyReport.Built:
    return pb.ConsistencyReport.Built(**figure._asdict())
