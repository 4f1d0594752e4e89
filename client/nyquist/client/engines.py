"""What works through many tasks side by side: the processes of one machine.

work, tasks -> workers -> results, as they end

A worker ends with the process that started it, whatever ends that one.
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import active_children, connection, get_context, parent_process
from threading import Thread
from typing import Protocol, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

AHEAD = 2
"""Tasks in flight for each worker: it never waits for the next one."""


class Engine(Protocol):
    """Works through tasks by their numbers; yields number and result of each as they end."""

    def __call__(
        self, work: Callable[[Task], Result], tasks: Mapping[int, Task], jobs: int, /
    ) -> Iterator[tuple[int, Result]]: ...


def by_processes(
    work: Callable[[Task], Result], tasks: Mapping[int, Task], jobs: int
) -> Iterator[tuple[int, Result]]:
    """Yield the number and the result of each task, in the order in which they end.

    Args:
        work: what is done with each, a function of a module.
        tasks: by their numbers.
        jobs: processes.

    Raises:
        Exception: what the work raised; the others that run are ended.
    """
    others = set(active_children())
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _end_with_parent)
    running: dict[Future[Result], int] = {}
    waiting = iter(tasks.items())
    try:
        while True:
            for number, task in islice(waiting, AHEAD * jobs - len(running)):
                running[pool.submit(work, task)] = number
            if not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield running.pop(future), future.result()
    except BaseException:
        for worker in set(active_children()) - others:
            worker.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


ENGINES: dict[str, Engine] = {"processes": by_processes}


def _end_with_parent() -> None:
    """Leave Ctrl-C to the process that started this one, and end once that has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_wait_for_its_end, daemon=True).start()


def _wait_for_its_end() -> None:
    if (parent := parent_process()) is not None:
        connection.wait([parent.sentinel])
        os._exit(1)
