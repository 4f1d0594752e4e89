"""The command line of nyquist-companion: its commands, and their options."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from nyquist.companion.settings import GROUPS, Settings
from nyquist.server.command_line import add_option
from nyquist.server.settings import is_secret
from nyquist.server.wire.connection import DEFAULT_TARGET, add_connection_options

Run = Callable[[argparse.Namespace], int]

METAVARS = {"target": "HOST:PORT", "allow_module": "MODULE,..."}
CHECK_STATUS = "Exit status: 1 when a tolerance is missed, 2 when it cannot tell."
SERVE_EPILOG = """\
Each option is also a variable of the environment: NYQUIST_COMPANION_ and its name in capitals.
Flags win. NYQUIST_COMPANION_TOKEN, a token that callers must send, has no flag, because others can
read flags.

exit status: 0 stopped by SIGTERM (drains first) or Ctrl-C; 2 an option is wrong or the companion
cannot start; 128 + the signal: a second one ended it at once
"""


def make_parser(runs: Mapping[str, Run], description: str) -> argparse.ArgumentParser:
    """Return the parser; each command sets `run` to the function of its name."""
    parser = argparse.ArgumentParser(prog="nyquist-companion", description=description)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_question(
        commands, "check", "compare a live server with PyTorch: parity, shift consistency, latency"
    )
    consistency = add_question(
        commands, "consistency", "how often answers stay when the picture moves, by each protocol"
    )
    consistency.add_argument("--protocol", nargs="+", default=[], help="only these")
    consistency.add_argument("--pairs", type=int, default=0, help="of shifts a picture (4)")
    consistency.add_argument("--seed", type=int, default=0, help="of the shifts (%(default)s)")
    latency = add_question(commands, "latency", "time the live server and PyTorch side by side")
    latency.add_argument("--batch-size", type=int, nargs="+", default=[], help="(1 3 8)")
    latency.add_argument("--runs", type=int, default=0, help="at each batch size (20)")
    add_question(commands, "describe", "receptive field, cost, training and build of a model")
    add_serve(commands)
    for name, command in commands.choices.items():
        command.set_defaults(run=runs[name])
    return parser


def add_question(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, words: str
) -> argparse.ArgumentParser:
    """Add a command that asks about models."""
    command = commands.add_parser(name, help=words, description=f"{words}. {CHECK_STATUS}")
    command.add_argument("--target", default=DEFAULT_TARGET, help="server (%(default)s)")
    command.add_argument(
        "--repository",
        type=Path,
        default=Path("model_repository"),
        help="folder with the references (%(default)s)",
    )
    command.add_argument(
        "--companion",
        metavar="HOST:PORT",
        help="ask a companion that runs; without it all is computed here, with --repository",
    )
    command.add_argument("--model", nargs="+", default=[], help="only these")
    command.add_argument(
        "--pictures",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="of your own, brought to what the model at --target takes (reference pictures)",
    )
    command.add_argument("--json", action="store_true", help="print JSON in place of a table")
    command.add_argument(
        "--allow-module",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="run these modules for networks that were exported as MODULE:FUNCTION",
    )
    add_connection_options(command)
    return command


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
