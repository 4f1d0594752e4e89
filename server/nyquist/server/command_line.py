"""The command line of nyquist-server: settings -> parser, grouped and explained."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from nyquist.server.settings import GROUPS, PREFIX, Settings, flag, is_secret
from nyquist.server.wire.errors import StartError

Command = Literal["serve", "check"]
COMMANDS = get_args(Command)
COMMAND_HELP = """\
  serve    until Ctrl-C or SIGTERM; the default
  check    say whether the options are right and every model can be served, and serve nothing
"""

EPILOG = """\
Each option is also a variable of the environment (NYQUIST_ and its name in capitals) and a line of
the file that --config names; flags win over the environment, the environment over the file.

Tokens are read from files or from the environment alone:
{secrets}
exit status: 0 stopped as asked, or nothing to complain of; 1 an option is wrong or the server
cannot start; 2 check: a model cannot be served; 128 + the signal: a second one ended it at once
"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise StartError(message)


def parse(arguments: Sequence[str] | None = None) -> tuple[Command, Mapping[str, Any]]:
    """Return the command and the flags that were given, by the names of their settings.

    Raises:
        StartError: one is no option, or lacks its value.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, rest = _parser().parse_known_args(given)
    if rest and rest[0] not in COMMANDS:
        raise StartError(_what_then(rest[0]))
    if len(rest) > 1:
        raise StartError(_what_then(rest[1]))
    return cast(Command, (rest or ["serve"])[0]), vars(options)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="nyquist-server",
        usage="nyquist-server [serve | check] [OPTION ...]",
        description=f"{Settings.__doc__}\n\n{COMMAND_HELP}",
        epilog=EPILOG.format(secrets="\n".join(_secret_lines())),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    add_option(parser, "config", Settings.model_fields["config"])
    for group in GROUPS:
        section = parser.add_argument_group(str(group.__doc__).rstrip("."))
        for name, field in group.model_fields.items():
            if not is_secret(name):
                add_option(section, name, field)
    return parser


def add_option(
    section: argparse._ActionsContainer, name: str, field: FieldInfo, metavar: str = ""
) -> None:
    """Add a setting as a flag, explained and with its default."""
    explained = f"{field.description} (default: {_default(field)})".replace("%", "%%")
    if field.annotation is bool:
        section.add_argument(flag(name), action=argparse.BooleanOptionalAction, help=explained)
    else:
        section.add_argument(flag(name), metavar=metavar or _metavar(name, field), help=explained)


def _default(field: FieldInfo) -> str:
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    if isinstance(field.default, float):
        return f"{field.default:g}"
    return "none" if field.default is None else str(field.default)


def _metavar(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(get_args(field.annotation)) + "}"
    for ending, metavar in (("_s", "SECONDS"), ("_bytes", "BYTES"), ("host", "ADDRESS")):
        if name.endswith(ending):
            return metavar
    if "Path" in str(field.annotation):
        return "FOLDER" if name == "repository" else "FILE"
    return "NUMBER"


def _secret_lines() -> list[str]:
    return [
        f"  {PREFIX + name.upper():<26} {field.description}"
        for name, field in Settings.model_fields.items()
        if is_secret(name)
    ]


def _what_then(unknown: str) -> str:
    """Say what is right instead; never the value, which may be a secret."""
    name = unknown.partition("=")[0]
    if name.startswith("-"):
        setting = name.lstrip("-").replace("-", "_")
        if setting in Settings.model_fields and is_secret(setting):
            return (
                f"{name} is no flag, because others can read flags; "
                f"use {name}-file or {PREFIX}{setting.upper()}"
            )
        flags = [flag(known) for known in Settings.model_fields if not is_secret(known)]
        close = get_close_matches(name, flags, n=3, cutoff=0.5)
        if close:
            return f"{name} is no option, did you mean {' or '.join(close)}?"
        return f"{name} is no option, see nyquist-server --help"
    return f"{unknown!r} is no command; there are {' and '.join(COMMANDS)}"
