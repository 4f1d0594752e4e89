"""What a model answers for pictures, as tables, as plain values and as lines of CSV.

classes ranked by logit, head -> probabilities, the answer -> Table | JSON | CSV
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nyquist.client.client import RankedClass, RemoteModel
from nyquist.server.wire.head import Head

TOP = 5
COLUMNS = ("picture", "model", "version", "shift", "rank", "label", "index", "probability")
"""Of a line of CSV."""


@dataclass(frozen=True)
class Answer:
    """What a model says of one picture.

    Attributes:
        picture: path of its file.
        model: that answered.
        shifts: classes of the picture moved by 0, 1, ... pixels, each ranked, the highest first.
    """

    picture: str
    model: RemoteModel
    shifts: Sequence[Sequence[RankedClass]]

    @property
    def name(self) -> str:
        """Name of the picture's file, without its folders."""
        return Path(self.picture).name

    @property
    def head(self) -> Head:
        """How the numbers are read."""
        return self.model.head

    def highest(self, top: int) -> Iterator[tuple[int, list[tuple[RankedClass, float]]]]:
        """Yield each shift with its highest classes, `top` or all that apply, and probabilities."""
        for shift, ranked in enumerate(self.shifts):
            count = max(top, len(_applying(ranked, self.head)))
            lines = zip(ranked, _probabilities(ranked, self.head), strict=True)
            yield shift, list(lines)[:count]

    @property
    def held(self) -> list[bool]:
        """Whether the answer at each shift is that of the unmoved picture."""
        first, *_ = applying = [
            {one.index for one in _applying(ranked, self.head)} for ranked in self.shifts
        ]
        return [found == first for found in applying]


def show(answers: Sequence[Answer], top: int | None, console: Console) -> None:
    """Print answers: each as a table, or where only the highest of several is wanted, all in one.

    Args:
        answers: of one model.
        top: classes of each picture; None is TOP of one, and the highest of several.
        console: to print to.
    """
    if top is None and len(answers) > 1 and len(answers[0].shifts) == 1:
        console.print(_table_of_pictures(answers))
        return
    for answer in answers:
        version = f" version {answer.model.version}" if answer.model.version else ""
        title = f"{escape(answer.name)}: {escape(answer.model.name)}{version}"
        console.print(title, highlight=False)
        if len(answer.shifts) == 1:
            console.print(_table_of_classes(answer, top or TOP))
            continue
        console.print(_table_of_shifts(answer))
        held = sum(answer.held[1:])
        line = f"{held} of {len(answer.shifts) - 1} shifts leave the answer as it was"
        console.print(line, highlight=False)


def as_json(answer: Answer, top: int) -> dict[str, object]:
    """Return an answer as plain values, by shift."""
    return {
        "picture": answer.picture,
        "model": answer.model.name,
        "version": answer.model.version,
        "shifts": [
            {"shift": shift, "classes": [_plain(*line, answer.head) for line in lines]}
            for shift, lines in answer.highest(top)
        ],
    }


def as_rows(answer: Answer, top: int) -> Iterator[tuple[object, ...]]:
    """Yield the lines of an answer, as COLUMNS has them."""
    about = answer.picture, answer.model.name, answer.model.version
    for shift, lines in answer.highest(top):
        for rank, (one, probability) in enumerate(lines, 1):
            yield *about, shift, rank, one.label, one.index, f"{probability:.6g}"


def _plain(one: RankedClass, probability: float, head: Head) -> dict[str, object]:
    line = asdict(one) | {"probability": probability}
    if head.values == "probabilities":
        del line["logit"]
    return line | ({"applies": one.logit > head.cut} if head.labelled else {})


def _table_of_classes(answer: Answer, top: int) -> Table:
    """Lay out the highest classes of one picture; of labels, mark those that apply."""
    head = answer.head
    columns = ("label", "probability", f"above {head.threshold:g}")
    table = _table(*columns[: 3 if head.labelled else 2], right=(1,))
    for _, lines in answer.highest(top):
        for one, probability in lines:
            applies = ("yes" if one.logit > head.cut else "no",) if head.labelled else ()
            table.add_row(_name(one), f"{probability:.3f}", *applies)
    return table


def _table_of_pictures(answers: Sequence[Answer]) -> Table:
    """Lay out the answer for each picture, with the probability of its highest class or label."""
    table = _table("picture", "label", "probability", right=(2,))
    for answer in answers:
        table.add_row(escape(answer.name), *_in_short(answer.shifts[0], answer.head))
    return table


def _table_of_shifts(answer: Answer) -> Table:
    """Lay out the answer at each shift, and mark where it differs from the unmoved one."""
    table = _table("shift", "label", "probability", "", right=(0, 2))
    for shift, (ranked, held) in enumerate(zip(answer.shifts, answer.held, strict=True)):
        table.add_row(f"{shift} px", *_in_short(ranked, answer.head), "" if held else "changed")
    return table


def _table(*columns: str, right: Sequence[int]) -> Table:
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False)
    for column in right:
        table.columns[column].justify = "right"
    return table


def _in_short(ranked: Sequence[RankedClass], head: Head) -> tuple[str, str]:
    """Name the highest class, or the labels that apply, and the highest probability."""
    names = ", ".join(map(_name, _applying(ranked, head))) or "none"
    return names, f"{_probabilities(ranked, head)[0]:.3f}"


def _applying(ranked: Sequence[RankedClass], head: Head) -> list[RankedClass]:
    return [one for one in ranked if one.logit > head.cut] if head.labelled else [*ranked[:1]]


def _probabilities(ranked: Sequence[RankedClass], head: Head) -> list[float]:
    values = head.probabilities(np.array([one.logit for one in ranked], np.float64))
    return [float(value) for value in values]


def _name(one: RankedClass) -> str:
    return escape(one.label) or str(one.index)
