"""nyquist build: make the models of the zoo, or your own, into served artifacts.

arguments -> specs -> which have changed -> build those, side by side -> pages of all -> table
"""

import sys
from argparse import Namespace
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nyquist.companion.page.kit.wording import built as built_share
from nyquist.companion.page.kit.wording import milliseconds, narrow
from nyquist.export.command_line import (
    DONE,
    FAILED,
    INTERRUPTED,
    MISUSED,
    make_parser,
    outcome,
    show_plans,
    write_json,
)
from nyquist.export.failures import file_reason
from nyquist.export.jobs import Task, build_all
from nyquist.export.outcome import Built
from nyquist.export.plan import Plan, plan
from nyquist.export.publish import RepositoryBusy, locked, remove_leftovers
from nyquist.export.recipe.flags import specs_from_arguments
from nyquist.export.recipe.recipe import RecipeError
from nyquist.export.report.pages import write_pages
from nyquist.export.report.record import Latency, read_report
from nyquist.export.report.speed import measure_speed
from nyquist.export.upload import PublishError, Target, parse_target
from nyquist.models.spec import ModelSpec
from nyquist.server.artifact.built import circular_of
from nyquist.server.sources.address import Address

LEGEND = """\
MMAC: million multiply-adds of a picture
parity: largest difference from PyTorch, as a share of the spread of logits
right: labelled samples that are answered rightly
shift: answers that hold under circular shifts, with their standard error
ms b1, ms b8: time of onnxruntime for a batch of 1 and of 8
s: time of the build; - if nothing had changed\
"""


def built_table(built: Sequence[Built], repository: Path) -> Table:
    """Lay out what is in the repository, a line a model, within 80 columns."""
    headers = ("model", "MMAC", "parity", "right", "shift", "MB", "ms b1", "ms b8", "s")
    table = Table(*headers, box=SIMPLE_HEAD, pad_edge=False, padding=0)
    for column in table.columns[1:]:
        column.justify = "right"
    for model in built:
        figures = model.manifest.figures
        shift = narrow(built_share(circular_of(model.manifest)))
        megabytes = model.size / 1e6
        right = round((figures.accuracy or 0) * figures.labelled)
        table.add_row(
            model.manifest.name,
            f"{figures.multiply_adds / 1e6:,.0f}",
            f"{figures.parity:.1e}",
            f"{right}/{figures.labelled}" if figures.labelled else "-",
            shift.replace(" ± ", "±").replace(" ≥ ", "≥"),
            f"{megabytes:.{1 if megabytes >= 10 else 2}f}",
            *_latencies(repository, model.manifest.name),
            f"{model.seconds:.0f}" if model.seconds else "-",
        )
    return table


def _latencies(repository: Path, name: str) -> tuple[str, str]:
    """Return the median times of batch 1 and 8, milliseconds."""
    latency = read_report(repository, name).latency
    lines = latency.lines if isinstance(latency, Latency) else ()
    times = {line.batch: milliseconds(line.median) for line in lines}
    return times.get(1, "-"), times.get(8, "-")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `nyquist build`; return the exit status."""
    return run(make_parser().parse_args(arguments))


def run(options: Namespace) -> int:
    """Build what the options ask for; return the exit status."""
    try:
        chosen, address = _asked(options)
    except RecipeError as error:
        sys.stderr.write("".join(f"error: {problem}\n" for problem in error.problems))
        return MISUSED
    console = Console(stderr=options.json)
    if options.list:
        console.print("\n".join(spec.name for spec in chosen), highlight=False)
        return DONE
    start = perf_counter()
    try:
        if options.dry_run:
            plans = [plan(spec, options.output) for spec in chosen]
            show_plans(plans, console, as_json=options.json)
            return DONE
        target = Target(address) if address else None
        with locked(options.output):
            remove_leftovers(options.output)
            plans = [plan(spec, options.output) for spec in chosen]
            return build(plans, options, console, start, target)
    except KeyboardInterrupt:
        console.print("interrupted: models that were finished are published, others untouched")
        return INTERRUPTED
    except (PublishError, RepositoryBusy) as error:
        console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
    except OSError as error:
        reason = file_reason(error, options.output)
        console.print(f"[red]error:[/red] {reason}", highlight=False, soft_wrap=True)
    return FAILED


def _asked(options: Namespace) -> tuple[Sequence[ModelSpec], Address | None]:
    """Return the models that the options ask for, and where they are published to, if anywhere.

    Raises:
        RecipeError: something of it cannot be had.
    """
    chosen = specs_from_arguments(options)
    if options.engine == "ray" and find_spec("ray") is None:
        raise RecipeError(["install nyquist-serving[ray] for --engine ray"])
    try:
        return chosen, parse_target(options.publish) if options.publish else None
    except PublishError as error:
        raise RecipeError([str(error)]) from error


def build(
    plans: Sequence[Plan],
    options: Namespace,
    console: Console,
    start: float,
    target: Target | None,
) -> int:
    """Build what has changed, publish it and print the table of all; return the exit status."""
    tasks = [
        Task(one.spec, options.output, options.keep, options.debug)
        for one in plans
        if one.kept is None
    ]
    jobs = min(options.jobs, len(tasks))
    fresh, failed = build_all(tasks, jobs, console, options.engine) if tasks else ([], {})
    by_name = {built.manifest.name: built for built in fresh}
    found = [one.kept or by_name.get(one.spec.name) for one in plans]
    done = [built for built in found if built is not None]
    if fresh:
        console.print("timing the models side by side")
        measure_speed(options.output, [built.manifest for built in done])
    if done:
        write_pages(options.output)  # of what was measured, however long ago
    names = [built.manifest.name for built in done]
    published, unpublished = _publish(target, options.output, names, console)
    document = outcome(plans, fresh, failed, perf_counter() - start)
    if target is not None:
        document["published"] = published
    if options.json:
        write_json(document)
    elif done:
        console.print(built_table(done, options.output))
        console.print(LEGEND, highlight=False)
    console.print(f"{len(done)} of {len(plans)} models in {document['seconds']:.1f} s")
    _complain(failed, unpublished, console)
    return FAILED if failed or unpublished else DONE


def _complain(failed: Mapping[str, Sequence[str]], unpublished: str, console: Console) -> None:
    for name, reasons in failed.items():
        console.print(f"[red]{name}[/red] is not published:", highlight=False)
        for reason in reasons:
            console.print(f"  {reason}", highlight=False, markup=False, soft_wrap=True)
    if unpublished:
        console.print(f"[red]error:[/red] {escape(unpublished)}", highlight=False, soft_wrap=True)


def _publish(
    target: Target | None, repository: Path, names: Sequence[str], console: Console
) -> tuple[dict[str, list[int]], str]:
    """Bring models to where they are published, as far as that goes.

    Returns:
        the versions of each that were not there, and why not all are there; empty if they are.
    """
    went: dict[str, list[int]] = {}
    if target is None:
        return went, ""
    for name in names:
        try:
            uploaded = target.publish(repository / name)
        except PublishError as error:
            return went, str(error)
        went[name] = list(uploaded.versions)
        versions = ", ".join(map(str, uploaded.versions))
        told = f"{name}: version {versions}, {uploaded.bytes / 1e6:.1f} MB" if versions else ""
        console.print(f"published {told}" if told else f"{name} is published as it is")
        if uploaded.edited:
            console.print(f"{name}: config.pbtxt was edited there, and stays")
    return went, ""


if __name__ == "__main__":
    sys.exit(main())
