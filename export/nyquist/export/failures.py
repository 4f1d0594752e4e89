"""Why a build failed, in words that say what to do. Read without torch."""

import errno
import os
import shutil
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def reasons(error: Exception, repository: Path) -> list[str]:
    """Return why a model failed, one line for each cause.

    Args:
        error: what its build raised.
        repository: where it would have gone.
    """
    if isinstance(error, ExceptionGroup):
        return [line for cause in error.exceptions for line in reasons(cause, repository)]
    if isinstance(error, OSError):
        return [file_reason(error, repository)]
    return [str(error) if _is_told(error) else f"{type(error).__name__}: {error}"]


def file_reason(error: OSError, repository: Path) -> str:
    """Say which folder is full or closed; any other error in its own words."""
    if error.errno in FULL:
        free = shutil.disk_usage(_existing(repository)).free
        return f"no space is left in {repository}, {free / 1e6:.1f} MB are free; make room"
    if error.errno in FORBIDDEN:
        place = error.filename or repository
        return f"{place} may not be read or written by user {os.geteuid()}: {error.strerror}"
    return str(error)


def _existing(folder: Path) -> Path:
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def _is_told(error: Exception) -> bool:
    """Whether its message was written for people: those of Nyquist's own checks are."""
    own = type(error).__module__.startswith("nyquist.")
    return own or type(error) is ValueError
