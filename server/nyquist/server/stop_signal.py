"""The signal that ends a process: the first is waited for, a second ends it where it stands."""

import asyncio
import logging
import os
import signal

logger = logging.getLogger(__name__)


def stop_signal() -> asyncio.Future[signal.Signals]:
    """Return what SIGTERM or SIGINT sets, from now on; call it in the running loop."""
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()

    def heed(received: signal.Signals) -> None:
        if stop.done():
            logger.warning("second signal: exiting at once")
            os._exit(128 + received)
        stop.set_result(received)

    for handled in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(handled, heed, handled)
    return stop
