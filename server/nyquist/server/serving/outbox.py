"""What waits for one connection to a companion: bounded in number and bytes, never waited for.

request's path -> put, or no room -> sender -> take -> ... -> closed -> what is left
"""

from collections import deque
from dataclasses import dataclass
from threading import Condition
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.artifact.manifest import Manifest
from nyquist.server.scheduling.request_queue import Outputs
from nyquist.server.telemetry.metrics import ModelMetrics
from nyquist.server.wire.pb import shadow_pb2 as pb

Array = NDArray[Any]

MAX_INFERENCES = 256
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """One request as it was run, and what came of it.

    Attributes:
        manifest: of the version that answered.
        metrics: of that version.
        pictures: (B, ...), as the model got them.
        outputs: every output of the graph, (B, ...).
        trace_id: of the call; empty without one.
    """

    manifest: Manifest
    metrics: ModelMetrics
    pictures: Array
    outputs: Outputs
    trace_id: str

    @property
    def nbytes(self) -> int:
        """Memory that it keeps: an output may be a part of the array of its whole batch."""
        arrays = (self.pictures, *(_owner(output) for output in self.outputs.values()))
        return sum(array.nbytes for array in arrays)

    def message(self) -> pb.MirroredInference:
        """Copy it into a message."""
        manifest = self.manifest
        return pb.MirroredInference(
            model_name=manifest.name,
            model_version=str(manifest.version),
            sha256=manifest.graph_sha256,
            pictures=_tensor(manifest.input.name, manifest.input.datatype, self.pictures),
            outputs=[
                _tensor(output.name, output.datatype, self.outputs[output.name])
                for output in manifest.outputs
            ],
            trace_id=self.trace_id,
        )


class Outbox:
    """A queue between the event loop, which puts, and the sender's thread, which takes.

    Attributes:
        overflowed: it had no room since it was last empty.
    """

    def __init__(self) -> None:
        self._changed = Condition()
        self._waiting: deque[Inference] = deque()
        self._bytes = 0
        self._open = True
        self.overflowed = False

    @property
    def open(self) -> bool:
        """Whether it still takes anything."""
        return self._open

    def put(self, inference: Inference) -> bool:
        """Let an inference wait, if there is room for it; say whether there was."""
        size = inference.nbytes
        with self._changed:
            full = len(self._waiting) >= MAX_INFERENCES or self._bytes + size > MAX_BYTES
            if full or not self._open:
                return False
            self._waiting.append(inference)
            self._bytes += size
            self._changed.notify()
            return True

    def take(self) -> Inference | None:
        """Wait for an inference; None once it is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or not self._open)
            if not self._open:
                return None
            inference = self._waiting.popleft()
            self._bytes -= inference.nbytes
            return inference

    def close(self) -> list[Inference]:
        """Take nothing any more, wake who waits in `take`, and return what is left."""
        with self._changed:
            self._open = False
            left, self._waiting = list(self._waiting), deque()
            self._changed.notify_all()
            return left

    def __len__(self) -> int:
        return len(self._waiting)


def _owner(array: Array) -> Array:
    return array.base if isinstance(array.base, np.ndarray) else array


def _tensor(name: str, datatype: str, array: Array) -> pb.MirroredInference.Tensor:
    return pb.MirroredInference.Tensor(
        name=name, datatype=datatype, shape=array.shape, raw=array.tobytes()
    )
