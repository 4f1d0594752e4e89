"""Timing graphs side by side; no test asserts a time."""

import numpy as np
import pytest
import torch
from torch import nn

from nyquist.export.graph.export import export_graph
from nyquist.export.graph.latency import LEAST_RUNS, measure_latencies

PICTURES = np.zeros((3, 1, 4, 4), dtype=np.float32)


@pytest.fixture(scope="module")
def graph() -> bytes:
    network = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten()).eval()
    return export_graph(network, torch.zeros(2, 1, 4, 4)).graph


def test_every_graph_is_timed_at_every_batch_size(graph: bytes) -> None:
    found = measure_latencies({"a": graph, "b": graph}, PICTURES, (1, 8), runs=5)
    assert {name: list(sizes) for name, sizes in found.items()} == {"a": [1, 8], "b": [1, 8]}
    for latency in (found[name][size] for name in ("a", "b") for size in (1, 8)):
        assert latency.runs == 5
        assert 0 < latency.lower_s <= latency.median_s <= latency.upper_s


def test_a_spent_budget_ends_the_rounds_but_for_the_least(graph: bytes) -> None:
    found = measure_latencies({"a": graph}, PICTURES, (1,), runs=1000, budget_s=0)
    assert found["a"][1].runs == LEAST_RUNS


@pytest.mark.parametrize(
    ("count", "runs", "sizes"), [(0, 5, (1,)), (3, 0, (1,)), (3, 5, ()), (3, 5, (0,))]
)
def test_nothing_to_time_is_an_error(
    graph: bytes, count: int, runs: int, sizes: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="needs graphs, pictures, runs and batch sizes from 1 on"):
        measure_latencies({"a": graph}, PICTURES[:count], sizes, runs=runs)
