"""How many sessions a model gets, and of how many threads: tried out when it is loaded."""

import logging
from collections.abc import Callable
from dataclasses import replace

from server.engine import CPU, Engine, Execution
from server.session_settings import SessionSettings

SMALL_S = 0.005
"""A network is small if a picture takes no longer with one thread."""
WORTH_IT, WORTH_IT_SMALL = 1.5, 1.8
"""How many times quicker all threads must be than one to be taken; for a small network, more."""

logger = logging.getLogger(__name__)


def open_engines(
    settings: SessionSettings,
    execution: Execution,
    open_engine: Callable[[SessionSettings], Engine],
    *,
    fill_cores: bool,
) -> list[Engine]:
    """Open one session with all threads, or sessions of one thread if those are not much slower.

    Threads that have to be woken for each layer cost CPU. Where they save little time, a session
    on each core answers more pictures; a small network has one, since the event loop needs a core.
    Only where neither the model nor the operator has chosen the threads.

    Args:
        settings: of the first session.
        execution: what the operator asks for.
        open_engine: opens a session and warms it.
        fill_cores: whether there may be more sessions than this one.
    """
    engine = open_engine(settings)
    threads = engine.threads
    chosen = settings.intra_op_threads or execution.threads
    if chosen or threads == 1 or engine.provider != CPU:
        return [engine]
    picture_s = engine.time_picture()
    lone = replace(settings, intra_op_threads=1)
    single = open_engine(lone)
    single_s = single.time_picture()
    small = single_s <= SMALL_S
    if single_s > (WORTH_IT_SMALL if small else WORTH_IT) * picture_s:
        engines = [engine]
    else:
        copies = threads - 1 if fill_cores and not small else 0
        engines = [single, *(open_engine(lone) for _ in range(copies))]
    logger.info(
        "%d sessions of %d threads: a picture takes %.2f ms with 1 thread, %.2f ms with %d",
        len(engines),
        engines[0].threads,
        1e3 * single_s,
        1e3 * picture_s,
        threads,
    )
    return engines
