"""nyquist serve: serve until Ctrl-C (at once) or SIGTERM (drain first), or check what would be."""

import argparse
import gc
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import uvloop

from nyquist.server.app import Server
from nyquist.server.artifact.linked_repository import linked_repository
from nyquist.server.check import check
from nyquist.server.command_line import flags_of, make_check_parser, make_serve_parser
from nyquist.server.front.lifecycle import run_until_signal
from nyquist.server.processes import supervise, with_workers
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
        with _with_graphs(options) as settings:
            status = _run(settings, options)
    except NyquistError as error:
        print(f"{options.prog}: error: {error}", file=sys.stderr)  # noqa: T201 - the command line
        return 1
    if runs_left_behind():
        logger.error("exiting without a run that does not end")
        logging.shutdown()
        os._exit(status)  # or Python would wait for its thread
    return status


@contextmanager
def _with_graphs(options: argparse.Namespace) -> Iterator[Settings]:
    """Read the settings; ONNX files that were named are a repository, beside those of the flags."""
    flags, graphs = dict(flags_of(options)), options.graphs
    if not graphs:
        yield read_settings(flags)
        return
    with linked_repository(graphs) as repository:
        folders = [str(one.parent) for file in graphs for one in (file.absolute(), file.resolve())]
        flags["repository"] = [*flags.get("repository", ()), str(repository)]
        flags["link_folder"] = [*flags.get("link_folder", ()), *folders]
        yield read_settings(flags)


def _run(settings: Settings, options: argparse.Namespace) -> int:
    configure_logs(settings.log_level, settings.log_format)
    for line in unknown_variables():
        logger.warning("%s", line)
    if options.checks:
        return check(settings, as_json="json" in options)
    gc.freeze()  # what is imported stays: a full collection would stop all calls to look at it
    settings = with_workers(settings)
    uvloop.run(serve(settings) if settings.workers == 1 else supervise(settings))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m nyquist.server [serve | check] [OPTION ...]`; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    word = words.pop(0) if words[:1] in (["serve"], ["check"]) else "serve"
    parser = make_check_parser() if word == "check" else make_serve_parser()
    return run(parser.parse_args(words))


if __name__ == "__main__":
    sys.exit(main())
