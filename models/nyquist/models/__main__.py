"""nyquist models: the architectures and what their options may be.   choices -> table or JSON."""

import argparse
import json
import sys
from collections.abc import Sequence

from nyquist.models.choices import ARCHITECTURES, Choices


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of `nyquist models`."""
    parser = argparse.ArgumentParser(
        prog="nyquist models",
        description="List the architectures and their options, as `nyquist build --arch` and "
        "`nyquist.models.create` take them.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the architectures; return the exit status."""
    if options.json:
        sys.stdout.write(json.dumps(_document(), indent=2) + "\n")
        return 0
    alike: dict[str, list[str]] = {}
    for name, choices in ARCHITECTURES.items():
        words = "\n".join(f"  {option:13} {_in_words(of)}" for option, of in choices.items())
        alike.setdefault(words, []).append(name)
    for words, names in alike.items():
        sys.stdout.write(f"{', '.join(names)}\n{words}\n\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """List; return the exit status."""
    return run(make_parser().parse_args(arguments))


def _document() -> dict[str, dict[str, object]]:
    return {
        name: {
            option: list(of) if isinstance(of, tuple) else {"least": of[0], "most": _most(of)}
            for option, of in choices.items()
        }
        for name, choices in ARCHITECTURES.items()
    }


def _most(choices: range) -> int | None:
    return choices[-1] if choices.stop < sys.maxsize else None


def _in_words(choices: Choices) -> str:
    if isinstance(choices, tuple):
        return ", ".join(choices)
    most = _most(choices)
    return f"{choices[0]} to {most}" if most else f"{choices[0]} or more"


if __name__ == "__main__":
    sys.exit(main())
