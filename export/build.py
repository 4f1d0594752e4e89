"""python export/build.py: make every model of the zoo, or some of them, into served artifacts.

spec -> network -> weights -> export -> open in onnxruntime -> measure -> judge -> publish
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Queue
from threading import Thread
from time import perf_counter

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from companion.reference import Reference
from export.artifact import artifact_files, make_manifest, publish, remove_leftovers, tolerances_of
from export.graph import ExportError, export_graph
from export.judge import measure, misses, open_graph
from models.architectures import create
from models.preprocessing import PreprocessedNetwork
from models.zoo import ModelSpec, specs
from server.errors import NyquistError
from server.manifest import Figures

DEFAULT_OUTPUT = Path("model_repository")
STATIONS = ("weights", "export", "measure", "publish")


class GateMissed(Exception):
    """A model misses a tolerance; the previous artifact stays."""


@dataclass(frozen=True)
class Built:
    """One finished model.

    Attributes:
        name: of the model.
        figures: what was measured.
        size: of model.onnx, bytes.
        seconds: wall time of its build.
    """

    name: str
    figures: Figures
    size: int
    seconds: float


def build_model(spec: ModelSpec, output: Path, on_station: Callable[[str], None]) -> Built:
    """Build one model and put it into the repository.

    Args:
        spec: what to build.
        output: the repository.
        on_station: told the name of each station when it begins.

    Raises:
        GateMissed: parity, consistency, accuracy or confidence misses its tolerance.
        ExportError: the exporter did not do as asked.
        OSError: the artifact cannot be written.
    """
    start = perf_counter()
    on_station("weights")
    network = create(spec.architecture, **spec.options)
    network.load_state_dict(spec.weights())
    served_network = PreprocessedNetwork(network, spec.preprocessing).eval()
    reference = Reference(served_network)
    samples = spec.samples()
    on_station("export")
    graph = export_graph(served_network, samples.images[:2])
    on_station("measure")
    served = open_graph(graph, spec.max_batch_size)
    figures = measure(spec, reference, served, samples)
    if missed := misses(figures, tolerances_of(spec)):
        raise GateMissed("; ".join(missed))
    on_station("publish")
    files = artifact_files(spec, graph, network, samples)
    publish(output, make_manifest(spec, files, figures), files)
    return Built(spec.name, figures, len(graph), perf_counter() - start)


def build_by_name(name: str, output: Path, stations: "Queue[tuple[str, str]]") -> Built:
    """Build one model of the zoo in a worker process; specs hold functions, names travel."""
    torch.set_num_threads(1)  # the jobs share the cores; waiting for each other would cost them
    return build_model(specs()[name], output, lambda station: stations.put((name, station)))


def build_all(
    names: Sequence[str], output: Path, jobs: int, console: Console
) -> tuple[list[Built], dict[str, str]]:
    """Build models side by side, with a bar each.

    Returns:
        What was built, in the order of `names`, and the reason of each that failed.
    """
    built: dict[str, Built] = {}
    failed: dict[str, str] = {}
    context = get_context("spawn")
    columns = (
        TextColumn("{task.description:>20}"),
        BarColumn(),
        TextColumn("{task.fields[station]:<8}"),
        TimeElapsedColumn(),
    )
    with (
        context.Manager() as manager,
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
    ):
        stations = _follow(manager, progress, names)
        futures = {pool.submit(build_by_name, name, output, stations): name for name in names}
        try:
            for future in as_completed(futures):
                _collect(future, futures[future], built, failed)
                state = "failed" if futures[future] in failed else "done"
                stations.put((futures[future], state))
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        stations.put(("", ""))
    return [built[name] for name in names if name in built], failed


def _follow(
    manager: SyncManager, progress: Progress, names: Sequence[str]
) -> "Queue[tuple[str, str]]":
    """Move the bars as the workers report their stations; returns the queue they report to."""
    stations: Queue[tuple[str, str]] = manager.Queue()
    bars = {
        name: progress.add_task(name, total=len(STATIONS), start=False, station="waiting")
        for name in names
    }
    Thread(target=_move_bars, args=(stations, progress, bars), daemon=True).start()
    return stations


def _move_bars(
    stations: "Queue[tuple[str, str]]", progress: Progress, bars: dict[str, TaskID]
) -> None:
    while True:
        name, station = stations.get()
        if not name:
            return
        bar = bars[name]
        if station in STATIONS:
            progress.start_task(bar)
            progress.update(bar, completed=STATIONS.index(station), station=station)
        else:
            completed = len(STATIONS) if station == "done" else None
            progress.update(bar, completed=completed, station=station)
            progress.stop_task(bar)


def _collect(
    future: "Future[Built]", name: str, built: dict[str, Built], failed: dict[str, str]
) -> None:
    try:
        built[name] = future.result()
    except (GateMissed, ExportError, NyquistError, OSError, ValueError, RuntimeError) as error:
        failed[name] = f"{type(error).__name__}: {error}"


def built_table(built: Sequence[Built]) -> Table:
    """Lay out what was built, a line a model, within 80 columns."""
    headers = ("model", "params", "parity", "accuracy", "consistency", "size", "time")
    table = Table(*headers, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for model in built:
        figures = model.figures
        right = round(figures.accuracy * figures.labelled)
        table.add_row(
            model.name,
            f"{figures.parameters / 1e3:,.0f} k",
            f"{figures.parity:.1e}",
            f"{right}/{figures.labelled}",
            f"{figures.consistency:.2%}",
            f"{model.size / 1e6:.2f} MB",
            f"{model.seconds:.1f} s",
        )
    return table


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; see `python export/build.py --help`."""
    parser = argparse.ArgumentParser(
        prog="export/build.py",
        description="Make the models of the zoo: export, check, judge, publish.",
        epilog="Exit status 1 if a model fails; its previous artifact is then untouched.",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models; see --list")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="model repository (%(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(os.cpu_count() or 1, 4),
        help="models built at the same time (%(default)s)",
    )
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args(arguments)
    known = list(specs())
    for name in options.only or []:
        if name not in known:
            parser.error(f"unknown model {name!r}; choose from {', '.join(known)}")
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {options.jobs}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line asks for; return the exit status."""
    options = parse(arguments)
    console = Console()
    known = list(specs())
    if options.list:
        console.print("\n".join(known), highlight=False)
        return 0
    names = [name for name in known if not options.only or name in options.only]
    start = perf_counter()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        remove_leftovers(options.output)
        built, failed = build_all(names, options.output, min(options.jobs, len(names)), console)
    except KeyboardInterrupt:
        console.print("interrupted: models that were finished are published, others untouched")
        return 130
    except OSError as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 1
    if built:
        console.print(built_table(built))
    console.print(f"{len(built)} of {len(names)} models in {perf_counter() - start:.1f} s")
    for name, reason in failed.items():
        console.print(f"[red]{name}[/red] is not published: {reason}", highlight=False)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
