"""nyquist-companion: prove that a live server computes what PyTorch computes."""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import grpc
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from companion.app import Companion
from companion.check import Row, check_model
from companion.settings import GROUPS, Settings, read_settings
from server.client import InferenceClient
from server.command_line import add_option
from server.connection import (
    DEFAULT_TARGET,
    Connection,
    WrongConnection,
    add_connection_options,
    chosen_connection,
)
from server.errors import ArtifactError, StartError
from server.logs import configure_logs
from server.repository import model_folders
from server.settings import is_secret
from server.stop_signal import stop_signal

METAVARS = {"target": "HOST:PORT", "allow_module": "MODULE,..."}
SERVE_EPILOG = """\
Each option is also a variable of the environment: NYQUIST_COMPANION_ and its name in capitals.
Flags win. NYQUIST_COMPANION_TOKEN, a token that callers must send, has no flag, because others can
read flags.

exit status: 0 stopped by SIGTERM (drains first) or Ctrl-C; 2 an option is wrong or the companion
cannot start; 128 + the signal: a second one ended it at once
"""


def row_table(rows: Sequence[Row]) -> Table:
    """Lay out the rows, a line a model, within 80 columns."""
    headers = ("model", "on", "parity", "argmax", "shift", "torch", "ms", "torch", "")
    table = Table(*headers, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns[2:8]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.model.name,
            row.model.provider.removesuffix("ExecutionProvider"),
            f"{row.parity.relative_error:.1e}",
            f"{row.parity.agreement:.1%}",
            f"{row.server_consistency.share:.2%}",
            f"{row.reference_consistency.share:.2%}",
            f"{row.server_ms:.2f}",
            f"{row.reference_ms:.2f}",
            "[red]miss[/red]" if row.misses else "[green]ok[/green]",
        )
    return table


def check(
    connection: Connection, folders: Sequence[Path], modules: Collection[str], console: Console
) -> int:
    """Check every model in turn; return 0 if all hold what their manifests promise, else 1.

    Raises:
        ArtifactError: a reference cannot be read.
        WrongConnection: the connection's files cannot be used.
        grpc.RpcError: the server fails.
    """
    rows = []
    with (
        InferenceClient(connection) as client,
        Progress(console=console, transient=True) as progress,
    ):
        bar = progress.add_task("", total=len(folders))
        for folder in folders:
            progress.update(bar, description=folder.name)
            rows.append(check_model(client, folder, modules))
            progress.advance(bar)
    console.print(row_table(rows))
    console.print(
        "parity: largest difference of a logit, as a share of the logits' spread\n"
        "shift: answers that hold under circular shifts; ms: median of one picture"
    )
    for row in rows:
        for miss in row.misses:
            line = f"[red]{row.model.name}[/red]: {miss}"
            console.print(line, highlight=False, soft_wrap=True)
    return 1 if any(row.misses for row in rows) else 0


def chosen_folders(repository: Path, names: Sequence[str]) -> list[Path]:
    """Return the folders of the models named, or of all if none is.

    Raises:
        ArtifactError: the repository lacks one of them.
    """
    folders = {folder.name: folder for folder in model_folders(repository)}
    for name in names:
        if name not in folders:
            raise ArtifactError(f"no model {name!r}; {repository} has {', '.join(folders)}")
    return [folders[name] for name in names or folders]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; see `nyquist-companion --help`."""
    parser = argparse.ArgumentParser(prog="nyquist-companion", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    command = commands.add_parser(
        "check",
        help="compare a live server with PyTorch: parity, shift consistency, latency",
        description="Exit status: 1 when a tolerance is missed, 2 when it cannot tell.",
    )
    command.add_argument("--target", default=DEFAULT_TARGET, help="server (%(default)s)")
    command.add_argument(
        "--repository",
        type=Path,
        default=Path("model_repository"),
        help="folder with the references (%(default)s)",
    )
    command.add_argument("--model", nargs="+", default=[], help="only these")
    command.add_argument(
        "--allow-module",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="run these modules for networks that were exported as MODULE:FUNCTION",
    )
    add_connection_options(command)
    command.set_defaults(run=run_check)
    add_serve(commands)
    return parser.parse_args(arguments)


def add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command that serves, with every setting as a flag."""
    command = commands.add_parser(
        "serve",
        help="watch a live server: probes, live traffic, calls on demand, metrics",
        description=Settings.__doc__,
        epilog=SERVE_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    for group in GROUPS:
        section = command.add_argument_group(str(group.__doc__).rstrip("."))
        for name, field in group.model_fields.items():
            if not is_secret(name, Settings):
                add_option(section, name, field, METAVARS.get(name, ""))
    command.set_defaults(run=run_serve)


async def serve(settings: Settings) -> None:
    """Watch until a signal comes; a second one ends the process where it stands.

    Raises:
        StartError: the companion cannot start.
    """
    stop = stop_signal()
    async with Companion(settings) as companion:
        if await stop is signal.SIGTERM:
            await companion.drain(settings.drain_s)


def run_serve(options: argparse.Namespace, console: Console) -> int:  # noqa: ARG001 - as the others
    """Serve; return the exit status."""
    flags = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    settings = read_settings(flags)
    configure_logs(settings.log_level, settings.log_format)
    logging.getLogger("companion").setLevel(settings.log_level.upper())
    os.nice(settings.nice)
    asyncio.run(serve(settings))
    return 0


def run_check(options: argparse.Namespace, console: Console) -> int:
    """Check; return the exit status."""
    connection = chosen_connection(options)
    folders = chosen_folders(options.repository, options.model)
    return check(connection, folders, options.allow_module, console)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run nyquist-companion; return the exit status."""
    options = parse(arguments)
    # The server has the same cores. Two threads of PyTorch spin at every layer until the second one
    # gets a core: beside one busy process EfficientNet-Lite0 took 25 times as long as with one.
    torch.set_num_threads(1)
    console, errors = Console(), Console(stderr=True)
    try:
        return int(options.run(options, console))
    except (ArtifactError, StartError, WrongConnection) as error:
        reason = str(error)
    except grpc.RpcError as error:
        reason = chosen_connection(options).explain(error)
    errors.print(f"nyquist-companion: error: {reason}", highlight=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
