"""nyquist-companion: prove that a live server computes what PyTorch computes."""

import argparse
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

import grpc
import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from companion.check import Row, check_model
from server.client import InferenceClient
from server.connection import (
    DEFAULT_TARGET,
    Connection,
    WrongConnection,
    add_connection_options,
    chosen_connection,
)
from server.errors import ArtifactError
from server.repository import model_folders


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
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run nyquist-companion; return the exit status."""
    options = parse(arguments)
    # The server has the same cores. Two threads of PyTorch spin at every layer until the second one
    # gets a core: beside one busy process EfficientNet-Lite0 took 25 times as long as with one.
    torch.set_num_threads(1)
    console, errors = Console(), Console(stderr=True)
    try:
        connection = chosen_connection(options)
        folders = chosen_folders(options.repository, options.model)
        return check(connection, folders, options.allow_module, console)
    except (ArtifactError, WrongConnection) as error:
        reason = str(error)
    except grpc.RpcError as error:
        reason = connection.explain(error)
    errors.print(f"nyquist-companion: error: {reason}", highlight=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    sys.exit(main())
