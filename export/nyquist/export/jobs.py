"""Build models side by side, each in a process of its own, with a bar each."""

import gc
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context
from multiprocessing.managers import SyncManager
from multiprocessing.resource_tracker import ensure_running
from pathlib import Path
from queue import Queue
from threading import Event, Thread
from types import FrameType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from nyquist.export.failures import reasons
from nyquist.export.outcome import Built
from nyquist.models.spec import ModelSpec

STATIONS = ("weights", "export", "judge", "publish", "report")
Stations = Queue[tuple[str, str]]
LOOK_S = 0.2
T = TypeVar("T")


@dataclass(frozen=True)
class Task:
    """What a worker is to do.

    Attributes:
        spec: of the model.
        repository: where it goes.
        keep: most versions that stay.
        debug: whether the graph with names is written too.
    """

    spec: ModelSpec
    repository: Path
    keep: int
    debug: bool


def build_in_worker(task: Task, stations: Stations) -> Built:
    """Build one model in a worker process."""
    import torch  # two seconds, which only a worker needs to spend

    from nyquist.export.model import build_model

    torch.set_num_threads(1)  # the jobs share the cores; waiting for each other would cost them
    gc.collect()  # what the model before left
    gc.disable()  # an export makes so many objects that looking through them was a tenth of a build

    def tell(station: str) -> None:
        stations.put((task.spec.name, station))

    return build_model(
        task.spec, task.repository, tell, keep=task.keep, debug=task.debug, report=True
    )


def build_all(
    tasks: Sequence[Task], jobs: int, console: Console
) -> tuple[list[Built], dict[str, list[str]]]:
    """Build models side by side.

    Returns:
        What was built, in the order of `tasks`, and the reasons of each model that failed.
    """
    built: dict[str, Built] = {}
    failed: dict[str, list[str]] = {}
    names = [task.spec.name for task in tasks]
    context = get_context("spawn")
    columns = (
        TextColumn("{task.description:>20}"),
        BarColumn(),
        TextColumn("{task.fields[station]:<9}"),
        TimeElapsedColumn(),
    )
    with (
        _interruptible() as interrupted,
        _unheard(context.Manager) as manager,
        Progress(*columns, console=console) as progress,
        ProcessPoolExecutor(jobs, mp_context=context) as pool,
    ):
        others = {process.pid for process in active_children()}
        stations = _follow(manager, progress, names)
        submit = partial(_submit_all, pool, tasks, stations)
        try:
            futures = _unheard(submit)
            for future in _as_they_end(futures, interrupted):
                _collect(future, futures[future], built, failed)
                name = futures[future].spec.name
                stations.put((name, "failed" if name in failed else "done"))
                told = [f"not published: {one}" for one in failed.get(name, ())]
                for line in told or built[name].notes:
                    text = f"{name}: {line}"
                    progress.console.print(text, highlight=False, markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in active_children():
                if worker.pid not in others:
                    worker.terminate()
            raise
        finally:
            stations.put(("", ""))
    return [built[name] for name in names if name in built], failed


def _unheard(start: Callable[[], T]) -> T:
    """Start processes that do not hear of a Ctrl-C: it is this one that ends them."""
    ensure_running()  # or the first start would do so, and unblock what is blocked here
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _submit_all(
    pool: ProcessPoolExecutor, tasks: Sequence[Task], stations: Stations
) -> dict[Future[Built], Task]:
    return {pool.submit(build_in_worker, task, stations): task for task in tasks}


@contextmanager
def _interruptible() -> Iterator[Event]:
    """Note an interrupt in place of raising it, which could be anywhere; a second one is raised."""
    interrupted = Event()

    def heed(_number: int, _frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, heed)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _as_they_end(futures: Iterable[Future[Built]], interrupted: Event) -> Iterator[Future[Built]]:
    """Yield futures as they end. Raises KeyboardInterrupt once that was asked for."""
    pending = set(futures)
    while pending:
        done, pending = wait(pending, LOOK_S, FIRST_COMPLETED)
        if interrupted.is_set():
            raise KeyboardInterrupt
        yield from done


def _follow(manager: SyncManager, progress: Progress, names: Sequence[str]) -> Stations:
    """Move the bars as the workers report their stations; returns the queue they report to."""
    stations: Stations = manager.Queue()
    bars = {
        name: progress.add_task(name, total=len(STATIONS), start=False, station="waiting")
        for name in names
    }
    Thread(target=_move_bars, args=(stations, progress, bars), daemon=True).start()
    return stations


def _move_bars(stations: Stations, progress: Progress, bars: dict[str, TaskID]) -> None:
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
    future: Future[Built], task: Task, built: dict[str, Built], failed: dict[str, list[str]]
) -> None:
    try:
        built[task.spec.name] = future.result()
    except Exception as error:  # noqa: BLE001 # a network's own code may raise anything
        failed[task.spec.name] = reasons(error, task.repository)
