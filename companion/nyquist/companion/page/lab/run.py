"""One run of the lab, a call of a server at a time, so that it can be followed and left.

wish, files -> start -> answers, answers, ... -> each picture's flips -> done, with the figures

Events are plain values, ready to be JSON. Whatever is called consistency comes from
`nyquist.companion.measures`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.companion.measures.shift_map import AtDistance, against_distance, agreement, all_pairs
from nyquist.companion.page.kit.pictures import picture_uri
from nyquist.companion.page.lab.moves import Moved, Stopped, read_moved
from nyquist.companion.page.lab.served import Models, Subject
from nyquist.companion.page.lab.wishes import Sent, Wish
from nyquist.models.pictures import UNLABELLED, class_index
from nyquist.server.wire.errors import InvalidRequest, NyquistError, Stopping

Event = dict[str, Any]

TOP = 5
"""Answers of a position that are told with their probabilities."""

TRACED = 4
"""Answers of a model whose probabilities are told for every position."""

ALIKE = 3.0
"""Where N pictures are all alike the true share lies at most so many / N away, with 95 %."""

TIMED = 7
"""Calls of one picture that a latency is the median of, at least."""


@dataclass
class Asked:
    """What one model has answered so far.

    Attributes:
        subject: the model.
        labels: of its classes.
        agreements: of each picture, between any two positions, (K, K).
        seconds: of each call of one picture.
        right: for each labelled picture, whether the answer to it unmoved was right.
    """

    subject: Subject
    labels: tuple[str, ...] = ()
    agreements: list[NDArray[np.float64]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    right: list[bool] = field(default_factory=list)


class Run:
    """Asks for what was wished. Iterate over `events`, once.

    Args:
        models: that can be asked.
        wish: what for.
        files: of the pictures of the wish.
        stopped: whether nobody waits any more.
    """

    def __init__(
        self, models: Models, wish: Wish, files: Sequence[bytes], stopped: Stopped
    ) -> None:
        self._models, self._wish, self._files, self._stopped = models, wish, files, stopped
        self._offsets = wish.offsets()
        self._asked: list[Asked] = []

    def events(self) -> Iterator[Event]:
        """Yield what happens, from `start` to `done`; an `error` is the last.

        Raises:
            Stopping: nobody waits any more.
        """
        try:
            self._asked = [Asked(self._models.find(one)) for one in self._wish.models]
            yield self._start()
            for picture, (sent, file) in enumerate(
                zip(self._wish.pictures, self._files, strict=True)
            ):
                yield from self._picture(picture, sent, file)
            yield {"kind": "done", "models": self._figures()}
        except Stopping:
            raise
        except (NyquistError, ValueError) as error:
            yield {"kind": "error", "message": str(error)}

    def _start(self) -> Event:
        return {
            "kind": "start",
            "offsets": self._offsets.tolist(),
            "total": len(self._asked) * len(self._files) * len(self._offsets),
            "pictures": [one.name for one in self._wish.pictures],
        }

    def _picture(self, picture: int, sent: Sent, file: bytes) -> Iterator[Event]:
        moved = self._read(sent, file)
        if len(self._files) == 1:
            yield {"kind": "views", "views": [one.view() for one in moved]}
        self._ask_alone(moved, sent)
        numbers: list[list[NDArray[Any]]] = [[] for _ in self._asked]
        batches = [
            [(at, place) for place in range(0, len(self._offsets), asked.subject.most)]
            for at, asked in enumerate(self._asked)
        ]
        # the models take turns, so that their traces grow side by side
        for at, place in filter(None, (one for turn in zip_longest(*batches) for one in turn)):
            if self._stopped():
                raise Stopping("nobody waits for this run any more")
            asked = self._asked[at]
            places = self._offsets[place : place + asked.subject.most]
            answered = asked.subject.answer(moved[at].at(places))
            numbers[at].append(answered)
            yield {
                "kind": "answers",
                "picture": picture,
                "model": at,
                "from": place,
                "answers": [told(asked, one) for one in answered],
            }
        yield self._judged(picture, moved, [np.concatenate(one) for one in numbers])

    def _read(self, sent: Sent, file: bytes) -> list[Moved]:
        known: dict[object, Moved] = {}
        for asked in self._asked:
            wanted = asked.subject.wanted
            if wanted not in known:
                try:
                    known[wanted] = read_moved(file, wanted, self._wish, self._stopped)
                except InvalidRequest as error:
                    raise InvalidRequest(f"{sent.name}: {error}") from error
        return [known[asked.subject.wanted] for asked in self._asked]

    def _ask_alone(self, moved: Sequence[Moved], sent: Sent) -> None:
        """Ask for the picture where it lies, by itself: for labels, latency and accuracy."""
        pictures = [one.at(self._offsets[:1]) for one in moved]
        for asked, picture in zip(self._asked, pictures, strict=True):
            asked.labels = self._models.labels(asked.subject, picture[0])
            (numbers,) = asked.subject.answer(picture)
            label = class_of(sent.label, asked.labels)
            if label != UNLABELLED and asked.subject.remote.head.kind == "classes":
                asked.right.append(int(numbers.argmax()) == label)
        # the models take turns: what else the machine does meets all of them
        for _ in range(-(-TIMED // len(self._files))):
            for asked, picture in zip(self._asked, pictures, strict=True):
                begun = perf_counter()
                asked.subject.answer(picture)
                asked.seconds.append(perf_counter() - begun)

    def _judged(
        self, picture: int, moved: Sequence[Moved], numbers: Sequence[NDArray[Any]]
    ) -> Event:
        judged = []
        for asked, one, answered in zip(self._asked, moved, numbers, strict=True):
            agreed = agreement(answered, asked.subject.remote.head.same)
            asked.agreements.append(agreed)
            nearest = against_distance([agreed], self._offsets)[0]
            judged.append(
                {
                    "pairs": nearest.pairs,
                    "changed": nearest.changed,
                    "share": all_pairs([agreed]).share,
                    "traces": traced(asked, answered),
                    "flip": self._flip(asked, one, answered, agreed),
                }
            )
        return {"kind": "picture", "picture": picture, "models": judged}

    def _flip(
        self, asked: Asked, moved: Moved, numbers: NDArray[Any], agreed: NDArray[np.float64]
    ) -> Event | None:
        """Return the first two positions, one step apart, whose answers differ; None if none do."""
        apart = np.abs(self._offsets[:, None] - self._offsets[None]).max(axis=2)
        beside = (apart == self._wish.step) & (agreed < 0.5)
        if not beside.any():
            return None
        first, second = (int(one) for one in np.argwhere(beside)[0])
        layout, labels = moved.wanted.layout, asked.labels
        pictures = moved.at(self._offsets[[first, second]])
        head = asked.subject.remote.head
        return {
            "positions": [first, second],
            "answers": [head.words(numbers[one], labels) for one in (first, second)],
            "pictures": [picture_uri(one, layout) for one in pictures],
        }

    def _figures(self) -> list[Event]:
        figures = [figures_of(asked, self._offsets) for asked in self._asked]
        points = [(one["right_share"], one["share"], -one["latency_s"]) for one in figures]
        for one, best in zip(figures, pareto(points), strict=True):
            one["front"] = best
        return figures


def told(asked: Asked, numbers: NDArray[Any]) -> Event:
    """Return one answer in words, and the highest classes with their probabilities."""
    head = asked.subject.remote.head
    shares = head.probabilities(numbers.astype(np.float64))
    highest = np.argsort(-shares, kind="stable")[:TOP]
    return {
        "answer": head.words(numbers, asked.labels),
        "top": [[name_of(int(at), asked.labels), round(float(shares[at]), 6)] for at in highest],
    }


def traced(asked: Asked, numbers: NDArray[Any]) -> list[Event]:
    """Return the probability at every position of the classes that are highest at some, at most 4.

    The class that is highest unmoved comes first, then by how often each is.
    """
    shares = asked.subject.remote.head.probabilities(numbers.astype(np.float64))
    winners = shares.argmax(axis=1)
    often = np.bincount(winners, minlength=shares.shape[1]).astype(np.float64)
    often += shares.mean(axis=0) / 2  # those that never win follow by their mean
    often[winners[0]] = np.inf
    chosen = np.argsort(-often, kind="stable")[:TRACED]
    return [
        {"name": name_of(int(at), asked.labels), "shares": shares[:, at].round(6).tolist()}
        for at in chosen
    ]


def name_of(index: int, labels: Sequence[str]) -> str:
    """Return the name of a class."""
    return labels[index] if index < len(labels) else f"class {index}"


def class_of(label: str, labels: Sequence[str]) -> int:
    """Return the class that a label names, by its name or index; UNLABELLED if it names none."""
    try:
        return class_index(Path(label), labels)
    except ValueError:
        return UNLABELLED


def figures_of(asked: Asked, offsets: NDArray[Any]) -> dict[str, Any]:
    """Return what a model showed over all pictures."""
    curve = against_distance(asked.agreements, offsets)
    consistency = all_pairs(asked.agreements)
    return {
        "share": consistency.share,
        "standard_error": consistency.standard_error,
        "least": max(0.0, consistency.share - ALIKE / consistency.pictures),
        "pictures": consistency.pictures,
        "pairs": curve[0].pairs,
        "changed": curve[0].changed,
        "unchanged": sum(bool((one[0] > 0.5).all()) for one in asked.agreements),
        "curve": [point(one) for one in curve],
        "latency_s": median(asked.seconds),
        "timed": len(asked.seconds),
        "right": sum(asked.right),
        "labelled": len(asked.right),
        "right_share": sum(asked.right) / len(asked.right) if asked.right else 0.0,
    }


def point(at: AtDistance) -> Event:
    """Return one point of a curve."""
    return {"distance": at.distance, "pairs": at.pairs, "changed": at.changed} | asdict(
        at.consistency
    )


def pareto(points: Sequence[tuple[float, ...]]) -> list[bool]:
    """Say of each point whether no other is at least as good in everything and better in something.

    Args:
        points: figures of which more is better.
    """
    return [
        not any(
            all(a >= b for a, b in zip(other, one, strict=True)) and other != one
            for other in points
        )
        for one in points
    ]
