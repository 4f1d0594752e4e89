"""Where a process listens: a TCP port, or a socket in the file system.

host, port -> a socket that listens ... its file removed, once nobody answers there
"""

import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nyquist.server.wire.errors import StartError

UNIX = "unix:"
BACKLOG = 1024


def unix_path(host: str) -> Path | None:
    """Return the file of a host that is a socket in the file system; None of any other.

    >>> unix_path("unix:/run/nyquist.sock"), unix_path("::1")
    (PosixPath('/run/nyquist.sock'), None)

    Raises:
        StartError: it names no file.
    """
    if not host.startswith(UNIX):
        return None
    name = host.removeprefix(UNIX)
    if name.startswith("//"):  # as a URL, which is how gRPC writes absolute paths too
        name = name.removeprefix("//")
    if not name:
        raise StartError(f"{UNIX} needs the path of a socket, as in unix:/run/nyquist.sock")
    return Path(name)


def address(host: str, port: int) -> str:
    """Return where that is, in a form that gRPC takes for a target.

    >>> address("::1", 8001), address("unix:/run/nyquist.sock", 8001)
    ('[::1]:8001', 'unix:/run/nyquist.sock')
    """
    if host.startswith(UNIX):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def listen(host: str, port: int, what: str, options: str) -> socket.socket:
    """Listen there; the file of a socket that nobody answers at is replaced.

    Args:
        host: address, or `unix:` and a path.
        port: of an address; 0 lets the system choose.
        what: listens, for the error.
        options: that choose where.

    Raises:
        StartError: another listens there, or it cannot be listened on.
    """
    try:
        if (path := unix_path(host)) is not None:
            return _listen_on_file(path)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while attempting")[0]
        raise StartError(
            f"{what} cannot listen on {address(host, port)}: {reason}; "
            f"choose another with {options}"
        ) from error


def remove_file(host: str) -> None:
    """Remove the file of a socket that nobody answers at any more; of an address there is none."""
    if (path := unix_path(host)) is not None:
        with suppress(OSError), _alone(path):
            _remove_stale(path)


def bound_port(listening: socket.socket) -> int:
    """Return the port of a socket that listens; 0 of one in the file system."""
    return 0 if listening.family == socket.AF_UNIX else listening.getsockname()[1]


def _listen_on_file(path: Path) -> socket.socket:
    with _alone(path):
        _remove_stale(path)
        listening = socket.socket(socket.AF_UNIX)
        try:
            listening.bind(os.fspath(path))
            listening.listen(BACKLOG)
        except OSError:
            listening.close()
            raise
        return listening


def _remove_stale(path: Path) -> None:
    """Remove a socket's file that nobody answers at; what else lies there is left for `bind`."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(path.lstat().st_mode) and not _answers(path):
            path.unlink()


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(0)  # a full queue is an answer too
        try:
            asking.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True
        return True


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Let no other process find the same file stale meanwhile."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
