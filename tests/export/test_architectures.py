"""Every architecture becomes a graph that computes the same, and polyphase does not mind shifts."""

from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from nyquist import models
from nyquist.companion.measures.shifts import shift_circularly
from nyquist.export.graph.export import export_graph
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution

SIZE = 64
BATCHES = (1, 2, 3)
SHIFTS = np.array([(0, 1), (1, 0), (7, 13), (31, 32), (63, 5)])
EXACT = {"compact", "mobilenet_v2", "resnet18"}
"""Are exported as polyphase networks, and the others blurred: an export takes seconds."""
ELSEWHERE = {"resnet34", "resnet50", "resnet101", "resnet152"}
"""The blocks of 18 and, in tests/models/test_resnet.py, of 50 again, minutes more."""


@cache
def exported(name: str) -> tuple[nn.Module, torch.Tensor, Engine]:
    """Return a network with seeded random weights, pictures for it, and its graph."""
    torch.manual_seed(0)
    channels = 1 if name == "compact" else 3
    downsampling = "polyphase" if name in EXACT else "blur"
    built = models.create(name, downsampling=downsampling, num_classes=10).eval()
    pictures = torch.rand(6, channels, SIZE, SIZE)
    graph = export_graph(built, pictures[:2]).graph
    return built, pictures, Engine(graph, Execution(provider="cpu"), max_batch_size=6)


def logits(engine: Engine, pictures: NDArray[np.float32]) -> NDArray[np.float32]:
    return engine.run(pictures)["logits"].astype(np.float32)


@pytest.mark.parametrize("name", sorted({*models.list()} - ELSEWHERE))
def test_every_architecture_computes_the_same_in_onnxruntime_at_any_batch(name: str) -> None:
    built, pictures, engine = exported(name)
    for batch in BATCHES:
        with torch.inference_mode():
            expected = built(pictures[:batch]).numpy()
        served = logits(engine, pictures[:batch].numpy())
        assert served.shape == (batch, 10)
        scale = np.abs(expected).max()
        assert np.abs(served - expected).max() / scale <= 1e-4
        assert (served.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.mark.parametrize("name", sorted(EXACT))
def test_a_polyphase_network_answers_every_circular_shift_alike_in_onnxruntime(name: str) -> None:
    _, pictures, engine = exported(name)
    unmoved = logits(engine, pictures.numpy())
    for shift in SHIFTS:
        offsets = np.broadcast_to(shift, (len(pictures), 2))
        moved = logits(engine, shift_circularly(pictures.numpy(), offsets, (2, 3)))
        assert np.abs(moved - unmoved).max() / np.abs(unmoved).max() <= 1e-4
        assert (moved.argmax(axis=1) == unmoved.argmax(axis=1)).all()
