"""Whether a file is another one than before, or has other content."""

from pathlib import Path

Mark = tuple[int, int, int, int] | None


def mark_of(path: Path) -> Mark:
    """Return what differs once a file, or what a link leads to, is replaced, written or opened up.

    None where it cannot be looked at.
    """
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
