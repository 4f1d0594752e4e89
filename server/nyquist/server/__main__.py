"""nyquist serve: serve until Ctrl-C (at once) or SIGTERM (drain first), or check what would be."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Sequence

import uvloop

from nyquist.server.app import Server
from nyquist.server.check import check
from nyquist.server.command_line import flags_of, make_check_parser, make_serve_parser
from nyquist.server.front.lifecycle import run_until_signal
from nyquist.server.processes import supervise
from nyquist.server.scheduling.instance import runs_left_behind
from nyquist.server.settings import Settings, read_settings, unknown_variables
from nyquist.server.telemetry.logs import configure_logs
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.errors import NyquistError

logger = logging.getLogger("nyquist")


async def serve(settings: Settings, metrics: Metrics | None = None) -> None:
    """Serve until a signal comes; a second one ends the process where it stands.

    Args:
        settings: of the operator.
        metrics: where the server counts; None lets it make its own.

    Raises:
        NyquistError: the server cannot start.
    """
    await run_until_signal(Server(settings, metrics), settings.drain_s, settings.grace_s)


def run(options: argparse.Namespace) -> int:
    """Serve, or check, as the options of either command ask for; return the exit status."""
    try:
        settings = read_settings(flags_of(options))
        configure_logs(settings.log_level, settings.log_format)
        for line in unknown_variables():
            logger.warning("%s", line)
        if options.checks:
            return check(settings, as_json="json" in options)
        gc.freeze()  # what is imported stays: a full collection would stop all calls to look at it
        uvloop.run(serve(settings) if settings.workers == 1 else supervise(settings))
        if runs_left_behind():
            logger.error("exiting without a run that does not end")
            logging.shutdown()
            os._exit(0)  # or Python would wait for its thread
    except NyquistError as error:
        print(f"{options.prog}: error: {error}", file=sys.stderr)  # noqa: T201 - the command line
        return 1
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m nyquist.server [serve | check] [OPTION ...]`; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    word = words.pop(0) if words[:1] in (["serve"], ["check"]) else "serve"
    parser = make_check_parser() if word == "check" else make_serve_parser()
    return run(parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
