"""The command lines of a client: their options, and nothing that is slow to import."""

import argparse
from pathlib import Path

from nyquist.server.wire.connection import DEFAULT_TARGET, TOKEN_VARIABLE, add_connection_options
from nyquist.server.wire.framing import FITS, INTERPOLATIONS, LAYOUTS

SHIFTS = 16
WATCH_S = 2.0


def make_classify_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist classify`."""
    parser = argparse.ArgumentParser(
        prog="nyquist classify",
        description="Name what is in pictures, several in one request, and see how the answer "
        "holds as a picture slides.",
        epilog="Exit status: 0 every picture has its answer; 1 one cannot be read, the others are "
        "answered, or the server does not answer; 2 an option is wrong.",
    )
    parser.add_argument(
        "pictures",
        nargs="+",
        metavar="PICTURE",
        help="JPEG, PNG or WebP; a folder stands for those in it, - for standard input; "
        "s3://bucket/pictures/ and other addresses likewise, and patterns in quotes",
    )
    parser.add_argument("--model", required=True, help="efficientnet_lite0, fashion_blur, ...")
    parser.add_argument(
        "--shift",
        type=_positive,
        nargs="?",
        const=SHIFTS,
        default=0,
        metavar="N",
        help=f"slide each picture right by 1 to N pixels ({SHIFTS}), around the edge, and compare",
    )
    parser.add_argument("--diagonal", action="store_true", help="slide down as well as right")
    parser.add_argument(
        "--top",
        type=_positive,
        metavar="N",
        help="labels of each picture (five of one, the highest of several)",
    )
    add_model_options(parser, output="--output-name")
    _add_batch_options(parser)
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--csv", action="store_true", help="print CSV, a line for each label of each picture"
    )
    return _reaching_a_server(parser, form)


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return value


def _add_batch_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "many pictures into one file; interrupted, the same command goes on where it ended"
    )
    group.add_argument(
        "--output",
        dest="answers",
        type=Path,
        metavar="FILE",
        help=".parquet, .csv or .jsonl; has a row with its error for what cannot be read",
    )
    group.add_argument(
        "--engine",
        choices=("processes", "ray"),
        help="of this machine (processes), or of the cluster at RAY_ADDRESS",
    )
    group.add_argument(
        "--workers", type=_positive, metavar="N", help="that ask at once (one for each core)"
    )


def add_model_options(parser: argparse.ArgumentParser, output: str = "--output") -> None:
    """Give a command the options that say what a model takes where its server does not.

    Args:
        parser: of the command.
        output: flag that names the model's output, where --output is a file.
    """
    group = parser.add_argument_group("what the model takes, where the server does not say")
    group.add_argument("--input", metavar="CxHxW", help="such as 3x224x224")
    group.add_argument(
        "--input-type", choices=("float32", "uint8"), help="float32: 0..1, uint8: 0..255 (float32)"
    )
    group.add_argument(
        "--layout", choices=LAYOUTS, help="order of the axes (CHW of float32, HWC of uint8)"
    )
    group.add_argument("--mean", metavar="M,...", help="subtracted from pictures of 0..1 here")
    group.add_argument("--std", metavar="S,...", help="their divisor, likewise")
    group.add_argument("--interpolation", choices=INTERPOLATIONS, help="of picture files (bicubic)")
    group.add_argument(
        "--crop-share", type=float, metavar="X", help="side of their centre crop (0.875)"
    )
    group.add_argument("--fit", choices=FITS, help="canvas: whole, on black (crop; grey: canvas)")
    group.add_argument("--input-name", metavar="NAME", help="of the one input (input)")
    group.add_argument(
        output, dest="output", metavar="NAME", help="that is the answer (logits, or the first)"
    )
    group.add_argument(
        "--max-batch-size", type=int, metavar="N", help="pictures that a request may hold"
    )


def make_status_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist status`."""
    parser = argparse.ArgumentParser(
        prog="nyquist status",
        description="Say what a live server serves: models, versions, providers, readiness; of "
        "its metrics, requests and p99 since a model was loaded, or with --watch since the last "
        "look.",
        epilog="Exit status: 0 server and models are ready, 1 one is not, or nobody answers.",
    )
    parser.add_argument(
        "--model", nargs="+", default=[], metavar="NAME", help="only these; all that it lists"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--watch",
        type=_seconds,
        nargs="?",
        const=WATCH_S,
        default=0.0,
        metavar="SECONDS",
        help=f"look again and again ({WATCH_S:g}), until Ctrl-C",
    )
    parser.add_argument(
        "--metrics",
        metavar="HOST:PORT",
        help="port of its metrics (8002 of that host, where --target has port 8001)",
    )
    return _reaching_a_server(parser, form)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.1 to 3600, got {text!r}")
    return value


def make_rollout_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist rollout`."""
    parser = argparse.ArgumentParser(
        prog="nyquist rollout",
        description="Say whether the highest served version of a model may replace the one below "
        "it, as a companion finds on live traffic.",
        epilog="Exit status: 0 promote, 1 hold, 2 it cannot tell, 3 not enough yet.",
    )
    parser.add_argument("name", metavar="NAME", help="of the model")
    parser.add_argument(
        "--companion",
        default="localhost:8004",
        metavar="HOST:PORT",
        help="its port of HTTP, or a URL (%(default)s)",
    )
    parser.add_argument(
        "--token-file",
        type=Path,
        help=f"file whose first token is sent; without it {TOKEN_VARIABLE} of the environment is",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


def _reaching_a_server(
    parser: argparse.ArgumentParser, form: argparse._ActionsContainer | None = None
) -> argparse.ArgumentParser:
    parser.add_argument(
        "--target", default=DEFAULT_TARGET, metavar="HOST:PORT", help="server (%(default)s)"
    )
    (form or parser).add_argument("--json", action="store_true", help="print JSON, no table")
    add_connection_options(parser)
    return parser
