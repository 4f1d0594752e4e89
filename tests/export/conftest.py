"""What is exported once for all tests of the gates."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.export.exporting import Exported, exported, fashion_network, fashion_pictures


class Pooled(nn.Module):
    """Promises a map of a size, whatever the picture's; a graph keeps that promise for 1 alone."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(size)

    def forward(self, image: Tensor) -> Tensor:
        return self.pool(self.conv(image).relu())


def pooled(size: int) -> Exported:
    torch.manual_seed(0)
    pictures = np.random.default_rng(0).random((4, 3, 112, 112), dtype=np.float32)
    return exported(Pooled(size), pictures, open_sizes=True)


@pytest.fixture(scope="session")
def fashion() -> Exported:
    return exported(fashion_network("fashion_max_pool"), fashion_pictures())


@pytest.fixture(scope="session")
def pooled_to_7() -> Exported:
    return pooled(7)


@pytest.fixture(scope="session")
def pooled_to_1() -> Exported:
    return pooled(1)


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
