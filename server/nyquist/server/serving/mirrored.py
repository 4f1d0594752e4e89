"""A request that has run, as it waits for its companion: pictures, outputs -> message."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.artifact.graph_description import Described
from nyquist.server.scheduling.request_queue import Outputs
from nyquist.server.telemetry.metrics import ModelMetrics
from nyquist.server.wire.pb import shadow_pb2 as pb

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Inference:
    """One request as it was run, and what came of it.

    Attributes:
        described: the version that answered.
        metrics: of that version.
        pictures: (B, ...), as the model got them.
        outputs: every output of the graph, (B, ...).
        trace_id: of the call; empty without one.
    """

    described: Described
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
        described, taken = self.described, self.described.inputs[0]
        return pb.MirroredInference(
            model_name=described.name,
            model_version=str(described.version),
            sha256=described.graph_sha256,
            pictures=_tensor(taken.name, taken.datatype, self.pictures),
            outputs=[
                _tensor(output.name, output.datatype, self.outputs[output.name])
                for output in described.outputs
            ],
            trace_id=self.trace_id,
        )


def _owner(array: Array) -> Array:
    return array.base if isinstance(array.base, np.ndarray) else array


def _tensor(name: str, datatype: str, array: Array) -> pb.MirroredInference.Tensor:
    return pb.MirroredInference.Tensor(
        name=name, datatype=datatype, shape=array.shape, raw=array.tobytes()
    )
