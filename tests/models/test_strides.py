from collections.abc import Callable
from typing import Any

import pytest

from nyquist.models.analysis import Window
from nyquist.models.layers import BlurPool2d, Downsampling, PolyphasePool2d
from nyquist.models.layers.polyphase import PolyphasePair

TAKES_A_STRIDE: list[Callable[[int], Any]] = [
    lambda stride: BlurPool2d(stride=stride),
    lambda stride: Downsampling("blur", stride=stride),
    lambda stride: PolyphasePool2d(stride),
    lambda stride: PolyphasePair(stride),
    lambda stride: Window(kernel=1, stride=stride),
]


@pytest.mark.parametrize("make", TAKES_A_STRIDE)
def test_a_stride_of_one_is_taken_and_one_below_is_not(make: Callable[[int], Any]) -> None:
    assert make(1).stride == 1
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        make(0)
