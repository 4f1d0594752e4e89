import subprocess
import sys
from pathlib import Path

from tests.processes import ROOT
from tests.server.memory import MIB, Growth, over_loads_elsewhere, over_requests

LEAST_LEAK = 16384
"""Bytes a request: the control keeps four times that, noise stays far below."""
LEAST_SESSION = MIB // 2


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


def test_eight_sessions_keep_no_more_than_one_and_give_it_back(repository: Path) -> None:
    code = """
import os, sys
from pathlib import Path
import numpy as np
from nyquist.server.runtime.arena import give_memory_back
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution
from tests.server.memory import resident_bytes
graph, execution = Path(sys.argv[1]).read_bytes(), Execution("cpu", threads=1)
batch = np.zeros((64, 1, 48, 48), np.float32)
engines = [Engine(graph, execution, 64) for _ in range(8)]
print(resident_bytes(os.getpid()))
for engine in engines:
    engine.run(batch)
    print(resident_bytes(os.getpid()))
give_memory_back()
print(resident_bytes(os.getpid()))
"""
    graph = repository / "fashion_blur" / "1" / "model.onnx"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(graph)],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    opened, one, *_, eight, given_back = map(int, ended.stdout.split())
    assert eight - one < one - opened  # seven more batches: less than the first
    assert given_back - opened < (eight - opened) / 2


def test_a_model_that_is_loaded_keeps_nothing_of_what_loading_took(repository: Path) -> None:
    code = """
import os, sys
from pathlib import Path
from nyquist.server.runtime.arena import give_memory_back
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.serving.loading import load_model
from tests.server.memory import resident_bytes
began = resident_bytes(os.getpid())
model = load_model(Path(sys.argv[1]), Execution("cpu", threads=1))
loaded = resident_bytes(os.getpid())
give_memory_back()
print(loaded - began, loaded - resident_bytes(os.getpid()))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code, str(repository / "efficientnet_lite0")],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=True,
    )
    taken, too_much = map(int, ended.stdout.split())
    assert too_much < taken / 10
