"""What a model takes and gives, as requests and answers name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nyquist.server.wire.framing import PictureInput

DYNAMIC = -1

Datatype = Literal[
    "FP32", "FP16", "UINT8", "FP64", "BOOL", "INT8", "INT16", "INT32", "INT64",
    "UINT16", "UINT32", "UINT64", "BF16", "BYTES",
]  # fmt: skip
ANY_SIZE = 2**31 - 1
"""Of an axis that has no bound that anybody has named."""


class TensorSpec(BaseModel):
    """One input or output of the graph.

    Attributes:
        name: as in the graph and on the wire.
        datatype: as the protocol spells it.
        shape: without the batch, which stands in front of it and is dynamic; -1 where an axis may
            have any size from `least` to `most`.
        least: smallest size of each axis that the build proved; None for that of `shape`.
        most: greatest, likewise.
        batch: size of the axis in front; -1 where it may have any, which is the common case and
            not written to manifests; None of a scalar, which has no axis.
        inside: whole shape that the graph has in place of this one, where a configuration has a
            `reshape`; each open axis is one of this shape, in their order. Not in manifests either.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    datatype: Datatype
    shape: tuple[Annotated[int, Field(ge=-1)], ...]
    least: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    most: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    batch: Annotated[int | None, Field(exclude=True)] = DYNAMIC
    inside: Annotated[tuple[int, ...] | None, Field(exclude=True)] = None

    @model_validator(mode="after")
    def _bounds_fit(self) -> Self:
        least, most = self.bounds
        sizes = list(zip(self.shape, least, most, strict=False))
        if not len(self.shape) == len(least) == len(most) or not all(
            0 < low <= high and size in (low, DYNAMIC) and (size == DYNAMIC or low == high)
            for size, low, high in sizes
        ):
            raise ValueError(f"shape {self.shape} does not fit bounds {least} to {most}")
        return self

    @property
    def bounds(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Smallest and greatest size of each axis."""
        return self.least or self.shape, self.most or self.shape

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape with the axis in front."""
        return self.shape if self.batch is None else (self.batch, *self.shape)

    @property
    def in_graph(self) -> tuple[int, ...]:
        """The whole shape that the graph has."""
        return self.whole if self.inside is None else self.inside

    def to_graph(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape in the graph of a tensor that has `shape` outside of it."""
        return _moved(shape, self.whole, self.in_graph)

    def from_graph(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the shape outside of the graph of a tensor that has `shape` in it."""
        return _moved(shape, self.in_graph, self.whole)

    @property
    def unbounded(self) -> bool:
        """Whether some axis may have any size whatever."""
        return ANY_SIZE in self.bounds[1]

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether one picture of this shape, without the batch, may be sent."""
        least, most = self.bounds
        return len(shape) == len(least) and all(
            low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
        )


def _moved(shape: Sequence[int], source: Sequence[int], target: Sequence[int]) -> tuple[int, ...]:
    """Return `target` with the sizes that `shape` has where `source` is open."""
    if source == target:
        return tuple(shape)
    sizes = iter(size for size, said in zip(shape, source, strict=True) if said == DYNAMIC)
    return tuple(next(sizes) if said == DYNAMIC else said for said in target)


@dataclass(frozen=True)
class Signature:
    """One version of a model, as callers see it.

    Attributes:
        name: of the model.
        version: decimal.
        inputs: that a request must bring.
        outputs: what a request may ask for.
        picture: what a picture file becomes that is sent in place of the input; None where none
            may.
        batched: whether the first axes of all tensors are one batch.
    """

    name: str
    version: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    picture: PictureInput | None
    batched: bool = True

    @property
    def plain(self) -> bool:
        """Whether a request brings one array of numbers with a first axis, the common case."""
        (first, *others) = self.inputs
        return not others and first.datatype not in ("BYTES", "BF16") and bool(first.in_graph)
