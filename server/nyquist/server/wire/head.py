"""What the numbers of an answer mean: classes, labels that may each apply, or an embedding.

>>> import numpy as np
>>> Head("multi-label").words(np.array([2.0, -1.0, 0.5]), ("cat", "dog", "grass"))
'cat, grass'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

if TYPE_CHECKING:  # numpy is imported where arrays come, for the sake of what handles none: --help
    import numpy as np
    from numpy.typing import NDArray

HeadKind = Literal["classes", "binary", "multi-label", "embedding"]
Values = Literal["logits", "probabilities"]

KINDS: tuple[HeadKind, ...] = get_args(HeadKind)
LEAST = 2.0**-126
"""Of a probability whose logarithm is taken: the least normal float32."""


@dataclass(frozen=True)
class Head:
    """How the first output of a model is read, (B, n).

    Attributes:
        kind: classes: the highest of n is the answer. binary: one number, the label applies or does
            not. multi-label: so does each of n. embedding: a direction, compared by its cosine.
        values: whether these are probabilities already, or logits: softmax makes those of classes
            probabilities, sigmoid those of labels.
        threshold: probability above which a label applies.

    Raises:
        ValueError: the kind or the values are unknown, or the threshold is not within 0..1.
    """

    kind: HeadKind = "classes"
    values: Values = "logits"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.values not in get_args(Values):
            raise ValueError(f"unknown head {self.kind!r} of {self.values!r}")
        if not 0 < self.threshold < 1:
            raise ValueError(f"a threshold lies between 0 and 1, got {self.threshold}")

    @property
    def labelled(self) -> bool:
        """Whether each number is of a label that applies or does not."""
        return self.kind in ("binary", "multi-label")

    @property
    def has_classes(self) -> bool:
        """Whether the answer is one of several classes, if only of two."""
        return self.kind in ("classes", "binary")

    @property
    def output(self) -> Literal["logits", "probabilities", "embedding"]:
        """Name of the output that has the numbers."""
        return "embedding" if self.kind == "embedding" else self.values

    @property
    def cut(self) -> float:
        """The threshold in the unit of the numbers."""
        odds = self.threshold / (1 - self.threshold)
        return self.threshold if self.values == "probabilities" else log(odds)

    def probabilities(self, numbers: "NDArray[Any]") -> "NDArray[Any]":
        """Turn the numbers into probabilities, along the last axis. Not of an embedding."""
        import numpy as np

        if self.values == "probabilities":
            return numbers
        if self.labelled:
            return np.exp(-np.logaddexp(0, -numbers))
        powers = np.exp(numbers - numbers.max(axis=-1, keepdims=True))
        return cast("NDArray[Any]", powers / powers.sum(axis=-1, keepdims=True))

    def class_logits(self, numbers: "NDArray[Any]") -> "NDArray[Any]":
        """Return logits of classes that exclude each other, (B, C).

        A binary head has two: class 1 is what its number is of, class 0 its absence. Adding the
        logarithm of the odds puts the border between them where the threshold is.

        Raises:
            ValueError: its labels do not exclude each other, or it has none.
        """
        import numpy as np

        if not self.has_classes:
            raise ValueError(f"a head of kind {self.kind} has no classes")
        if self.values == "logits":
            logits = numbers
        elif self.kind == "classes":
            logits = np.log(np.maximum(numbers, LEAST))
        else:
            logits = np.log(np.maximum(numbers, LEAST)) - np.log(np.maximum(1 - numbers, LEAST))
        if self.kind == "classes":
            return logits
        border = replace(self, values="logits").cut
        return np.concatenate([np.full_like(logits, border), logits], axis=1)

    def same(
        self, first: "NDArray[Any]", second: "NDArray[Any]", slack: float = 0.0
    ) -> "NDArray[np.float64]":
        """Say of each picture whether two answers are the same, both (N, n). -> (N,), 0..1.

        1 or 0 for classes and labels, all labels of a picture together; for embeddings their
        cosine, of which less than nothing counts as 0.

        Args:
            first: which the slack is about.
            second: beside it.
            slack: what numbers may be off by rounding: no answer differs within it.
        """
        import numpy as np

        if self.kind == "embedding":
            lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
            cosine = (first * second).sum(axis=1) / np.maximum(lengths, LEAST)
            within = np.abs(first - second).max(axis=1) <= slack
            alike = np.where(within, 1.0, np.clip(cosine, 0, 1))
            return np.nan_to_num(alike.astype(np.float64), nan=0.0)
        if self.labelled:
            apply = (first > self.cut) == (second > self.cut)
            near = (np.abs(first - self.cut) <= slack) if slack else np.zeros_like(apply)
            return (apply | near).all(axis=1).astype(np.float64)
        alike = first.argmax(axis=1) == second.argmax(axis=1)
        if slack:
            highest = np.sort(first, axis=1)[:, -2:]
            alike |= highest[:, -1] - highest[:, 0] <= 2 * slack
        return alike.astype(np.float64)

    def words(self, numbers: "NDArray[Any]", labels: Sequence[str]) -> str:
        """Name the answer of one picture, (n,), by labels, or by places where there are none."""
        import numpy as np

        if self.kind == "embedding":
            return "an embedding"

        def name(index: int) -> str:
            return labels[index] if index < len(labels) else f"class {index}"

        if self.labelled:
            return ", ".join(map(name, np.flatnonzero(numbers > self.cut).tolist())) or "none"
        return name(int(numbers.argmax()))

    def parameters(self) -> dict[str, str]:
        """Return what a server says of it with a model's metadata; nothing of the usual one."""
        if self == CLASSES:
            return {}
        return {
            "head": self.kind,
            "head_values": self.values,
            "head_threshold": repr(self.threshold),
        }


CLASSES = Head()
"""The usual one: logits of classes."""


def told_head(told: Mapping[str, str]) -> Head:
    """Return the head that a server tells of with `Head.parameters`; by default the usual one.

    Raises:
        ValueError: a parameter is none of those.
    """
    return Head(
        cast("HeadKind", told.get("head", CLASSES.kind)),
        cast("Values", told.get("head_values", CLASSES.values)),
        float(told.get("head_threshold", CLASSES.threshold)),
    )
