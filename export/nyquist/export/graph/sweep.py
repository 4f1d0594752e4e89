"""Parity swept: kinds of pictures, sizes, batches, and the ways onnxruntime may run a graph.

pictures -> kinds -> reference, once -> sessions -> alone and in company -> cells -> misses
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # as in nyquist.server.runtime.engine
import onnxruntime as ort

from nyquist.companion.measures.parity import Parity, compare
from nyquist.export.graph.ways import Way, open_session
from nyquist.models.picture_kinds import Kind, Pictures, picture_kinds
from nyquist.models.spec import Layout

Outputs = Mapping[str, NDArray[Any]]
NamedPredict = Callable[[Pictures], NDArray[Any] | Outputs]
"""(B, *input shape) -> each output by name; one array alone stands for the graph's first output."""

SERVED_BATCHES = (1, 2, 3)
"""And the maximum."""
OTHER_BATCHES = (1, 3)
SHORT_ROW = 8
"""Pictures that batch 2 and 3 are cut from: two of each kind, where one picture costs much."""
THREADS = (1, 2)
REFERENCE_BATCH = 4
ROUNDING = 1e-5
"""What the order of sums in float32 may make of one picture's answer, as a share of the spread."""


@dataclass(frozen=True)
class Cell:
    """One output, for one kind of picture, at one size and batch, run in one way.

    Attributes:
        output: its name.
        kind: of the pictures.
        size: height and width of the pictures.
        batch: how many ran at once.
        way: how.
        parity: onnxruntime against the reference.
        flip_margin: the largest lead of the reference's highest class over its next, among the
            pictures for which onnxruntime has another highest class; 0 if there is none.
        batch_error: largest difference of an answer in company from the same alone, as a share of
            their spread.
        finite: whether onnxruntime gave neither NaN nor infinity.
    """

    output: str
    kind: Kind
    size: tuple[int, int]
    batch: int
    way: Way
    parity: Parity
    flip_margin: float
    batch_error: float
    finite: bool

    def __str__(self) -> str:
        height, width = self.size
        return f"{self.output} of {self.kind} at {height}x{width}, batch {self.batch}, {self.way}"


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        cells: every combination that could be compared.
        failures: in words, those that could not: onnxruntime failed, or the shapes differ.
    """

    cells: tuple[Cell, ...]
    failures: tuple[str, ...]

    def of(self, *kinds: Kind) -> "Sweep":
        """Return the cells of some kinds: int8 clips what its calibration has not seen."""
        return Sweep(tuple(cell for cell in self.cells if cell.kind in kinds), self.failures)

    @property
    def relative_error(self) -> float:
        """The largest of any cell."""
        return max((cell.parity.relative_error for cell in self.cells), default=0.0)

    @property
    def max_abs_error(self) -> float:
        """The largest of any cell."""
        return max((cell.parity.max_abs_error for cell in self.cells), default=0.0)

    @property
    def batch_error(self) -> float:
        """The largest of any cell that is run as it is served; 0 if all are the same bit for bit.

        Only optimised sessions are held to it: without the blocked layout of their convolutions,
        two threads share out the sums of a batch in another way than those of one picture.
        """
        return max((cell.batch_error for cell in self.cells if cell.way.optimised), default=0.0)


@dataclass(frozen=True)
class Limits:
    """What every cell is held to.

    Attributes:
        relative_error: the largest difference allowed, as a share of the reference's spread.
        max_abs_error: the largest difference allowed.
    """

    relative_error: float
    max_abs_error: float = inf

    def allowed(self, cell: Cell) -> float:
        """Return the largest difference that is allowed in a cell."""
        return min(self.relative_error * cell.parity.spread, self.max_abs_error)


def sweep(
    reference: NamedPredict,
    graph: bytes,
    pictures: Pictures,
    max_batch_size: int,
    layout: Layout = "CHW",
    other_sizes: Sequence[tuple[int, int]] = (),
) -> Sweep:
    """Compare a graph with its reference on the CPU, in every cell.

    There are 16 pictures of each size: 6 samples, 3 of noise, 3 constant and 4 extreme ones, see
    `picture_kinds`. An optimised session, as is served, runs all of them alone and at the maximum
    batch, and two of each kind at batch 2 and 3; batches mix the kinds, and repeat some pictures to
    fill the last. Without optimisation, and at other sizes, which run on one thread, it is batch 1
    and 3. At maximum batch 16 that makes 148 pictures, 25 more for each of both ways at another
    size, and 16 a size in PyTorch.

    Args:
        reference: the truth, evaluated once for each picture.
        graph: an ONNX file with one input.
        pictures: real ones, float or uint8 (N, *input shape).
        max_batch_size: the largest batch that is served.
        layout: order of the axes of one picture.
        other_sizes: heights and widths to try besides that of the pictures.

    Raises:
        ValueError: there is no picture, or no output that both sides give.
    """
    if not len(pictures):
        raise ValueError("a sweep needs at least one picture")
    axes = (2, 3) if layout == "CHW" else (1, 2)
    own = (pictures.shape[axes[0]], pictures.shape[axes[1]])
    cells: list[Cell] = []
    failures: list[str] = []
    sets = {
        size: _Answered(reference, picture_kinds(resize(pictures, size, axes), axes))
        for size in (own, *other_sizes)
    }
    for way in (Way(*each) for each in product((False, True), THREADS)):
        session = open_session(graph, way)
        for size, answered in sets.items():
            if size != own and way.threads > 1:
                continue
            served = size == own and way.optimised
            batches = {*SERVED_BATCHES, max_batch_size} if served else {*OTHER_BATCHES}
            fitting = sorted(batch for batch in batches if batch <= max_batch_size)
            try:
                cells += _cells(session, way, size, answered, fitting)
            except _Incomparable as error:
                failures.append(f"at {size[0]}x{size[1]}, {way}: {error}")
    return Sweep(tuple(cells), tuple(failures))


def resize(pictures: Pictures, size: tuple[int, int], axes: tuple[int, int]) -> Pictures:
    """Crop or continue circularly to a size, so that what is left has the same texture."""
    for axis, wanted in zip(axes, size, strict=True):
        pictures = np.take(pictures, np.arange(wanted) % pictures.shape[axis], axis)
    return pictures


def misses(found: Sweep, limits: Limits) -> list[str]:
    """Say which limits a sweep misses, a sentence for each limit and output; empty if none.

    A sentence names the worst cell and says how many others miss the same limit. A changed class
    counts only where the reference's lead exceeds twice the difference that is allowed: a smaller
    lead two answers within the limit can turn around.
    """
    sentences = [f"the graph cannot be compared {failure}" for failure in found.failures]
    for output in dict.fromkeys(cell.output for cell in found.cells):
        cells = [cell for cell in found.cells if cell.output == output]
        sentences += _broken_numbers(cells)
        sentences += _too_far(cells, limits)
        sentences += _flipped(cells, limits)
        sentences += _company(cells)
    return sentences


class _Incomparable(Exception):
    """The graph does not run, or gives other shapes."""


class _Answered:
    """Pictures of all kinds in a row, kinds mixed, with the reference's answers.

    Args:
        reference: evaluated here, once.
        kinds: the pictures.
    """

    def __init__(self, reference: NamedPredict, kinds: Mapping[Kind, Pictures]) -> None:
        names = np.repeat(list(kinds), [len(each) for each in kinds.values()])
        turns = np.concatenate([np.arange(len(each)) for each in kinds.values()])
        order = np.argsort(turns, kind="stable")  # the first of each kind, the second of each, ...
        self.kinds = names[order]
        self.pictures = np.concatenate(list(kinds.values()))[order]
        parts = [
            reference(self.pictures[at : at + REFERENCE_BATCH])
            for at in range(0, len(names), REFERENCE_BATCH)
        ]
        self._parts = [part if isinstance(part, Mapping) else {"": part} for part in parts]

    def outputs(self, graph_names: Sequence[str]) -> Outputs:
        """Return the answers, by the name of the graph's output."""
        joined = {
            name or graph_names[0]: np.concatenate([part[name] for part in self._parts])
            for name in self._parts[0]
        }
        common = {name: answers for name, answers in joined.items() if name in graph_names}
        if not common:
            raise ValueError(f"the reference gives {[*joined]}, the graph {list(graph_names)}")
        return common

    def rounds(self, batch: int) -> list[NDArray[np.intp]]:
        """Cut the row, or its beginning, into batches, the last filled from the beginning."""
        count = len(self.pictures)
        among = min(count, SHORT_ROW) if batch in (2, 3) else count
        return list((np.arange(-(-among // batch) * batch) % count).reshape(-1, batch))


def _cells(
    session: ort.InferenceSession,
    way: Way,
    size: tuple[int, int],
    answered: _Answered,
    batches: Iterable[int],
) -> Iterator[Cell]:
    names = [output.name for output in session.get_outputs()]
    expected = answered.outputs(names)
    alone = _run(session, answered, expected, 1)
    for batch in batches:
        served = alone if batch == 1 else _run(session, answered, expected, batch)
        rows = np.concatenate(answered.rounds(batch))
        for (name, truth), kind in product(expected.items(), dict.fromkeys(answered.kinds)):
            mine = answered.kinds[rows] == kind
            ours, theirs = truth[rows[mine]], served[name][mine]
            yield Cell(
                output=name,
                kind=kind,
                size=size,
                batch=batch,
                way=way,
                parity=compare(ours, theirs),
                flip_margin=_flip_margin(ours, theirs),
                batch_error=_batch_error(alone[name][rows[mine]], theirs),
                finite=bool(np.isfinite(theirs).all()),
            )


def _run(
    session: ort.InferenceSession, answered: _Answered, expected: Outputs, batch: int
) -> dict[str, NDArray[Any]]:
    """Run the whole row in batches. Raises _Incomparable."""
    (given,) = session.get_inputs()
    collected = []
    for rows in answered.rounds(batch):
        try:
            outputs = session.run(list(expected), {given.name: answered.pictures[rows]})
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise _Incomparable(f"onnxruntime fails at batch {batch}: {reason}") from error
        for (name, truth), output in zip(expected.items(), outputs, strict=True):
            if output.shape != (batch, *truth.shape[1:]):
                wanted = (batch, *truth.shape[1:])
                raise _Incomparable(f"{name} has shape {output.shape}, and {wanted} in PyTorch")
        collected.append(outputs)
    return {
        name: np.concatenate([outputs[at] for outputs in collected])
        for at, name in enumerate(expected)
    }


def _flip_margin(ours: NDArray[Any], theirs: NDArray[Any]) -> float:
    """Return by how much the reference's highest class leads in the surest flip; 0 without one."""
    ours, theirs = (each.reshape(len(each), -1).astype(np.float64) for each in (ours, theirs))
    flipped = ours.argmax(axis=1) != theirs.argmax(axis=1)
    if not flipped.any():
        return 0.0
    highest = np.sort(ours[flipped], axis=1)
    return float((highest[:, -1] - highest[:, -2]).max())


def _batch_error(alone: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the largest difference as a share of the spread; 0 for the same bits."""
    return 0.0 if found.tobytes() == alone.tobytes() else compare(alone, found).relative_error


def _broken_numbers(cells: Sequence[Cell]) -> Iterator[str]:
    broken = [cell for cell in cells if not cell.finite]
    if broken:
        yield f"{broken[0]}: NaN or infinity{_others(broken, cells)}"


def _too_far(cells: Sequence[Cell], limits: Limits) -> Iterator[str]:
    far = [
        cell
        for cell in cells
        if not (
            cell.parity.relative_error <= limits.relative_error
            and cell.parity.max_abs_error <= limits.max_abs_error
        )
    ]
    if far:
        worst = max(far, key=lambda cell: cell.parity.relative_error)
        yield (
            f"{worst}: differs by up to {worst.parity.max_abs_error:.2g}, which is "
            f"{worst.parity.relative_error:.2g} of the spread; at most "
            f"{limits.allowed(worst):.2g} is allowed{_others(far, cells)}"
        )


def _flipped(cells: Sequence[Cell], limits: Limits) -> Iterator[str]:
    flipped = [cell for cell in cells if cell.flip_margin > 2 * limits.allowed(cell)]
    if flipped:
        worst = max(flipped, key=lambda cell: cell.flip_margin)
        yield (
            f"{worst}: another class, which PyTorch puts {worst.flip_margin:.2g} behind; only one "
            f"within {2 * limits.allowed(worst):.2g} may take its place{_others(flipped, cells)}"
        )


def _company(cells: Sequence[Cell]) -> Iterator[str]:
    served = [cell for cell in cells if cell.way.optimised]
    changed = [cell for cell in served if not cell.batch_error <= ROUNDING]
    if changed:
        worst = max(changed, key=lambda cell: cell.batch_error)
        yield (
            f"{worst}: the answer differs from that alone by up to {worst.batch_error:.2g} of the "
            f"spread; at most {ROUNDING:.2g} is allowed{_others(changed, served)}"
        )


def _others(missing: Sequence[Cell], cells: Sequence[Cell]) -> str:
    more = len(missing) - 1
    return f" (and {more} more of {len(cells)} cells)" if more else ""
