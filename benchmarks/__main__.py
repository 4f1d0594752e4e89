"""Measure Nyquist, bare onnxruntime and its peers in one run.

python -m benchmarks run [--quick] [--models A,B] [--servers A,B] [--rounds N] [--resume]
python -m benchmarks show [FILE]
python -m benchmarks page [FILE]
"""

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from benchmarks import environment, page, repositories, results, tables
from benchmarks.bench import Bench
from benchmarks.comparison import compare
from benchmarks.growth import grow
from benchmarks.plan import FULL, MODELS, QUICK, Plan
from benchmarks.servers import ALL

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "benchmark_results" / "results.json"
SHOWN = OUTPUT.relative_to(ROOT)
INTERRUPTED = 130
EPILOG = f"""\
models:   {", ".join(MODELS[:4])},
          {", ".join(MODELS[4:])},
          or any other of model_repository/ and benchmarks/models.yaml
servers:  {", ".join(one.name for one in ALL)}; bare onnxruntime is always measured
windows:  --rounds of each figure, the servers in turns; the tables have median (least-most)

Peers are installed into .venvs/ when they are first measured; one that cannot be installed or does
not start is reported with its reason. What is measured is saved after every round; Ctrl-C ends
every server, and --resume goes on where a run ended.

exit status: 0 measured and shown; 1 a model cannot be built; 2 wrong arguments; 130 interrupted
"""


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__.partition("\n")[0],
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run",
        help="measure, save, show",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--quick", action="store_true", help="three models, no peers, short windows")
    run.add_argument("--models", type=_names, help="instead of the plan's, separated by commas")
    run.add_argument("--servers", type=_names, help="instead of the plan's, separated by commas")
    run.add_argument(
        "--attach",
        type=_attached,
        action="append",
        default=[],
        metavar="NAME:PORT:PID",
        help="measure a server too that runs already and serves the models by their names",
    )
    run.add_argument("--rounds", type=int, help="windows of each figure (3)")
    run.add_argument("--no-growth", action="store_true", help="leave out how cost grows")
    run.add_argument("--resume", action="store_true", help="keep what FILE has")
    show = commands.add_parser("show", help="print the tables of a run")
    write = commands.add_parser("page", help="put tables and plots into docs/performance.md")
    for each in (run, show, write):
        each.add_argument("file", type=Path, nargs="?", default=OUTPUT, help=f"JSON ({SHOWN})")
    return parser.parse_args(words)


def _names(words: str) -> list[str]:
    return words.split(",")


def _attached(words: str) -> tuple[str, int, int]:
    try:
        name, port, pid = words.split(":")
        return name, int(port), int(pid)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected NAME:PORT:PID, got {words!r}") from None


def make_plan(arguments: argparse.Namespace) -> Plan:
    """Return what the command line asks for.

    Raises:
        ValueError: a server is unknown, or there are no rounds.
    """
    plan = QUICK if arguments.quick else FULL
    known = [one.name for one in ALL]
    for name in arguments.servers or ():
        if name not in known:
            raise ValueError(f"no server {name!r}; choose from {', '.join(known)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        raise ValueError(f"--rounds must be at least 1, got {arguments.rounds}")
    return replace(
        plan,
        models=arguments.models or plan.models,
        servers=arguments.servers or plan.servers,
        rounds=arguments.rounds or plan.rounds,
        growth=plan.growth and not arguments.no_growth,
        attached=arguments.attach,
    )


def main(words: Sequence[str] | None = None) -> int:
    """Do as the command line says and return the exit status."""
    arguments, console = parse(words), Console()
    try:
        if arguments.command == "run":
            return _run(arguments, console)
        known = results.read(arguments.file)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - a command line
        return 2
    if arguments.command == "page":
        page.write(known, ROOT / "docs")
    else:
        tables.show(known, console)
    return 0


def _run(arguments: argparse.Namespace, console: Console) -> int:
    plan, path = make_plan(arguments), arguments.file
    resumed = arguments.resume and path.is_file()
    known = results.read(path) if resumed else results.Results(environment.describe())
    known.missing.clear()
    status = 0
    try:
        _measure(Bench(plan, known, path, console))
    except KeyboardInterrupt:
        status = INTERRUPTED
        console.print(f"interrupted; what was measured is in {path}, go on with --resume")
    except subprocess.CalledProcessError as error:
        status = 1
        console.print(f"[red]error:[/] {error}")
    known.environment["load_average_after"] = round(os.getloadavg()[0], 2)
    known.save(path)
    tables.show(known, console)
    return status


def _measure(bench: Bench) -> None:
    """Measure what the plan names; what was done is saved, however it ends."""
    try:
        for name in bench.plan.models:
            compare(bench, repositories.find(name))
        if bench.plan.growth:
            grow(bench)
    finally:
        bench.save()


def _interrupt(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt


if __name__ == "__main__":
    for stop in (signal.SIGINT, signal.SIGTERM):  # a shell starts background jobs without SIGINT
        signal.signal(stop, _interrupt)
    sys.exit(main())
