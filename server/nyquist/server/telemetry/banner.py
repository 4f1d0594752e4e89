"""Keeps h2corn from writing lines of its own among those of the log.

It has no option for that. What it says, addresses and protocols, the log says when it is ready; and
a server that cannot start says why in one line.
"""

from typing import Any

from h2corn import _lib


def keep_quiet() -> None:
    """Let servers that start from now on say nothing; a second time does nothing."""
    native: Any = _lib
    native.emit_banner = _say_nothing


def _say_nothing(*_: object) -> None:
    pass
