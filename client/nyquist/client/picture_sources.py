"""Where pictures lie: files, folders and patterns, here or in a bucket.

named -> listed -> a Path or a Stored for each -> bytes
"""

from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from nyquist.server.wire.pictures import PictureFile

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
STANDARD_INPUT = Path("/dev/stdin")
_PATTERN = frozenset("*?[")


@dataclass(frozen=True)
class Stored:
    """A picture in a store that fsspec reads.

    Attributes:
        url: its address, such as s3://bucket/one.png.
    """

    url: str

    def __str__(self) -> str:
        return self.url

    def read_bytes(self) -> bytes:
        """Fetch the file.

        Raises:
            OSError: it is not there, or may not be read.
            ValueError: the store cannot be reached, which says nothing of the picture.
        """
        files, path = _store(self.url)
        try:
            content: bytes = files.cat_file(path)
        except (FileNotFoundError, PermissionError) as error:
            raise type(error)(error.errno, _reason(error), self.url) from error
        except Exception as error:
            raise ValueError(f"{self.url} cannot be fetched: {_reason(error)}") from error
        return content


def picture_at(name: str) -> PictureFile:
    """Return the one picture of that name, without a look at whether it is there."""
    return Stored(name) if "://" in name else Path(name)


def files_of(pictures: Sequence[str | Path]) -> list[PictureFile]:
    """Return the picture files that are named, those of a folder by their endings.

    Args:
        pictures: files, folders, patterns such as holiday/**/*.jpg, - for standard input, and
            addresses of what lies elsewhere: of a file, the beginning of addresses, a pattern.

    Raises:
        ValueError: a folder has none, or a store cannot be listed.
    """
    return [file for name in map(str, pictures) for file in _files_at(name)]


def _files_at(name: str) -> list[PictureFile]:
    if name == "-":
        return [STANDARD_INPUT]
    if "://" in name:
        return [Stored(url) for url in _listed(name)]
    path = Path(name)
    if path.is_dir():
        inside = sorted(one for one in path.rglob("*") if one.suffix.lower() in ENDINGS)
        if not inside:
            raise ValueError(f"{path} is a folder without pictures: no {', '.join(ENDINGS)}")
        return list(inside)
    if path.exists() or not _PATTERN & set(name):
        return [path]
    if found := sorted(glob(name, recursive=True)):  # noqa: PTH207 - it takes absolute ones too
        return [Path(one) for one in found]
    raise ValueError(f"nothing is named like {name}")


def _listed(url: str) -> list[str]:
    """Return the addresses that an address stands for."""
    if url.startswith(("http://", "https://")):  # which have no folders
        return [url]
    files, path = _store(url)
    try:
        found = sorted(files.glob(path) if _PATTERN & set(path) else files.find(path))
    except Exception as error:
        raise ValueError(f"{url} cannot be listed: {_reason(error)}") from error
    if found != [path] and not _PATTERN & set(path):
        found = [one for one in found if one.lower().endswith(ENDINGS)]
    if not found:
        raise ValueError(f"{url} holds no pictures: no {', '.join(ENDINGS)}")
    return [files.unstrip_protocol(one) for one in found]


def _store(url: str) -> tuple[Any, str]:
    """Return the file system of fsspec for an address, which it keeps, and the path in it."""
    try:
        from fsspec.core import url_to_fs  # of the extra sources

        return url_to_fs(url)
    except ImportError as error:
        raise ValueError(f"install nyquist-serving[sources] to read {url}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{url}: {error}") from error


def _reason(error: Exception) -> str:
    """Say in one line what a library raised."""
    words = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return " ".join(words.split()) or type(error).__name__
