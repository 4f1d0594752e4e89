"""The pulse of the event loop: where it stops, the process ends, with a traceback in the log.

beat -> looked at by a thread, every few seconds -> missed too often -> exit

Networks of a millisecond run on the loop (batcher.py). One that hangs there takes every call with
it, and nobody could tell of it; a process that has ended is started again.
"""

import asyncio
import faulthandler
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

logger = logging.getLogger(__name__)

PERIOD_S = 5.0
MISSED = 24
"""Beats in a row, two minutes: as long as a run may take in a thread."""
EXIT_STATUS = 70
"""EX_SOFTWARE of sysexits.h."""


@contextmanager
def heartbeat(period_s: float = PERIOD_S, missed: int = MISSED) -> Iterator[None]:
    """End the process if its event loop misses so many beats in a row meanwhile.

    Beats are counted, not seconds: a process that was stopped (SIGSTOP) has missed but one.

    Args:
        period_s: between two beats.
        missed: how many in a row are too many.
    """
    loop, stopped, beat = asyncio.get_running_loop(), Event(), Event()

    def look() -> None:
        silent = 0
        while not stopped.wait(period_s):
            silent = 0 if beat.is_set() else silent + 1
            if silent > missed:
                _end(period_s * missed)
            beat.clear()
            loop.call_soon_threadsafe(beat.set)

    watcher = Thread(target=look, name="heartbeat", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stopped.set()
        watcher.join()


def _end(seconds: float) -> None:
    logger.critical("the event loop has stood still for %g s: the process ends", seconds)
    logging.shutdown()
    faulthandler.dump_traceback()
    os._exit(EXIT_STATUS)
