"""Stand-ins that are small enough to read."""

from threading import Event
from typing import Any

from numpy.typing import NDArray


class GatedDouble:
    """An instance that doubles its input, once its gate is open; it remembers every batch.

    Attributes:
        entered: set when a batch has reached the gate.
        batches: the values of each batch, in the order of the runs.
        poison: a value that makes the run fail.
        defect: raised by every run and every probe, once set.
        ungated: how many batches pass the gate though it is closed.
        deaf: whether a run at the gate stays there when it is told to end.
        terminated: whether it was told to, and has not been probed since.
    """

    poison = -1.0

    def __init__(self, batches: list[list[float]] | None = None) -> None:
        self.entered = Event()
        self.batches: list[list[float]] = [] if batches is None else batches
        self.defect: BaseException | None = None
        self.deaf = self.terminated = False
        self._gate = Event()
        self.ungated = 0

    def open(self) -> None:
        """Let this batch and all that follow pass."""
        self._gate.set()

    def close(self) -> None:
        """Let the next batch wait at the gate, as at the beginning."""
        self.entered.clear()
        self._gate.clear()

    def run(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        self.batches.append(batch.ravel().tolist())
        self.entered.set()
        assert len(self.batches) <= self.ungated or self._gate.wait(timeout=20)
        if self.terminated:
            raise RuntimeError("told to end")
        if self.poison in batch:
            raise RuntimeError("poisoned")
        self._fail()
        return {"double": 2 * batch}

    def probe(self) -> None:
        self.terminated = False
        self._fail()

    def terminate(self) -> None:
        self.terminated = True
        if not self.deaf:
            self._gate.set()

    def _fail(self) -> None:
        if self.defect is not None:
            raise self.defect
