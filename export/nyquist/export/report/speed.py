"""Latency of all models of a build, side by side, for their pages. Read without torch.

artifacts -> graphs of one input together -> nyquist.export.graph.latency -> <name>.json
"""

import platform
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load

from nyquist.export.graph import latency as measured
from nyquist.export.report.record import Latency, LatencyLine, read_report
from nyquist.server.artifact.layout import read_config
from nyquist.server.artifact.manifest import MODEL_FILE, SAMPLES_FILE, Manifest

BATCHES = (1, 8)
RUNS = 15
BUDGET_S = 3.0
CPU_DESCRIPTION = Path("/proc/cpuinfo")


def measure_speed(repository: Path, manifests: Sequence[Manifest]) -> None:
    """Time models at batch 1, 8 and their largest, and write it into their reports.

    Models of the same input are run in turn, so that their ratios hold on a busy machine.

    Args:
        repository: where they are.
        manifests: of the versions to time.

    Raises:
        ArtifactError: a graph is damaged.
        ValueError: a model has no report.
        OSError: a report cannot be written.
    """
    for _, group in groupby(sorted(manifests, key=_input), key=_input):
        _time_group(repository, list(group))


def _input(manifest: Manifest) -> tuple[str, tuple[int, ...]]:
    return manifest.input.datatype, manifest.input.shape


def _time_group(repository: Path, manifests: Sequence[Manifest]) -> None:
    graphs = {one.name: _read(repository, one, MODEL_FILE) for one in manifests}
    pictures: NDArray[Any] = load(_read(repository, manifests[0], SAMPLES_FILE))["images"]
    largest = {
        one.name: read_config(repository / one.name, one).max_batch_size for one in manifests
    }
    sizes = sorted({*BATCHES, *largest.values()})
    times = measured.measure_latencies(graphs, pictures, sizes, runs=RUNS, budget_s=BUDGET_S)
    for name, found in times.items():
        lines = [_line(size, found[size]) for size in sizes if size <= largest[name]]
        latency = Latency(processor=processor(), lines=tuple(lines))
        report = read_report(repository, name).model_copy(update={"latency": latency})
        report.write(repository)


def _line(size: int, found: measured.Latency) -> LatencyLine:
    return LatencyLine(
        batch=size,
        runs=found.runs,
        median=1e3 * found.median_s,
        low=1e3 * found.lower_s,
        high=1e3 * found.upper_s,
    )


def _read(repository: Path, manifest: Manifest, file: str) -> bytes:
    return manifest.read_file(repository / manifest.name, f"{manifest.version}/{file}")


def processor() -> str:
    """Return the name of the processor, as Linux tells it; elsewhere its kind."""
    try:
        lines = CPU_DESCRIPTION.read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
