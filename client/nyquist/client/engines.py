"""What answers chunks of pictures side by side: processes of this machine, or a cluster of Ray.

chunks -> a few more than run at once are begun -> results, in the order in which they end
"""

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from threading import Thread
from typing import Any, Protocol, TypeVar

Document = dict[str, Any]
Work = Callable[[Sequence[str]], list[Document]]
Handle = TypeVar("Handle")

AHEAD = 2
"""Chunks begun for each that runs, so that none waits for this process."""


class Engine(Protocol):
    """Applies `work` to every chunk; yields the number of each with its result, as they end.

    What it raises is what `work` raised, or a ValueError that says what became of its worker.
    """

    def __call__(
        self, work: Work, chunks: Mapping[int, Sequence[str]], workers: int | None
    ) -> Iterator[tuple[int, list[Document]]]: ...


def by_processes(
    work: Work, chunks: Mapping[int, Sequence[str]], workers: int | None
) -> Iterator[tuple[int, list[Document]]]:
    """Run in processes of this machine; None is one for each core. As Engine."""
    count = max(1, min(workers or os.cpu_count() or 1, len(chunks)))
    context = get_context("spawn")  # gRPC does not survive a fork
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_follow_parent)

    def ended(running: Sequence[Future[list[Document]]]) -> Iterator[Future[list[Document]]]:
        yield from wait(running, return_when=FIRST_COMPLETED).done

    try:
        for number, future in _in_turn(
            chunks, count * AHEAD, lambda chunk: pool.submit(work, chunk), ended
        ):
            yield number, future.result()
    except BrokenProcessPool as error:
        raise ValueError("a process that asked has ended, as for want of memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


def by_ray(
    work: Work, chunks: Mapping[int, Sequence[str]], workers: int | None
) -> Iterator[tuple[int, list[Document]]]:
    """Run as tasks of the cluster at RAY_ADDRESS, or of one that is begun here. As Engine.

    Ray runs a task again elsewhere where its node goes; None is a task for each core of the
    cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray  # of the extra ray

    ray.init(log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    try:
        remote = ray.remote(max_retries=-1)(_task)  # as often as nodes go
        shared = ray.put(work)
        count = workers or max(1, int(ray.cluster_resources().get("CPU", 1)))

        def ended(running: Sequence[Any]) -> Iterator[Any]:
            yield from ray.wait(running)[0]

        for number, reference in _in_turn(
            chunks, count * AHEAD, lambda chunk: remote.remote(shared, chunk), ended
        ):
            try:
                yield number, ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                raise ValueError(f"Ray: {str(error).splitlines()[0]}") from error
    finally:
        ray.shutdown()


ENGINES: dict[str, Engine] = {"processes": by_processes, "ray": by_ray}


def _in_turn(
    chunks: Mapping[int, Sequence[str]],
    ahead: int,
    begin: Callable[[Sequence[str]], Handle],
    ended: Callable[[Sequence[Handle]], Iterator[Handle]],
) -> Iterator[tuple[int, Handle]]:
    """Keep `ahead` chunks begun; yield the number and handle of each as it has ended."""
    running: dict[Handle, int] = {}
    waiting = iter(chunks.items())
    while True:
        for number, chunk in waiting:
            running[begin(chunk)] = number
            if len(running) >= ahead:
                break
        if not running:
            return
        for handle in ended(list(running)):
            yield running.pop(handle), handle


def _task(work: Work, chunk: Sequence[str]) -> list[Document]:
    return work(chunk)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end where it ends, however that came."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if (parent := parent_process()) is not None:
        Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: Any) -> None:  # noqa: ANN401 - multiprocessing does not name its type
    parent.join()
    os._exit(1)
