"""The command line of `nyquist companion` and `nyquist check`: its commands, and their options."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from nyquist.client.command_line import add_model_options
from nyquist.companion.settings import GROUPS, Settings
from nyquist.server.command_line import add_option
from nyquist.server.settings import COMPANION_PREFIX, is_secret
from nyquist.server.wire.connection import DEFAULT_TARGET, add_connection_options

METAVARS = {
    "target": "HOST:PORT",
    "target_metrics": "HOST:PORT",
    "model": "NAME,...",
    "allowed_hosts": "NAME,...",
    "input": "CxHxW",
    "mean": "M,...",
    "std": "S,...",
    "input_name": "NAME",
    "output": "NAME",
}
MAX_PORT = 65535
CHECK_STATUS = "Exit status: 1 when a tolerance is missed, 2 when it cannot tell."
SERVE_EPILOG = """\
Each option is also a variable of the environment: NYQUIST_COMPANION_ and its name in capitals.
Flags win. NYQUIST_COMPANION_TOKEN, a token that callers must send, has no flag, because others can
read flags.

exit status: 0 stopped by SIGTERM (drains first) or Ctrl-C; 2 an option is wrong or the companion
cannot start; 128 + the signal: a second one ended it at once
"""


CHECK_WORDS = "compare a live server with PyTorch: parity, shift consistency, latency"
DESCRIPTION = """\
Prove that a live server computes what PyTorch computes. Without a COMMAND it serves."""


class _ServesByDefault(argparse.ArgumentParser):
    """Takes options without a command for those of `serve`."""

    def parse_known_args(  # type: ignore[override] # argparse overloads it, for namespaces of other kinds
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        words = list(sys.argv[1:] if args is None else args)
        if not words or (words[0].startswith("-") and words[0] not in ("-h", "--help")):
            words.insert(0, "serve")
        return super().parse_known_args(words, namespace)


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist companion`; `command` is the word that was chosen."""
    parser = _ServesByDefault(prog="nyquist companion", description=DESCRIPTION)
    commands = parser.add_subparsers(
        required=True, metavar="COMMAND", parser_class=argparse.ArgumentParser
    )
    add_serve(commands)
    check = commands.add_parser("check", help=CHECK_WORDS, description=_described(CHECK_WORDS))
    add_question(check)
    words = "how often answers stay when the picture moves, by each protocol"
    consistency = commands.add_parser("consistency", help=words, description=_described(words))
    add_question(consistency)
    consistency.add_argument("--protocol", nargs="+", default=[], help="only these")
    consistency.add_argument("--pairs", type=int, default=0, help="of shifts a picture (4)")
    consistency.add_argument("--seed", type=int, default=0, help="of the shifts (%(default)s)")
    words = "time the live server and PyTorch side by side"
    latency = commands.add_parser("latency", help=words, description=_described(words))
    add_question(latency)
    latency.add_argument("--batch-size", type=int, nargs="+", default=[], help="(1 3 8)")
    latency.add_argument("--runs", type=int, default=0, help="at each batch size (20)")
    words = "receptive field, cost, training and build of a model"
    add_question(commands.add_parser("describe", help=words, description=_described(words)))
    for name, command in commands.choices.items():
        command.set_defaults(command=name, prog=command.prog)
    return parser


def make_check_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist check`, which is `nyquist companion check`."""
    parser = argparse.ArgumentParser(prog="nyquist check", description=_described(CHECK_WORDS))
    parser.set_defaults(command="check", prog=parser.prog)
    add_question(parser)
    return parser


def make_lab_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist lab`."""
    parser = argparse.ArgumentParser(
        prog="nyquist lab",
        description="Slide a picture in a browser and watch what served models make of it: every "
        "flip, a map of all shifts, two servers side by side. Ctrl-C ends it.",
    )
    parser.add_argument(
        "--target",
        action="append",
        metavar="HOST:PORT",
        help=f"server; twice to compare two ({DEFAULT_TARGET})",
    )
    parser.add_argument("--model", nargs="+", default=[], help="only these (all that are listed)")
    parser.add_argument("--host", default="127.0.0.1", help="address of the page (%(default)s)")
    parser.add_argument(
        "--http-port", type=_port, default=8005, metavar="PORT", help="of the page (%(default)s)"
    )
    parser.add_argument(
        "--allowed-hosts",
        nargs="+",
        default=[],
        metavar="NAME",
        help="names that browsers may have for the page (those of this machine)",
    )
    parser.add_argument(
        "--open",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="show it in the browser, where there is one",
    )
    add_model_options(parser)
    add_connection_options(parser)
    return parser


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > MAX_PORT:
        raise argparse.ArgumentTypeError(f"a port is 0 to {MAX_PORT}, got {text!r}")
    return int(text)


def _described(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}. {CHECK_STATUS}"


def add_question(command: argparse.ArgumentParser) -> None:
    """Give a command the options of all that ask about models."""
    command.add_argument(
        "--target",
        default=os.environ.get(f"{COMPANION_PREFIX}TARGET") or DEFAULT_TARGET,
        metavar="HOST:PORT",
        help="server (%(default)s)",
    )
    command.add_argument(
        "--repository",
        type=Path,
        default=Path(os.environ.get(f"{COMPANION_PREFIX}REPOSITORY") or "model_repository"),
        help="folder with the references (%(default)s)",
    )
    command.add_argument(
        "--companion",
        metavar="HOST:PORT",
        help="ask a companion that runs; without it all is computed here, with --repository",
    )
    command.add_argument("--model", nargs="+", default=[], help="only these")
    command.add_argument(
        "--reference",
        type=Path,
        metavar="FILE",
        help=".pt2 program or .onnx file that the one --model is held against (its artifact)",
    )
    command.add_argument(
        "--pictures",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="of your own, brought to what the model at --target takes (reference pictures)",
    )
    command.add_argument("--json", action="store_true", help="print JSON in place of a table")
    add_model_options(command)
    add_connection_options(command)


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
        usage="nyquist companion [serve] [OPTION ...]",
    )
    for group in GROUPS:
        section = command.add_argument_group(str(group.__doc__).rstrip("."))
        for name, field in group.model_fields.items():
            if not is_secret(name, Settings):
                add_option(section, name, field, METAVARS.get(name, ""))
