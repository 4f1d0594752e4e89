from pathlib import Path

from tests.server.memory import MIB, Growth, over_loads_elsewhere, over_requests

LEAST_LEAK = 16384
"""Bytes a request: the control keeps four times that, noise stays far below."""
LEAST_SESSION = 2 * MIB


def test_a_slope_is_that_of_the_samples_after_the_first_quarter() -> None:
    assert round(Growth(80, (900, 0, 20, 40, 60, 80, 100, 120, 140)).slope, 6) == 2.0


def test_memory_does_not_grow_with_the_requests_and_a_leak_would_show(repository: Path) -> None:
    model = repository / "fashion_strided"
    assert over_requests(model, 1000).slope < LEAST_LEAK
    assert over_requests(model, 1000, leak=True).slope > LEAST_LEAK


def test_a_closed_model_gives_its_memory_back_and_a_kept_one_would_show(repository: Path) -> None:
    model = repository / "fashion_strided"
    assert over_loads_elsewhere(model, 24).slope < LEAST_SESSION
    assert over_loads_elsewhere(model, 24, leak=True).slope > LEAST_SESSION
