"""python export/build.py: make every model of the zoo, or some of them, into served artifacts.

arguments -> specs -> which have changed -> build those, side by side -> table
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from export.artifact import DEFAULT_KEEP, RepositoryBusy, locked, remove_leftovers
from export.inputs import inputs_sha256
from export.jobs import Task, build_all
from export.outcome import Built
from models.spec import ModelSpec
from models.zoo import specs
from server.errors import ArtifactError
from server.manifest import MODEL_FILE, read_manifest
from server.repository import latest_version

DEFAULT_OUTPUT = Path("model_repository")


def unchanged(spec: ModelSpec, repository: Path) -> Built | None:
    """Return what is in the repository, if building the model again would give the same.

    Raises:
        OSError: its weights or samples cannot be read.
    """
    folder = repository / spec.name
    try:
        manifest = read_manifest(folder, latest_version(folder))
        if manifest.origin.inputs_sha256 != inputs_sha256(spec):
            return None
        own = [path for path in manifest.files if path.startswith(f"{manifest.version}/")]
        contents = {path: manifest.read_file(folder, path) for path in own}
    except (ArtifactError, FileNotFoundError):
        return None
    return Built(manifest, len(contents[f"{manifest.version}/{MODEL_FILE}"]), seconds=0.0)


def built_table(built: Sequence[Built]) -> Table:
    """Lay out what was built, a line a model, within 80 columns."""
    headers = ("model", "params", "parity", "accuracy", "consistency", "size", "time")
    table = Table(*headers, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for model in built:
        figures = model.manifest.figures
        right = round((figures.accuracy or 0) * figures.labelled)
        table.add_row(
            model.manifest.name,
            f"{figures.parameters / 1e3:,.0f} k",
            f"{figures.parity:.1e}",
            f"{right}/{figures.labelled}" if figures.labelled else "-",
            f"{figures.consistency:.2%}",
            f"{model.size / 1e6:.2f} MB",
            f"{model.seconds:.1f} s" if model.seconds else "as it was",
        )
    return table


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; see `python export/build.py --help`."""
    parser = argparse.ArgumentParser(
        prog="export/build.py",
        description="Make the models of the zoo: export, check, judge, publish.",
        epilog="Exit status 1 if a model fails; its previous artifact is then untouched.",
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these models; see --list")
    parser.add_argument(
        "--output", type=Path, default=DEFAULT_OUTPUT, help="model repository (%(default)s)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=min(os.cpu_count() or 1, 4),
        help="models built at the same time (%(default)s)",
    )
    parser.add_argument(
        "--keep", type=int, default=DEFAULT_KEEP, help="most versions of a model (%(default)s)"
    )
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    options = parser.parse_args(arguments)
    known = list(specs())
    for name in options.only or []:
        if name not in known:
            parser.error(f"unknown model {name!r}; choose from {', '.join(known)}")
    for flag in ("jobs", "keep"):
        if getattr(options, flag) < 1:
            parser.error(f"--{flag} must be at least 1, got {getattr(options, flag)}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Build what the command line asks for; return the exit status."""
    options = parse(arguments)
    console = Console()
    if options.list:
        console.print("\n".join(specs()), highlight=False)
        return 0
    chosen = [spec for name, spec in specs().items() if not options.only or name in options.only]
    start = perf_counter()
    try:
        with locked(options.output):
            remove_leftovers(options.output)
            return build(chosen, options, console, start)
    except KeyboardInterrupt:
        console.print("interrupted: models that were finished are published, others untouched")
        return 130
    except (OSError, RepositoryBusy) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False)
        return 1


def build(
    chosen: Sequence[ModelSpec], options: argparse.Namespace, console: Console, start: float
) -> int:
    """Build what has changed and print the table of all; return the exit status."""
    kept = {spec.name: unchanged(spec, options.output) for spec in chosen}
    tasks = [
        Task(spec, options.output, options.keep, debug=False)
        for spec in chosen
        if kept[spec.name] is None
    ]
    fresh, failed = build_all(tasks, min(options.jobs, len(tasks)), console) if tasks else ([], {})
    by_name = kept | {built.manifest.name: built for built in fresh}
    built = [by_name[spec.name] for spec in chosen]
    done = [model for model in built if model is not None]
    if done:
        console.print(built_table(done))
    console.print(f"{len(done)} of {len(chosen)} models in {perf_counter() - start:.1f} s")
    for name, reasons in failed.items():
        console.print(f"[red]{name}[/red] is not published:", highlight=False)
        for reason in reasons:
            console.print(f"  {reason}", highlight=False, soft_wrap=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
