"""Where `nyquist` begins: Ctrl-C is a line from here on, whatever is being imported.

What Python raises for it inside an import is a traceback, and inside that of a C extension another
error altogether.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """End the process with a line if Ctrl-C comes meanwhile: nothing has been begun yet."""
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.default_int_handler, _leave):  # ignored, or somebody else's
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"nyquist: interrupted\n")
    os._exit(INTERRUPTED)


def main() -> int:
    """Run the command that the command line names; return the exit status."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)  # until the command has what it needs
    from nyquist.__main__ import main as chosen

    return chosen()
