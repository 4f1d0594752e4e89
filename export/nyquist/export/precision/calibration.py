"""What a graph computes on real pictures: the ranges of its activations, and its logits."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    TensorsData,
    create_calibrator,
)

from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution

BATCH = 16


class PictureBatches(CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
    """Pictures in batches, as onnxruntime's calibrators ask for them.

    Args:
        name: of the graph's input.
        pictures: (N, ...).
    """

    def __init__(self, name: str, pictures: NDArray[Any]) -> None:
        self._name = name
        self._batches = iter([pictures[at : at + BATCH] for at in range(0, len(pictures), BATCH)])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next batch by the name of its input, None behind the last."""
        batch = next(self._batches, None)
        return None if batch is None else {self._name: batch}


@dataclass(frozen=True)
class Calibration:
    """A float32 graph measured on pictures.

    Attributes:
        pictures: served inputs, (N, ...).
        ranges: least and greatest value of the activations that were asked for.
        logits: of each picture, (N, C).
    """

    pictures: NDArray[Any]
    ranges: TensorsData
    logits: NDArray[Any]


def calibrate(graph: bytes, pictures: NDArray[Any], operators: Sequence[str]) -> Calibration:
    """Measure the inputs and outputs of some types of nodes, and the logits.

    Raises:
        ValueError: there is no picture.
    """
    return Calibration(pictures, _min_max(graph, pictures, operators), logits(graph, pictures))


def logits(graph: bytes, pictures: NDArray[Any]) -> NDArray[Any]:
    """Compute the first output of a graph on the CPU. (N, ...) -> (N, C)."""
    engine = Engine(graph, Execution(provider="cpu"), BATCH)
    batches = (pictures[at : at + BATCH] for at in range(0, len(pictures), BATCH))
    return np.concatenate([next(iter(engine.run(batch).values())) for batch in batches])


def ranges(graph: bytes, pictures: NDArray[Any]) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest value of every activation, by name.

    Raises:
        ValueError: there is no picture.
    """
    found = _min_max(graph, pictures, None)
    limits = {name: found[name].range_value for name in found.keys()}  # noqa: SIM118 # no mapping
    return {name: (float(low.min()), float(high.max())) for name, (low, high) in limits.items()}


def _min_max(graph: bytes, pictures: NDArray[Any], operators: Sequence[str] | None) -> TensorsData:
    """Return ranges; of all activations where `operators` is None.

    Percentile and Entropy would cut off peaks, those of the logits too.
    """
    if not len(pictures):
        raise ValueError("calibration needs at least one picture")
    model = onnx.load_from_string(graph)
    with tempfile.TemporaryDirectory(prefix="nyquist-calibration.") as scratch:
        path = Path(scratch) / "model.onnx"
        path.write_bytes(graph)
        calibrator = create_calibrator(
            path,
            operators,
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=CalibrationMethod.MinMax,
        )
        calibrator.collect_data(PictureBatches(model.graph.input[0].name, pictures))
        return calibrator.compute_data()
