"""What is exported once for all tests of the gates."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.export.exporting import Exported, exported, fashion_network, fashion_pictures


class PooledTo7(nn.Module):
    """Promises a map of 7x7 whatever the picture's size, which a graph cannot keep."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(7)

    def forward(self, image: Tensor) -> Tensor:
        return self.pool(self.conv(image).relu())


@pytest.fixture(scope="session")
def fashion() -> Exported:
    return exported(fashion_network("fashion_max_pool"), fashion_pictures())


@pytest.fixture(scope="session")
def pooled_to_7() -> Exported:
    torch.manual_seed(0)
    pictures = np.random.default_rng(0).random((4, 3, 112, 112), dtype=np.float32)
    return exported(PooledTo7(), pictures, open_sizes=True)


@pytest.fixture(scope="session")
def wrong_epsilon() -> Exported:
    """Return fashion_max_pool with the epsilon of another framework in one layer."""
    network = fashion_network("fashion_max_pool")
    norm = network.get_submodule("network.stages.1.1")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.eps = 1e-3
    return exported(network, fashion_pictures())


@pytest.fixture(scope="session")
def loud() -> Exported:
    """Return fashion_max_pool with activations that only float32 holds; it computes the same."""
    network = fashion_network("fashion_max_pool")
    norm = network.get_submodule("network.stages.1.1")
    following = network.get_submodule("network.stages.2.0")
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(following, nn.Conv2d)
    with torch.no_grad():
        norm.weight.mul_(2**15)
        norm.bias.mul_(2**15)
        following.weight.div_(2**15)
    return exported(network, fashion_pictures())
