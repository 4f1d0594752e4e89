"""The range of every activation on real pictures."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    TensorsData,
    create_calibrator,
)

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


def calibrate(
    graph: bytes, pictures: NDArray[Any], operators: Sequence[str] | None = None
) -> TensorsData:
    """Return the least and the greatest value of activations.

    MinMax: Percentile and Entropy cut off peaks, those of the logits too.

    Args:
        graph: in float32.
        pictures: served inputs, (N, ...).
        operators: types whose inputs and outputs are wanted; None for all.

    Raises:
        ValueError: there is no picture.
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


def ranges(graph: bytes, pictures: NDArray[Any]) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest value of every activation, by name; see `calibrate`."""
    found = calibrate(graph, pictures)
    limits = {name: found[name].range_value for name in found.keys()}  # noqa: SIM118 # no mapping
    return {name: (float(low.min()), float(high.max())) for name, (low, high) in limits.items()}
