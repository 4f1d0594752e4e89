"""The command lines of `nyquist serve` and `nyquist check-repository`: settings -> parsers."""

import argparse
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NoReturn, get_args, get_origin

from pydantic.fields import FieldInfo

from nyquist.server.settings import GROUPS, PREFIX, Settings, flag, is_secret

CHECK = "Say whether the options are right and every model can be served, and serve nothing."
EPILOG = """\
An ONNX file that is named is served by its name without the ending, and without --repository
nothing else is.

Each option is also a variable of the environment (NYQUIST_ and its name in capitals) and a line of
the file that --config names; flags win over the environment, the environment over the file.

Tokens are read from files or from the environment alone:
{secrets}
exit status: {status}
"""
SERVE_STATUS = """\
0 stopped as asked; 1 an option is wrong or the server cannot start;
128 + the signal: a second one ended it at once"""
CHECK_STATUS = """\
0 nothing to complain of; 1 an option is wrong; 2 a model cannot be served"""


OF_TRITON = {
    "--model-repository": "--repository",
    "--model-store": "--repository",
    "--grpc-port": "--port",
    "--http-port": "--port, where HTTP is answered too",
    "--grpc-address": "--host",
    "--http-address": "--host",
    "--metrics-address": "--metrics-host",
    "--load-model": "--load",
    "--model-control-mode": "--load for explicit, --poll-s for poll",
    "--repository-poll-secs": "--poll-s",
    "--exit-timeout-secs": "--grace-s",
    "--log-verbose": "--log-level debug",
}
"""Flags that people bring along, and what does the same."""


class _Parser(argparse.ArgumentParser):
    """Names the nearest option, and never a value, which may be a secret. Takes ONNX files too."""

    def parse_args(  # type: ignore[override] # argparse overloads it, for namespaces of other kinds
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Parse; an option that there is not ends the process with a line."""
        options, rest = self.parse_known_args(args, namespace)
        options.graphs = [Path(word) for word in rest if _is_graph(word)]
        rest = [word for word in rest if not _is_graph(word)]
        if rest:
            self.error(_what_then(rest[0]))
        return options

    def error(self, message: str) -> NoReturn:
        self.exit(1, f"{self.prog}: error: {message}\n")


def make_serve_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist serve`."""
    return _parser("nyquist serve", str(Settings.__doc__), SERVE_STATUS)


def make_check_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist check-repository`: the options of `nyquist serve`, and JSON."""
    parser = _parser("nyquist check-repository", CHECK, CHECK_STATUS)
    parser.set_defaults(checks=True)
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


def flags_of(options: argparse.Namespace) -> Mapping[str, Any]:
    """Return the flags that were given, by the names of their settings."""
    return {name: value for name, value in vars(options).items() if name in Settings.model_fields}


def _parser(prog: str, description: str, status: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=prog,
        usage=f"{prog} [OPTION ...] [FILE.onnx ...]",
        description=description,
        epilog=EPILOG.format(secrets="\n".join(_secret_lines()), status=status),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.set_defaults(prog=prog, checks=False)
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
    elif "tuple" in str(field.annotation):
        shown = metavar or _metavar(name, field)
        section.add_argument(flag(name), metavar=shown, action="append", help=explained)
    else:
        section.add_argument(flag(name), metavar=metavar or _metavar(name, field), help=explained)


def _default(field: FieldInfo) -> str:
    if isinstance(field.default, bool):
        return "on" if field.default else "off"
    if isinstance(field.default, float):
        return f"{field.default:g}"
    if isinstance(field.default, tuple):
        return ", ".join(map(str, field.default)) or "none"
    return "none" if field.default is None else str(field.default)


def _metavar(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return "{" + ",".join(get_args(field.annotation)) + "}"
    for ending, metavar in (("_s", "SECONDS"), ("_bytes", "BYTES"), ("host", "ADDRESS")):
        if name.endswith(ending):
            return metavar
    if "Path" in str(field.annotation):
        return "FOLDER" if name in ("cache", "repository", "link_folder") else "FILE"
    return "NAME" if name == "load" else "NUMBER"


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
        if ours := OF_TRITON.get(name):
            return f"{name} is Triton's, here it is {ours}"
        flags = [flag(known) for known in Settings.model_fields if not is_secret(known)]
        close = get_close_matches(name, flags, n=3, cutoff=0.5)
        if close:
            return f"{name} is no option, did you mean {' or '.join(close)}?"
        return f"{name} is no option, see nyquist serve --help"
    return f"{name!r} is no option; they begin with --, see nyquist serve --help"


def _is_graph(word: str) -> bool:
    return word.endswith(".onnx") and not word.startswith("-")
