import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.analysis.properties import (
    Operations,
    forward_times,
    operations,
    properties,
    saved_bytes,
)
from nyquist.models.analysis.transposed import backward_comparisons, spread_apart
from nyquist.models.layers.blur import BlurPool2d

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
FLOATS = X.numel() * 4


def strided(x: Tensor) -> Tensor:
    return F.conv2d(x, torch.ones(4, 4, 3, 3), stride=2, padding=1)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(4, 4, 3, 2, 1), {"float32": FLOATS}),
        (nn.MaxPool2d(2), {"float32": FLOATS, "int64": X.numel() // 4 * 8}),
        (nn.AvgPool2d(2), {"float32": FLOATS}),
        (nn.ReLU(), {"float32": FLOATS}),
    ],
)
def test_what_autograd_keeps_is_counted_by_its_type(
    layer: nn.Module, expected: dict[str, int]
) -> None:
    assert saved_bytes(layer, X) == expected


def test_a_tensor_that_is_kept_twice_counts_once() -> None:
    assert saved_bytes(lambda x: x.exp() * 1.0, X)["float32"] == FLOATS
    assert saved_bytes(nn.Sequential(nn.Identity(), nn.MaxPool2d(1)), X)["float32"] == FLOATS


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (strided, Operations(multiply_adds=2 * 4 * 16 * 36)),
        (nn.Conv2d(4, 4, 3, 2, 1, groups=4), Operations(multiply_adds=2 * 4 * 16 * 9)),
        (nn.MaxPool2d(3, 2, 1), Operations(comparisons=2 * 4 * 16 * 8)),
        (nn.AvgPool2d(2), Operations(additions=2 * 4 * 16 * 3)),
        (BlurPool2d(4), Operations(multiply_adds=2 * 4 * 16 * 16)),
    ],
)
def test_what_a_layer_computes_is_counted(layer: nn.Module, expected: Operations) -> None:
    assert operations(layer, X) == expected


def test_the_quartiles_of_a_time_lie_around_its_median() -> None:
    times = forward_times({"pool": nn.MaxPool2d(2), "relu": nn.ReLU()}, X, rounds=5)

    assert list(times) == ["pool", "relu"]
    assert all(0 < time.low <= time.median <= time.high for time in times.values())


def test_of_the_layers_that_halve_only_the_maximum_is_not_linear() -> None:
    measured = properties(channels=4, size=16, batch=2)

    linear = {name: line.nonlinearity < 1e-5 for name, line in measured.items()}
    assert linear == {"strided conv": True, "max pool": False, "avg pool": True, "blur": True}
    assert measured["strided conv"].parameters == 4 * 4 * 9 + 4
    assert measured["max pool"].zeros == 0.75
    assert measured["blur"].shift_error < measured["max pool"].shift_error


def test_the_backward_pass_of_a_strided_convolution_is_a_transposed_one() -> None:
    compared = backward_comparisons()

    assert {"3x3 s2 p1", "4x4 s4", "1x1 s2"} <= compared.keys()
    for line in compared.values():
        assert line.largest > 0.1
        assert max(line.transposed, line.fractional) < 1e-12


def test_a_fractional_stride_has_zeros_between_what_it_reads() -> None:
    apart = spread_apart(torch.arange(1.0, 5).reshape(1, 1, 2, 2), 3)

    expected = [[1.0, 0, 0, 2], [0, 0, 0, 0], [0, 0, 0, 0], [3, 0, 0, 4]]
    assert apart[0, 0].tolist() == expected
