"""What `python export/build.py` is asked to do, and what it answers.

arguments -> options, specs          plans, built, failed -> table or JSON
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nyquist.export.outcome import DEFAULT_KEEP
from nyquist.export.recipe.flags import add_arguments

if TYPE_CHECKING:  # they import what a build needs, which --help is not to wait for
    from rich.console import Console

    from nyquist.export.outcome import Built
    from nyquist.export.plan import Plan

DEFAULT_OUTPUT = Path("model_repository")
DONE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
EPILOG = """\
exit status:
  0    every model is built, or was as it should be
  1    a model failed, its artifact is as before; or the repository, or where it is to be
       published, cannot be written
  2    the arguments, or the file that they name, are wrong; nothing was done
  130  interrupted; what was finished is published

To compare two versions of a model: nyquist diff --help
"""


def _at_least_one(word: str) -> int:
    number = int(word)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist build`."""
    parser = argparse.ArgumentParser(
        prog="nyquist build",
        description="Make models into artifacts: export, check, judge, publish.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="FOLDER",
        help="model repository (%(default)s)",
    )
    parser.add_argument(
        "--jobs",
        type=_at_least_one,
        default=min(os.cpu_count() or 1, 4),
        metavar="N",
        help="models built at the same time (%(default)s)",
    )
    parser.add_argument(
        "--engine",
        choices=("processes", "ray"),
        default="processes",
        help="of this machine, or of the cluster at RAY_ADDRESS, a model for each of its cores",
    )
    parser.add_argument(
        "--keep",
        type=_at_least_one,
        default=DEFAULT_KEEP,
        metavar="N",
        help="most versions of a model (%(default)s)",
    )
    parser.add_argument(
        "--publish",
        metavar="ADDRESS",
        help="then bring their versions to s3://, gs:// or az://, each whole or not at all",
    )
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--dry-run", action="store_true", help="say what would be built, and why")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout")
    parser.add_argument(
        "--debug", action="store_true", help="also write the graph with names and source lines"
    )
    add_arguments(parser)
    return parser


def make_diff_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist diff`."""
    parser = argparse.ArgumentParser(
        prog="nyquist diff",
        description="Show what changed between two versions of a model.",
        epilog="Exit status: 0 nothing changed, 1 something did, 2 cannot tell.",
    )
    parser.add_argument("name", metavar="NAME", help="of the model")
    parser.add_argument("old", type=int, help="version")
    parser.add_argument("new", type=int, help="version")
    parser.add_argument(
        "--output",
        type=Path,
        default=DEFAULT_OUTPUT,
        metavar="FOLDER",
        help="model repository (%(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def show_plans(plans: "Sequence[Plan]", console: "Console", *, as_json: bool) -> None:
    """Say what would be built."""
    if as_json:
        write_json(
            {
                "build": {p.spec.name: p.reason for p in plans if p.kept is None},
                "unchanged": [p.spec.name for p in plans if p.kept is not None],
            }
        )
        return
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table("model", "", "why", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for one in plans:
        table.add_row(one.spec.name, "build" if one.kept is None else "keep", one.reason)
    console.print(table)


def outcome(
    plans: "Sequence[Plan]",
    fresh: "Sequence[Built]",
    failed: Mapping[str, Sequence[str]],
    seconds: float,
) -> dict[str, object]:
    """Return what happened as one document."""
    return {
        "built": [
            {
                "name": built.manifest.name,
                "version": built.manifest.version,
                "bytes": built.size,
                "seconds": round(built.seconds, 3),
                "notes": list(built.notes),
                "figures": built.manifest.figures.model_dump(mode="json"),
            }
            for built in fresh
        ],
        "unchanged": [one.spec.name for one in plans if one.kept is not None],
        "failed": {name: list(reasons) for name, reasons in failed.items()},
        "seconds": round(seconds, 3),
    }


def write_json(document: Mapping[str, object]) -> None:
    """Write one document to stdout."""
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
