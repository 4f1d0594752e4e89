"""What a request brings for a model whose input is not simply one batch of numbers.

Several inputs, strings, scalars, BF16: arrays by name -> Feeds -> merged with others' -> arrays

A batcher asks the same of them as of an array: rows, bytes, and a shape that tells what goes
together.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Feeds:
    """The inputs of one request, or of several together.

    Args:
        arrays: by the name of the input, as the graph takes them; of strings, those of `object`.
        rows: of the batch; 1 where the model has none.

    Attributes:
        shape: rows, then the shape of each input without its first axis: requests that have all
            but the rows in common may run together.
        nbytes: of numbers and strings.
    """

    __slots__ = ("arrays", "nbytes", "rows", "shape")

    def __init__(self, arrays: Mapping[str, Array], rows: int) -> None:
        self.arrays, self.rows = dict(arrays), rows
        self.shape = (rows, *(array.shape[1:] for array in arrays.values()))
        self.nbytes = sum(map(_bytes_of, arrays.values()))

    def __len__(self) -> int:
        return self.rows

    def repeated(self, rows: int) -> Self:
        """Return so many times the first row. Only of a model with a batch."""
        first = {name: array[:1] for name, array in self.arrays.items()}
        return type(self)({name: np.repeat(one, rows, axis=0) for name, one in first.items()}, rows)

    def padded(self, rows: int) -> Self:
        """Append rows: the last one again, which every model takes, strings too."""
        if not rows:
            return self
        arrays = {
            name: np.concatenate([array, np.repeat(array[-1:], rows, axis=0)])
            for name, array in self.arrays.items()
        }
        return type(self)(arrays, self.rows + rows)


def merged(parts: Sequence[Feeds]) -> Feeds:
    """Put requests of one shape, but for their rows, together."""
    if len(parts) == 1:
        return parts[0]
    names = parts[0].arrays
    return Feeds(
        {name: np.concatenate([part.arrays[name] for part in parts]) for name in names},
        sum(map(len, parts)),
    )


def _bytes_of(array: Array) -> int:
    if array.dtype.kind != "O":
        return array.nbytes
    return array.nbytes + sum(len(text) for text in array.flat)
