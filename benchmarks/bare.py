"""Bare onnxruntime in this process: the limit of every server that runs it.

python -m benchmarks.bare FOLDER [--seconds S] [--batches N,N] [--jpeg]

Every batch size at every setting (sessions x intra-op threads); one JSON object a line on stdout.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Barrier
from time import perf_counter, process_time

import numpy as np

from benchmarks.model import MeasuredModel, jpeg, open_graph
from nyquist.server.runtime.cores import available_cores


@dataclass(frozen=True)
class Setting:
    """How onnxruntime is used: sessions side by side, threads of each, whether those spin."""

    sessions: int
    threads: int
    spinning: bool = False

    def __str__(self) -> str:
        return f"{self.sessions}x{self.threads}{' spinning' * self.spinning}"


@dataclass(frozen=True)
class Figures:
    """What one setting does with one batch size.

    Attributes:
        images_s: images a second.
        cpu_us: microseconds of CPU an image.
        p50_us: median of a run.
    """

    images_s: float
    cpu_us: float
    p50_us: float


def settings(cores: int) -> list[Setting]:
    """Return what is worth trying on so many cores; spinning is onnxruntime's own default."""
    alone = [Setting(1, 1)]
    together = [Setting(1, cores), Setting(cores, 1), Setting(1, cores, spinning=True)]
    return alone if cores == 1 else alone + together


def measure(runs: Sequence[Callable[[], object]], batch: int, seconds: float) -> Figures:
    """Call each of `runs` again and again in a thread of its own, all at the same time."""
    barrier = Barrier(len(runs))

    def repeat(run: Callable[[], object]) -> list[float]:
        run()
        barrier.wait()
        times = [perf_counter()]
        while len(times) < 3 or times[-1] - times[0] < seconds:
            run()
            times.append(perf_counter())
        return times

    with ThreadPoolExecutor(len(runs)) as pool:
        warm = [pool.submit(run) for run in runs]
        for each in warm:
            each.result()
        used = process_time()
        results = list(pool.map(repeat, runs))
        used = process_time() - used
    gaps = [np.diff(times) for times in results]
    calls = sum(map(len, gaps))
    return Figures(
        images_s=sum(batch * len(each) / each.sum() for each in gaps),
        cpu_us=used / ((calls + len(runs)) * batch) * 1e6,  # the run before the barrier counts
        p50_us=float(np.median(np.concatenate(gaps))) * 1e6,
    )


def sweep(
    subject: MeasuredModel, batches: Sequence[int], seconds: float
) -> Iterator[tuple[Setting, int, Figures]]:
    """Measure every batch size at every setting."""
    name = subject.manifest.input.name
    for setting in settings(available_cores()):
        sessions = [
            open_graph(subject.graph, setting.threads, spinning=setting.spinning)
            for _ in range(setting.sessions)
        ]
        for batch in batches:
            feed = {name: subject.pictures(batch)}
            runs = [lambda s=s, feed=feed: s.run(None, feed) for s in sessions]
            yield setting, batch, measure(runs, batch, seconds)


def with_jpeg(subject: MeasuredModel, seconds: float) -> Figures:
    """Measure decode, resize and inference of one JPEG in one thread."""
    session = open_graph(subject.graph, threads=1)
    file, name = jpeg(subject.manifest.input.shape), subject.manifest.input.name
    return measure([lambda: session.run(None, {name: subject.decode(file)[None]})], 1, seconds)


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the model")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure (%(default)s)")
    parser.add_argument("--batches", default="1,2,4,8,16,32,64", help="sizes (%(default)s)")
    parser.add_argument("--jpeg", action="store_true", help="one JPEG: decode, resize, run")
    arguments = parser.parse_args()
    subject = MeasuredModel(arguments.folder)
    if arguments.jpeg:
        _say({"setting": "1x1"}, with_jpeg(subject, arguments.seconds))
        return
    batches = [int(size) for size in arguments.batches.split(",")]
    for setting, batch, figures in sweep(subject, batches, arguments.seconds):
        _say({"setting": str(setting), "batch": batch}, figures)


def _say(of: dict[str, str | int], figures: Figures) -> None:
    print(json.dumps({"of": of, "figures": asdict(figures)}), flush=True)  # noqa: T201 - its output


if __name__ == "__main__":
    main()
