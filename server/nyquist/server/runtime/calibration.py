"""What a model is like on this machine, tried out when it is loaded.

session -> timed with all threads and with one -> sessions
        -> timed batch by batch -> the best batch size
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import ceil, inf
from time import perf_counter, thread_time
from typing import NamedTuple

from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import CPU, Execution
from nyquist.server.runtime.session_settings import SessionSettings

SMALL_S = 0.001
"""A request is small if its pictures take no longer with one thread."""
WORTH_IT = 1.8
"""How many times quicker all threads must be than one to be taken where there is one session."""
WORTH_IT_ALONE = 1.15
"""The same, to be had beside sessions of one thread, for when few requests wait."""
IDEAL = 0.9
"""The share of what as many threads could save that small requests must gain, for the same."""
MOST_SESSIONS = 16
"""Each has the weights in memory; where there are more cores, they share them out."""
MOST_SMALL = 4
"""The same of a network whose pictures are small requests."""
BATCH_S = 0.3
"""Batches that take longer are not tried out."""
REQUEST_S = 0.0001
"""What the event loop does for a request of one picture, with what wakes it."""
HANDLING_S = 0.0001
"""What a run costs beside the model: threads are woken."""
MORE = 1.03
"""A larger batch is better if a picture takes less in it by this factor."""

logger = logging.getLogger(__name__)


class Sessions(NamedTuple):
    """How a model is run.

    Attributes:
        engines: sessions side by side.
        low_latency: one more, of all threads, for few requests; for many it is too dear.
        few: requests that wait up to which that one has answered them all sooner than a session
            for each.
        keeps_busy: as BatchLimits has it.
    """

    engines: list[Engine]
    low_latency: Engine | None = None
    keeps_busy: float = 0.0
    few: int = 1


def open_engines(
    settings: SessionSettings,
    execution: Execution,
    open_engine: Callable[[SessionSettings], Engine],
    *,
    fill_cores: bool,
) -> Sessions:
    """Open a session of one thread on each core, and one of all threads where it is quicker.

    Threads that have to be woken for each layer cost CPU: many requests are answered with less of
    it by a session on each core, few of them sooner by all threads together. Which of the two a
    request meets is decided when it is there. Only where neither the model nor the operator has
    chosen the threads; where the model has chosen the sessions, by what one picture takes.

    Args:
        settings: of the first session.
        execution: what the operator asks for.
        open_engine: opens a session and warms it; called in several threads.
        fill_cores: whether there may be more sessions than this one.
    """
    engine = open_engine(settings)
    threads = engine.threads
    chosen = settings.intra_op_threads or execution.threads
    if chosen or threads == 1 or engine.provider != CPU:
        return Sessions([engine])
    picture_s = engine.time_batch(1)
    single = open_engine(replace(settings, intra_op_threads=1))
    single_s = single.time_batch(1)
    speedup = single_s / picture_s
    if not fill_cores:
        found = Sessions([engine if speedup > WORTH_IT else single])
    else:
        small = single_s <= SMALL_S
        count = min(threads, MOST_SMALL if small else MOST_SESSIONS)
        each = 1 if small else threads // count
        first = [single] if each == 1 else []
        more = [replace(settings, intra_op_threads=each)] * (count - len(first))
        with ThreadPoolExecutor(count) as pool:
            others = list(pool.map(open_engine, more))
        found = Sessions(
            first + others,
            engine if speedup > (IDEAL * threads if small else WORTH_IT_ALONE) else None,
            single_s / REQUEST_S,
            max(1, ceil(speedup) - 1) if each == 1 else 1,
        )
    logger.info(
        "%d sessions of %d threads%s: a picture takes %.2f ms with 1 thread, %.2f ms with %d",
        len(found.engines),
        found.engines[0].threads,
        " and one of all for few requests" if found.low_latency else "",
        1e3 * single_s,
        1e3 * picture_s,
        threads,
    )
    return found


def best_batch_size(engine: Engine, largest: int) -> int:
    """Find the batch size from which on a picture takes no less in a larger one.

    What a network computes on the way fits into the caches of a core for few pictures, not for
    many: once a larger batch is worse, none beyond it is tried, which would take the most memory
    of all that the model ever does. A GPU has others, and takes what it gets.

    Args:
        engine: warm.
        largest: batch that it may get; returned if larger ones are better as far as was tried.
    """
    if engine.provider != CPU:
        return largest
    # a machine that is busy at the start would choose by chance, and for as long as it serves
    clock = thread_time if engine.threads == 1 else perf_counter
    shares_s: dict[int, float] = {}
    size, least_s, worse = 1, inf, False
    while not worse and size <= largest and size * shares_s.get(1, 0.0) <= BATCH_S:
        shares_s[size] = (engine.time_batch(size, clock) + HANDLING_S) / size
        worse = shares_s[size] > MORE * least_s
        least_s = min(least_s, shares_s[size])
        size *= 2
    best = min(size for size, share_s in shares_s.items() if share_s <= MORE * least_s)
    return largest if best == max(shares_s) else best
