"""What lies at an address: which files, and their bytes. Through fsspec, whatever the store.

Address -> file system of its scheme -> listing: path -> size, tag, sha256 -> bytes into a file
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from nyquist.server.sources.address import Address, without_secrets
from nyquist.server.sources.watch import Watch
from nyquist.server.wire.errors import NyquistError, SourceError, StartError

SUMS_FILE = "SHA256SUMS"
"""Of a web server: which files there are, as `sha256sum` writes it."""

_SUM = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")
_TAGS = ("ETag", "generation", "etag", "blob_id")
"""Where file systems say what changes with a file's content: S3, Google's, Azure's, the Hub's."""

_TALKATIVE = (
    *("aiobotocore", "azure", "botocore", "gcsfs", "google", "huggingface_hub"),
    *("httpx", "httpx2", "oras", "urllib3"),
)
"""Libraries that tell what they ask for, and with whose credentials, below the level of errors."""


LONGEST_REASON = 300


class Unreadable(SourceError):
    """A store gives no answer, or none that helps.

    Attributes:
        lasting: whether the next try can be no better: no such bucket, no right to it.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


@contextmanager
def in_words(file: str = "") -> Iterator[None]:
    """Turn what the library of a store raises into a line without secrets.

    Args:
        file: that was asked for, if it was one.

    Raises:
        Unreadable: it raised something.
    """
    try:
        yield
    except NyquistError:
        raise
    except Exception as error:  # of any library, which share no base
        lasting = isinstance(error, PermissionError | FileNotFoundError)
        reason = f"{file}: {_reason(error)}" if file else _reason(error)
        raise Unreadable(reason, lasting=lasting) from error


def _reason(error: Exception) -> str:
    words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    if isinstance(error, FileNotFoundError) and " " not in words:  # some say the path alone
        words = f"there is no {words}"
    line = next((line.strip() for line in words.splitlines() if line.strip()), "")
    return without_secrets(line)[:LONGEST_REASON] or type(error).__name__


@dataclass(frozen=True)
class RemoteFile:
    """A file as its store lists it.

    Attributes:
        size: bytes; None where the store does not tell.
        tag: another one once the content is another.
        sha256: of the content, where the store tells; or empty.
    """

    size: int | None
    tag: str
    sha256: str = ""


class Store(Protocol):
    """A place that is listed and read. What it raises is its library's own."""

    def listing(self) -> Mapping[str, RemoteFile]:
        """Return every file below the address, by its path."""

    def fetch(self, path: str, target: Path) -> None:
        """Write a file's bytes to `target`."""


def open_store(address: Address, stall_s: float, watch: Watch, folder: Path) -> Store:
    """Return what reads an address, with credentials from where its library looks for them.

    Args:
        address: of the store.
        watch: hears of every chunk of a file.
        folder: for what a store must unpack to list it.
        stall_s: seconds without a byte after which a request has failed.

    Raises:
        StartError: the library of the scheme is not installed.
    """
    _silence()
    try:
        if address.scheme == "oci":
            from nyquist.server.sources.oci import OciStore

            return OciStore(address, stall_s, watch, folder)
        files = open_files(address, stall_s)
        if address.scheme == "hf":
            from nyquist.server.sources.hub import HubStore

            return HubStore(files, address, watch)
        return FileStore(files, address, watch)
    except ImportError as error:
        raise StartError(
            f"{address} needs the extra sources of nyquist: pip install 'nyquist-serving[sources]'"
        ) from error


def open_files(address: Address, stall_s: float) -> Any:  # noqa: ANN401 - fsspec has no types
    """Return the file system of fsspec for an address.

    Raises:
        ImportError: it is not installed.
    """
    import fsspec

    _silence()
    return fsspec.filesystem(
        address.scheme,
        skip_instance_cache=True,
        use_listings_cache=False,
        **_PATIENCE[address.scheme](stall_s),
    )


def _silence() -> None:
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)


def _s3(stall_s: float) -> dict[str, Any]:
    config = {"connect_timeout": stall_s, "read_timeout": stall_s, "retries": {"max_attempts": 0}}
    return {"config_kwargs": config}


def _azure(stall_s: float) -> dict[str, Any]:
    # Whole seconds; without `anon` it asks Azure's standard chain, where no key is set.
    whole = max(1, round(stall_s))
    return {"anon": False, "connection_timeout": whole, "read_timeout": whole}


def _http(stall_s: float) -> dict[str, Any]:
    from aiohttp import ClientTimeout

    timeout = ClientTimeout(total=None, sock_connect=stall_s, sock_read=stall_s)
    return {"client_kwargs": {"timeout": timeout, "trust_env": True}}  # which reads ~/.netrc


_PATIENCE: Mapping[str, Callable[[float], dict[str, Any]]] = {
    "s3": _s3,
    "gs": lambda stall_s: {"requests_timeout": stall_s},
    "az": _azure,
    "hf": lambda _: {},  # it has HF_HUB_DOWNLOAD_TIMEOUT, 10 s, and tries again by itself
    "http": _http,
    "https": _http,
}


class FileStore:
    """A store that fsspec lists and reads.

    Args:
        files: its file system.
        address: of the folder in it.
        watch: hears of every chunk of a file.
    """

    def __init__(self, files: Any, address: Address, watch: Watch) -> None:  # noqa: ANN401 - fsspec has no types
        self._files, self._watch = files, watch
        self._of_the_web = address.scheme in ("http", "https")
        self._root = str(address) if self._of_the_web else address.place
        if hasattr(files, "retries"):  # of S3: tried again here, with everything else
            files.retries = 1

    def listing(self) -> Mapping[str, RemoteFile]:
        self._files.invalidate_cache()
        if self._of_the_web:
            return _sums(self._files.cat_file(f"{self._root}/{SUMS_FILE}"))
        found: dict[str, dict[str, Any]] = self._files.find(self._root, detail=True)
        start = len(self._files._strip_protocol(self._root)) + 1  # noqa: SLF001 - fsspec's own way
        return {
            path[start:]: _remote(info) for path, info in found.items() if info["type"] == "file"
        }

    def fetch(self, path: str, target: Path) -> None:
        from fsspec.callbacks import Callback

        watch = self._watch

        class Chunks(Callback):  # type: ignore[misc] # fsspec has no types
            value: int

            def relative_update(self, inc: int = 1) -> None:
                watch.received(inc)

            def absolute_update(self, value: int) -> None:  # Azure's
                watch.received(value - self.value)
                self.value = value

        self._files.get_file(f"{self._root}/{path}", str(target), callback=Chunks())


def _remote(info: Mapping[str, Any]) -> RemoteFile:
    tag = next((str(info[key]).strip('"') for key in _TAGS if info.get(key)), "")
    large = info.get("lfs") or {}
    return RemoteFile(info["size"], tag, large.get("sha256", ""))


def _sums(content: bytes) -> dict[str, RemoteFile]:
    """Read what `sha256sum` has written."""
    found = {}
    for line in content.decode(errors="replace").splitlines():
        if not line.strip():
            continue
        matched = _SUM.fullmatch(line)
        if matched is None:
            raise SourceError(
                f"{SUMS_FILE} has the line {line[:80]!r}, a line of it is 64 hexadecimal digits, "
                "two blanks, and a path"
            )
        digest, path = matched.groups()
        found[path] = RemoteFile(None, digest, digest)
    return found
