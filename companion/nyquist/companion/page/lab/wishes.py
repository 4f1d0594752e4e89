"""What a browser asks the lab for: its first line is JSON, the picture files follow as they are.

body -> Wish, files. Everything is bounded, and checked before a picture is read.
"""

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nyquist.companion.measures.shifts import Offsets, grid
from nyquist.server.wire.errors import InvalidRequest

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_LINE_BYTES = 128 * 1024
MAX_MODELS = 8
MAX_PICTURES = 256
MAX_REACH = 32
STEPS = (1.0, 0.5)
MAX_POSITIONS = 1024
MAX_ANSWERS = 65536
"""Of one run: models x pictures x positions."""

Move = Literal["circular", "crop"]
Path = Literal["right", "down", "diagonal", "map"]


class Sent(BaseModel):
    """One picture file.

    Attributes:
        name: that it is shown under.
        size: of the file, in bytes.
        label: what it shows, by the name or the index of a class; empty where nobody knows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(max_length=200)
    size: int = Field(gt=0)
    label: str = Field("", max_length=200)


class Wish(BaseModel):
    """A run of the lab.

    Attributes:
        models: that answer, by the ids of `Models.listed`.
        move: circular: around the edge; crop: the window moves over a larger picture.
        path: along one axis, along both at once, or every combination of both.
        step: from one position to the next, in pixels.
        reach: the farthest position in pixels; of a map the number of whole pixels an axis.
        pictures: whose files follow, in this order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    models: Annotated[tuple[str, ...], Field(min_length=1, max_length=MAX_MODELS)]
    move: Move = "crop"
    path: Path = "right"
    step: float = 1.0
    reach: int = Field(16, ge=1, le=MAX_REACH)
    pictures: Annotated[tuple[Sent, ...], Field(min_length=1, max_length=MAX_PICTURES)]

    @model_validator(mode="after")
    def _bounded(self) -> "Wish":
        if self.step not in STEPS:
            raise ValueError(f"a step is {' or '.join(map(str, STEPS))} pixels, got {self.step}")
        positions = len(self.offsets())
        if not 2 <= positions <= MAX_POSITIONS:
            raise ValueError(f"a run has 2 to {MAX_POSITIONS} positions, this one {positions}")
        answers = len(self.models) * len(self.pictures) * positions
        if answers > MAX_ANSWERS:
            raise ValueError(f"a run has {MAX_ANSWERS} answers at most, this one {answers}")
        if len(set(self.models)) < len(self.models):
            raise ValueError("a model stands twice in the run")
        return self

    def offsets(self) -> Offsets:
        """Return where the picture is moved to: pixels down and to the right, (K, 2)."""
        if self.path == "map":
            side = np.arange(0, self.reach, self.step)
            return grid(side, side)
        along = np.arange(0, self.reach + self.step, self.step)
        still = np.zeros_like(along)
        down = still if self.path == "right" else along
        right = still if self.path == "down" else along
        return np.stack([down, right], axis=1)


def read_wish(body: bytes) -> tuple[Wish, list[bytes]]:
    """Take the body of a request apart.

    Raises:
        InvalidRequest: it is no wish, or the files are not as long as it says.
    """
    line, _, rest = body.partition(b"\n")
    if len(line) > MAX_LINE_BYTES:
        raise InvalidRequest(f"the first line has {len(line)} bytes, at most are {MAX_LINE_BYTES}")
    try:
        wish = Wish.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "the run"
        raise InvalidRequest(f"{place}: {first['msg'].removeprefix('Value error, ')}") from error
    if (said := sum(one.size for one in wish.pictures)) != len(rest):
        raise InvalidRequest(f"the pictures have {len(rest)} bytes, said were {said}")
    ends = np.cumsum([one.size for one in wish.pictures]).tolist()
    starts = [0, *ends[:-1]]
    return wish, [rest[start:end] for start, end in zip(starts, ends, strict=True)]
