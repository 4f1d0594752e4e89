"""The command line of `nyquist plan`: its options, and nothing that is slow to import."""

import argparse
from pathlib import Path

from nyquist.server.wire.connection import add_connection_options

BALANCINGS = ("round-robin", "random", "least-requests", "two-choices")
TRAFFIC = ("poisson", "bursty")
EPILOG = """\
Exit status: 0 there is an answer, and it holds the limits; 1 none does; 2 an option is wrong, or
the server does not answer.
"""


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist plan`."""
    parser = argparse.ArgumentParser(
        prog="nyquist plan",
        description="Say how many replicas a load needs: measure one, simulate many.",
        epilog=EPILOG,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_calibrate(commands.add_parser("calibrate", help="measure a replica", epilog=EPILOG))
    _add_replicas(commands.add_parser("replicas", help="simulate a fleet of them", epilog=EPILOG))
    return parser


def _add_calibrate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure a replica that nobody else asks: seconds of a run by its pictures, what the event "
        "loop has to do for a request, and the rules of the batcher."
    )
    parser.add_argument("target", metavar="HOST:PORT", help="of the replica")
    parser.add_argument("--model", required=True, metavar="NAME", help="that it serves")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="profile.json")
    parser.add_argument(
        "--seconds", type=positive, default=2.0, help="of load for each batch size (%(default)g)"
    )
    parser.add_argument(
        "--start-s",
        type=positive,
        default=10.0,
        metavar="S",
        help="from the start of a replica until it is ready, which is not measured (%(default)g)",
    )
    parser.add_argument(
        "--device", default="not said", metavar="WORDS", help="what computes, for the reader"
    )
    add_connection_options(parser)


def _add_replicas(parser: argparse.ArgumentParser) -> None:
    parser.description = "Search the smallest number of replicas that holds a p99 under a load."
    load = parser.add_argument_group("the load")
    load.add_argument("--profile", required=True, type=Path, metavar="FILE", help="of a replica")
    load.add_argument("--rate", type=positive, metavar="R", help="requests a second")
    load.add_argument(
        "--arrivals",
        default="poisson",
        metavar="KIND",
        help="poisson, bursty, or a file with the time of a request in each line (%(default)s)",
    )
    load.add_argument(
        "--burst",
        nargs=3,
        type=positive,
        default=(3.0, 0.1, 0.1),
        metavar=("FACTOR", "SHARE", "SECONDS"),
        help="of bursty: times the rate, share of the time, length on average (3 0.1 0.1)",
    )
    load.add_argument("--pictures", type=whole, default=1, metavar="N", help="in a request (1)")
    load.add_argument("--deadline-ms", type=positive, metavar="MS", help="of each request (none)")
    goal = parser.add_argument_group("the goal")
    goal.add_argument("--p99-ms", required=True, type=positive, metavar="MS", help="at most")
    goal.add_argument(
        "--unanswered",
        type=share,
        default=0.0001,
        metavar="SHARE",
        help="of the requests, at most: refused, late or lost (%(default)g)",
    )
    goal.add_argument("--replicas", type=whole, metavar="N", help="no search: what so many do")
    fleet = parser.add_argument_group("the fleet")
    fleet.add_argument(
        "--balancing", choices=BALANCINGS, default="round-robin", help="(%(default)s)"
    )
    fleet.add_argument(
        "--balancers",
        type=whole,
        default=1,
        metavar="N",
        help="that know nothing of each other, as clients that balance for themselves (1)",
    )
    fleet.add_argument("--zones", type=whole, default=3, metavar="N", help="of the replicas (3)")
    fleet.add_argument(
        "--zone-failure", action="store_true", help="hold the p99 with one zone gone as well"
    )
    fleet.add_argument(
        "--noticed-s",
        type=positive,
        default=2.0,
        metavar="S",
        help="until balancers leave a zone that is gone out (%(default)g)",
    )
    fleet.add_argument(
        "--rolling", action="store_true", help="hold it while every replica is replaced as well"
    )
    fleet.add_argument(
        "--max-unavailable", type=share, default=0.25, metavar="SHARE", help="(%(default)g)"
    )
    fleet.add_argument(
        "--max-surge", type=share, default=0.25, metavar="SHARE", help="(%(default)g)"
    )
    effort = parser.add_argument_group("the simulation")
    effort.add_argument(
        "--requests", type=whole, default=50_000, metavar="N", help="in a trial (%(default)d)"
    )
    effort.add_argument(
        "--seeds", type=whole, default=5, metavar="N", help="trials of each number, up to 10 (5)"
    )
    effort.add_argument(
        "--simulated",
        type=whole,
        default=50,
        metavar="N",
        help="replicas that stand for a larger fleet, with their share of the rate (%(default)d)",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it: .svg, .png, .pdf")
    parser.add_argument("--json", action="store_true", help="print JSON, no table")


def positive(text: str) -> float:
    """Read a number above 0."""
    return _number(text, 1e9, "a number above 0", low=0.0)


def share(text: str) -> float:
    """Read a share, from 0 to 1."""
    return _number(text, 1.0, "a share from 0 to 1", low=-1e-12)


def whole(text: str) -> int:
    """Read a whole number of at least 1."""
    if not (text.isascii() and text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _number(text: str, most: float, expected: str, low: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = low
    if not low < value <= most:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return value
