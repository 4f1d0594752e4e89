"""nyquist-server: serve until Ctrl-C (at once) or SIGTERM (drain first)."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

from pydantic import ValidationError

from server.app import Server
from server.errors import NyquistError
from server.settings import Settings

logger = logging.getLogger("server")


async def serve(settings: Settings) -> None:
    """Serve until a signal comes; a second one ends the process where it stands.

    Raises:
        NyquistError: the server cannot start.
    """
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[signal.Signals] = loop.create_future()

    def heed(received: signal.Signals) -> None:
        if stop.done():
            logger.warning("second signal: exiting at once")
            os._exit(128 + received)
        stop.set_result(received)

    for handled in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(handled, heed, handled)
    async with Server(settings) as server:
        if await stop is signal.SIGTERM:
            await server.drain(settings.drain_s)
        logger.info("stopping: waiting for running requests, %g s at most", settings.grace_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run nyquist-server; return the exit status."""
    try:
        settings = Settings(_cli_parse_args=list(sys.argv[1:] if arguments is None else arguments))
        logging.basicConfig(
            level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(message)s"
        )
        asyncio.run(serve(settings))
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"]))
        return _fail(f"{option}: {first['msg']}, got {first['input']!r}")
    except NyquistError as error:
        return _fail(str(error))
    return 0


def _fail(reason: str) -> int:
    print(f"nyquist-server: error: {reason}", file=sys.stderr)  # noqa: T201 - the command line
    return 1


if __name__ == "__main__":
    sys.exit(main())
