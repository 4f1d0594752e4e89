"""Stand-ins that are small enough to read."""

from threading import Event
from typing import Any

from numpy.typing import NDArray


class GatedDouble:
    """A model that doubles its input, once its gate is open; it remembers every batch.

    Attributes:
        entered: set when a batch has reached the gate.
        batches: the values of each batch, in the order of the runs.
        poison: a value that makes the run fail.
    """

    poison = -1.0

    def __init__(self) -> None:
        self.entered = Event()
        self.batches: list[list[float]] = []
        self._gate = Event()

    def open(self) -> None:
        """Let this batch and all that follow pass."""
        self._gate.set()

    def __call__(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        self.batches.append(batch.ravel().tolist())
        self.entered.set()
        assert self._gate.wait(timeout=20)
        if self.poison in batch:
            raise RuntimeError("poisoned")
        return {"double": 2 * batch}
