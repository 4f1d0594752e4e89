"""Every architecture becomes a graph that computes the same, and polyphase does not mind shifts."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from nyquist import models
from nyquist.companion.measures.shifts import shift_circularly
from nyquist.export.graph.export import export_graph
from nyquist.models.layers.downsampling import Downsampling
from nyquist.models.networks.mobilenet import GROUPS, MobileNetV2
from nyquist.models.networks.resnet import BasicBlock, ResNet
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution

SIZE = 64
BATCHES = (1, 2, 3)
SHIFTS = np.array([(0, 1), (1, 0), (7, 13), (31, 32), (63, 5)])
EXACT = Downsampling("polyphase", pad_mode="circular")
SHALLOW: dict[str, Callable[[], nn.Module]] = {
    "compact": lambda: models.create("compact", downsampling="polyphase", num_classes=10),
    "mobilenet_v2": lambda: MobileNetV2(
        EXACT, 10, groups=[group._replace(repeats=1 + (at == 1)) for at, group in enumerate(GROUPS)]
    ),
    "resnet18": lambda: ResNet(BasicBlock, (2, 1, 1, 1), EXACT, num_classes=10),
}
"""Each with every kind of its blocks and all its strides; more of the same only takes longer."""
DEEPER = {"resnet34", "resnet101", "resnet152"}  # the blocks of 18 and 50 again, minutes more


def seeded(name: str, make: Callable[[], nn.Module]) -> tuple[nn.Module, torch.Tensor]:
    """Return a network with seeded random weights and pictures for it."""
    torch.manual_seed(0)
    channels = 1 if name == "compact" else 3
    return make().eval(), torch.rand(6, channels, SIZE, SIZE)


def exported(built: nn.Module, pictures: torch.Tensor) -> Engine:
    return Engine(
        export_graph(built, pictures[:2]).graph, Execution(provider="cpu"), max_batch_size=6
    )


def logits(engine: Engine, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    return engine.run(pictures)["logits"].astype(np.float32)


@pytest.mark.parametrize("name", sorted({*models.list()} - DEEPER))
def test_every_architecture_computes_the_same_in_onnxruntime_at_any_batch(name: str) -> None:
    built, pictures = seeded(name, lambda: models.create(name, downsampling="blur", num_classes=10))
    engine = exported(built, pictures)
    for batch in BATCHES:
        with torch.inference_mode():
            expected = built(pictures[:batch]).numpy()
        served = logits(engine, pictures[:batch].numpy())
        assert served.shape == (batch, 10)
        scale = np.abs(expected).max()
        assert np.abs(served - expected).max() / scale <= 1e-4
        assert (served.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("name", SHALLOW)
def test_a_polyphase_network_answers_every_circular_shift_alike_in_onnxruntime(name: str) -> None:
    built, pictures = seeded(name, SHALLOW[name])
    engine = exported(built, pictures)
    unmoved = logits(engine, pictures.numpy())
    for shift in SHIFTS:
        offsets = np.broadcast_to(shift, (len(pictures), 2))
        moved = logits(engine, shift_circularly(pictures.numpy(), offsets, (2, 3)))
        assert np.abs(moved - unmoved).max() / np.abs(unmoved).max() <= 1e-4
        assert (moved.argmax(axis=1) == unmoved.argmax(axis=1)).all()
