"""What a model takes and gives, as requests and answers name it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nyquist.server.wire.framing import PictureInput

DYNAMIC = -1

Datatype = Literal[
    "FP32", "FP16", "UINT8", "FP64", "BOOL", "INT8", "INT16", "INT32", "INT64",
    "UINT16", "UINT32", "UINT64",
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
            not written to manifests.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    datatype: Datatype
    shape: tuple[Annotated[int, Field(ge=-1)], ...]
    least: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    most: tuple[Annotated[int, Field(gt=0)], ...] | None = None
    batch: Annotated[int, Field(exclude=True)] = DYNAMIC

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
    def unbounded(self) -> bool:
        """Whether some axis may have any size whatever."""
        return ANY_SIZE in self.bounds[1]

    def fits(self, shape: Sequence[int]) -> bool:
        """Whether one picture of this shape, without the batch, may be sent."""
        least, most = self.bounds
        return len(shape) == len(least) and all(
            low <= size <= high for low, size, high in zip(least, shape, most, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    """One version of a model, as callers see it.

    Attributes:
        name: of the model.
        version: decimal.
        input: the one input.
        outputs: what a request may ask for.
        picture: what a picture file becomes that is sent in place of the input; None where none
            may.
    """

    name: str
    version: str
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    picture: PictureInput | None
