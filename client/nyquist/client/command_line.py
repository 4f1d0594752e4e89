"""The command lines of a client: their options, and nothing that is slow to import."""

import argparse
from pathlib import Path

from nyquist.server.wire.connection import DEFAULT_TARGET, add_connection_options

SHIFTS = 16


def make_classify_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist classify`."""
    parser = argparse.ArgumentParser(
        prog="nyquist classify",
        description="Print the five highest labels of each picture, and see how the answer holds "
        "as a picture slides.",
    )
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE")
    parser.add_argument("--model", required=True, help="efficientnet_lite0, fashion_blur, ...")
    parser.add_argument(
        "--shift",
        type=int,
        nargs="?",
        const=SHIFTS,
        default=0,
        metavar="N",
        help=f"slide each picture right by 1 to N pixels ({SHIFTS}), around the edge, and compare",
    )
    return _reaching_a_server(parser)


def make_status_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist status`."""
    parser = argparse.ArgumentParser(
        prog="nyquist status",
        description="Say what a live server serves: models, versions, providers, readiness.",
        epilog="Exit status: 0 server and models are ready, 1 one is not, or nobody answers.",
    )
    return _reaching_a_server(parser)


def _reaching_a_server(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    parser.add_argument(
        "--target", default=DEFAULT_TARGET, metavar="HOST:PORT", help="server (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    add_connection_options(parser)
    return parser
