"""Where a graph first leaves its network is named: the layer, the value, by how much."""

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import Tensor, nn

from nyquist.export.graph.drift import (
    AT_ONCE,
    Drift,
    GraphValues,
    NetworkValues,
    locate,
    relative_error,
)
from tests.export.exporting import Exported, exported, rewritten, small_graph

FLOAT32, FLOAT16, INT8 = 1e-4, 1e-2, 0.3
PICTURES = 4


class Square(nn.Module):
    """A network with a square 1x1 convolution, a square linear layer and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.mix = nn.Conv2d(8, 8, 1)
        self.hidden = nn.Linear(8, 8)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.mix(self.stem(image)).relu().mean((2, 3))
        return self.head(self.hidden(x).relu())


@pytest.fixture(scope="module")
def square() -> Exported:
    torch.manual_seed(0)
    pictures = np.random.default_rng(0).random((PICTURES, 3, 16, 16), dtype=np.float32)
    return exported(Square(), pictures)


def drift(subject: Exported, graph: bytes, limit: float = FLOAT32) -> Drift | None:
    pictures = subject.pictures[:PICTURES]
    network = NetworkValues(subject.trace, pictures)
    return locate(network, GraphValues(graph, pictures), limit, subject.trace.layers)


def test_a_sound_graph_drifts_nowhere_and_every_value_is_compared(fashion: Exported) -> None:
    assert drift(fashion, fashion.graph) is None
    graph = GraphValues(fashion.graph, fashion.pictures[:1])
    assert set(graph.names) == set(fashion.trace.layers)
    assert len(graph.names) > AT_ONCE


def test_every_value_knows_the_modules_that_make_it(fashion: Exported) -> None:
    layers = fashion.trace.layers
    folded = ("network.stages.3.0", "network.stages.3.1")
    assert [name for name, path in layers.items() if path == folded] == ["getitem_9"]
    assert layers["relu_3"] == ("network.stages.3.2",)
    assert layers["logits"] == ("network.classifier",)
    assert layers["mean"] == ("network",)


@pytest.mark.parametrize(
    ("weight", "operator", "layers"),
    [
        ("mix.weight", "Conv", ("mix",)),
        ("hidden.weight", "Gemm", ("hidden",)),
    ],
)
def test_a_transposed_square_weight_is_named(
    square: Exported, weight: str, operator: str, layers: tuple[str, ...]
) -> None:
    found = drift(square, rewritten(square.graph, weight, lambda values: values.swapaxes(0, 1)))
    assert found is not None
    assert (found.operator, found.layers) == (operator, layers)
    assert 0.1 < found.error < inf
    assert str(found).startswith(f"parity first breaks in {layers[0]} ({operator} ")
    assert str(found).endswith("at most 0.0001 is allowed")


def test_a_transposed_kernel_is_named_with_the_norm_that_was_folded_into_it(
    fashion: Exported,
) -> None:
    broken = rewritten(fashion.graph, "network.stages.2.0.weight", lambda w: w.swapaxes(2, 3))
    found = drift(fashion, broken)
    assert found is not None
    assert (found.value, found.operator) == ("getitem_6", "Conv")
    assert "network.stages.2.0 + network.stages.2.1 (Conv 'getitem_6')" in str(found)


def test_a_wrong_epsilon_is_named(fashion: Exported, wrong_epsilon: Exported) -> None:
    found = drift(fashion, wrong_epsilon.graph)
    assert found is not None
    assert found.layers == ("network.stages.1.0", "network.stages.1.1")
    assert FLOAT32 < found.error < 1e-2


def half(graph: bytes) -> bytes:
    model = convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True)
    return model.SerializeToString()


def test_an_overflow_of_float16_is_named_by_its_network_and_by_its_float32_graph(
    loud: Exported,
) -> None:
    pictures = loud.pictures[:PICTURES]
    found = drift(loud, half(loud.graph), FLOAT16)
    assert found is not None
    assert found.layers == ("network.stages.1.0", "network.stages.1.1")
    assert found.error == inf
    whole, halved = (GraphValues(graph, pictures) for graph in (loud.graph, half(loud.graph)))
    assert locate(whole, halved, FLOAT16, loud.trace.layers) == found
    assert locate(whole, whole, FLOAT16, {}) is None


def test_float16_alone_drifts_nowhere(fashion: Exported) -> None:
    assert drift(fashion, half(fashion.graph), FLOAT16) is None


class Batches(CalibrationDataReader):  # type: ignore[misc] # onnxruntime ships no types
    """Sixteen pictures, once."""

    def __init__(self, pictures: NDArray[Any]) -> None:
        self._batches = iter([{"image": pictures[:16]}])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        return next(self._batches, None)


@pytest.fixture(scope="module")
def quantised(fashion: Exported, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder: Path = tmp_path_factory.mktemp("quantised")
    (folder / "float.onnx").write_bytes(fashion.graph)
    quantize_static(
        folder / "float.onnx",
        folder / "int8.onnx",
        Batches(fashion.pictures),
        op_types_to_quantize=["Conv", "Gemm"],
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return (folder / "int8.onnx").read_bytes()


def test_the_layer_that_int8_destroyed_is_named_and_sound_int8_is_not(
    fashion: Exported, quantised: bytes
) -> None:
    assert drift(fashion, quantised, INT8) is None
    weight = "network.stages.2.0.weight_scale"
    coarse = rewritten(quantised, weight, lambda scale: np.full_like(scale, 20 * scale.max()))
    found = drift(fashion, coarse, INT8)
    assert found is not None
    assert (found.value, found.layers[0]) == ("getitem_6", "network.stages.2.0")
    pictures = fashion.pictures[:PICTURES]
    graphs = GraphValues(fashion.graph, pictures), GraphValues(coarse, pictures)
    between = locate(*graphs, INT8, fashion.trace.layers)
    assert between is not None
    assert (between.value, between.layers) == (found.value, found.layers)


def test_no_more_values_are_held_at_once_than_allowed(fashion: Exported) -> None:
    class Watched:
        """A network that remembers how much was asked of it."""

        def __init__(self, network: NetworkValues) -> None:
            self.network, self.asked = network, list[int]()
            self.names = network.names

        def compute(self, names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
            self.asked.append(len(names))
            return self.network.compute(names)

    pictures = fashion.pictures[:1]
    watched = Watched(NetworkValues(fashion.trace, pictures))
    locate(watched, GraphValues(fashion.graph, pictures), FLOAT32, {})
    assert sum(watched.asked) == len(watched.names)
    assert max(watched.asked) == AT_ONCE


def test_graphs_of_other_networks_are_refused(fashion: Exported) -> None:
    other = small_graph(helper.make_node("Flatten", ["image"], ["other"]), outputs=("other",))
    pictures = np.zeros((1, 1, 2, 2), np.float32)
    with pytest.raises(ValueError, match="no value in common"):
        locate(
            NetworkValues(fashion.trace, fashion.pictures[:1]),
            GraphValues(other.SerializeToString(), pictures),
            FLOAT32,
            {},
        )


def test_a_relative_error_is_what_it_is_by_hand() -> None:
    ours = np.array([3.0, 4.0])
    assert relative_error(ours, ours) == 0
    assert relative_error(ours, np.array([3.0, 4.5])) == pytest.approx(0.1)
    assert relative_error(ours, np.array([3.0, np.nan])) == inf
    assert relative_error(ours, np.array([np.inf, 4.0])) == inf
    assert relative_error(np.array([np.inf, 1]), np.array([np.inf, 1])) == 0
    assert relative_error(ours, ours[:1]) == inf
    assert relative_error(np.zeros(4), np.full(4, 1e-9)) == pytest.approx(1e-3)
