"""What was fetched from one source, as a repository of this machine that changes in whole models.

listing -> versions that are whole and wanted -> files that are not here -> sha256 -> a fresh copy
of the model, unchanged files linked -> its link led there, in one step

    repository/NAME -> ../copies/NAME/3f9c    what is served
    copies/NAME/3f9c, copies/NAME/a07e        the model now, and as it was before
    blobs/SHA256                              every file of them, once
    state.json                                which file of the store is which blob
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from nyquist.server.artifact.manifest import (
    BESIDE_A_GRAPH,
    CONFIG_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
)
from nyquist.server.artifact.model_config import parse_model_config
from nyquist.server.artifact.versions import wanted_versions
from nyquist.server.sources.store import RemoteFile, Store, Unreadable, in_words
from nyquist.server.sources.watch import Watch
from nyquist.server.wire.errors import ArtifactError, SourceError
from nyquist.server.wire.pb import model_config_pb2 as pb

REPOSITORY = "repository"
LONGEST_NAME = 255
BUSY_S = 0.1
CHUNK = 1 << 20

logger = logging.getLogger(__name__)

_DIGEST = re.compile("[0-9a-f]{64}")

Files = Mapping[str, RemoteFile]


class Damaged(SourceError):
    """What came is not what was promised: the next try may bring it."""


@dataclass
class _State:
    """What is known of blobs.

    Attributes:
        seen: tag, size and sha256 of each file that was fetched, by its path in the store.
        copies: sha256 of each file of the copy that is served, by model and path.
    """

    seen: dict[str, list[str | int | None]] = field(default_factory=dict)
    copies: dict[str, dict[str, str]] = field(default_factory=dict)


class Cache:
    """A folder for one source; several processes may share it.

    Args:
        folder: made if it is not there.
        watch: says when to stop.
        every_version: fetch every version that is whole, and not only those that a model's policy
            wants.

    Attributes:
        repository: the folder to serve.
    """

    def __init__(self, folder: Path, watch: Watch, *, every_version: bool = False) -> None:
        self._folder, self._watch, self._every_version = folder, watch, every_version
        self.repository = folder / REPOSITORY
        self._state, self._written = _State(), ""

    @property
    def names(self) -> set[str]:
        """The models that are here."""
        if not self.repository.is_dir():
            return set()
        return {entry.name for entry in self.repository.iterdir() if entry.name[0] != "."}

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            OSError: they cannot be written.
        """
        for name in (REPOSITORY, "copies", "blobs", "incoming"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)

    def update(self, store: Store, names: Sequence[str] | None) -> dict[str, SourceError]:
        """Bring models to what the store has.

        Args:
            store: of the source.
            names: of models; None is all, and those that are gone there are gone here.

        Returns:
            why models are not up to date, by name; their last copies are kept.

        Raises:
            SourceError: the store cannot be read, or holds no model any more.
            Stopping: it was told to stop.
        """
        with self._alone():
            self._watch.begin()
            self._read_state()
            models, refused = _by_model(_listing(store))
            if not models and self.names:
                raise SourceError("it holds no model any more")
            wanted = set(models) | self.names if names is None else set(names)
            try:
                failures = dict(refused)
                for name in sorted(wanted & models.keys() - refused.keys()):
                    try:
                        self._bring(name, models[name], store)
                    except Unreadable as error:
                        _listing(store)  # or it is not the file alone that cannot be read
                        failures[name] = (
                            SourceError(str(error)) if error.lasting else Damaged(error)
                        )
                    except (ArtifactError, SourceError, OSError) as error:
                        failures[name] = _as_source_error(name, error)
                for name in wanted & self.names - models.keys() - refused.keys():
                    self._drop(name)
                if not failures:
                    self._prune(models)
            finally:
                self._write_state()
            return {name: why for name, why in failures.items() if name in wanted | refused.keys()}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes out, and what those that were killed have left behind."""
        self.prepare()
        with (self._folder / "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._watch.pause(BUSY_S)
            for left in (self._folder / "incoming").iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            yield

    def _bring(self, name: str, files: Files, store: Store) -> None:
        """Make the copy of a model what the store has of it."""
        wanted = self._wanted(name, files, store)
        if not wanted:
            return
        known = {path: self._known(name, path, files[path]) for path in sorted(wanted)}
        promised: dict[str, str] = {}
        for path in known if not all(known.values()) else ():
            if path.endswith(f"/{MANIFEST_FILE}"):
                known[path] = self._fetch(name, path, files[path], "", store)
                promised |= _promises(self._blob(known[path]).read_bytes(), path, wanted)
        found = {
            path: digest or self._fetch(name, path, files[path], promised.get(path, ""), store)
            for path, digest in known.items()
        }
        if self._state.copies.get(name) == found and name in self.names:
            return
        bare = [path for path in found if not (promised.get(path) or files[path].sha256)]
        if any("/" in path and not path.endswith(MANIFEST_FILE) for path in bare):
            _still_there(files, wanted, _by_model(_listing(store))[0].get(name, {}))
        self._place(name, found)
        self._state.copies[name] = found
        versions = ", ".join(sorted({path.split("/")[0] for path in found if "/" in path}))
        logger.info("fetched %s, version %s, into %s", name, versions, self.repository)

    def _wanted(self, name: str, files: Files, store: Store) -> list[str]:
        """Return the files to have: all that is no version, and the versions that are wanted.

        None where no version is whole, as while the first one is uploaded.

        Raises:
            SourceError: none is whole any more.
        """
        config = pb.ModelConfig()
        if CONFIG_FILE in files:
            path, file = CONFIG_FILE, files[CONFIG_FILE]
            digest = self._fetch(name, path, file, "", store)
            with suppress(ArtifactError):  # the server tells of it when it loads the model
                config = parse_model_config(self._blob(digest).read_bytes(), Path(name, path))
        whole = whole_versions(files, config.default_model_filename or MODEL_FILE)
        if not whole and name in self.names:
            raise SourceError(f"{name}: no version of it is whole any more")
        if not whole:
            return []
        chosen = set(whole)
        if not self._every_version:
            chosen &= set(wanted_versions(whole, config.version_policy, name))
        return [
            path
            for path in files
            if not is_version(path.split("/")[0]) or int(path.split("/")[0]) in chosen
        ]

    def _known(self, name: str, path: str, file: RemoteFile) -> str:
        """Return the sha256 of a file that is here; empty if it is not."""
        tag, size, digest = self._state.seen.get(f"{name}/{path}", ("", None, ""))
        same = bool(file.tag) and (tag, size) == (file.tag, file.size)
        return str(digest) if same and self._blob(str(digest)).is_file() else ""

    def _fetch(self, name: str, path: str, file: RemoteFile, promised: str, store: Store) -> str:
        """Fetch a file, unless its bytes are here already; return its sha256."""
        if known := self._known(name, path, file):
            return known
        expected = promised or file.sha256
        if not (expected and self._blob(expected).is_file()):
            expected = self._download(name, path, file, expected, store)
        self._state.seen[f"{name}/{path}"] = [file.tag, file.size, expected]
        return expected

    def _download(self, name: str, path: str, file: RemoteFile, expected: str, store: Store) -> str:
        self._watch.check()
        target = self._folder / "incoming" / secrets.token_hex(8)
        with in_words(f"{name}/{path}"):
            try:
                store.fetch(f"{name}/{path}", target)
            except FileNotFoundError as error:
                raise Damaged(f"{name}/{path} is listed and not there") from error
        size = target.stat().st_size
        if file.size is not None and size != file.size:
            raise Damaged(f"{name}/{path} came with {size} bytes, it has {file.size}")
        with target.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
            os.fsync(content.fileno())
        if expected and found != expected:
            raise Damaged(f"{name}/{path} came with sha256 {found}, it has {expected}")
        target.rename(self._blob(found))
        return found

    def _place(self, name: str, found: Mapping[str, str]) -> None:
        """Put a copy of these files where it is served, in one step."""
        token = secrets.token_hex(4)
        fresh = self._folder / "incoming" / token
        for path, digest in found.items():
            target = fresh / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(self._blob(digest))
        for folder in {(fresh / path).parent for path in found} | {fresh}:
            _sync(folder)
        copies = self._folder / "copies" / name
        copies.mkdir(exist_ok=True)
        fresh.rename(copies / token)
        _sync(copies)
        served, link = self.repository / name, self.repository / f".{token}"
        before = served.readlink().name if served.is_symlink() else ""
        link.symlink_to(Path("..", "copies", name, token))
        link.replace(served)
        _sync(self.repository)
        for copy in copies.iterdir():
            if copy.name not in (token, before):
                shutil.rmtree(copy)

    def _drop(self, name: str) -> None:
        """Forget a model that the store has no more."""
        (self.repository / name).unlink()
        self._state.copies.pop(name, None)
        shutil.rmtree(self._folder / "copies" / name)

    def _prune(self, models: Mapping[str, Files]) -> None:
        """Delete blobs that no copy has, and forget files that the store has no more."""
        for blob in (self._folder / "blobs").iterdir():
            if blob.stat().st_nlink == 1:
                blob.unlink()
        there = {f"{name}/{path}" for name, files in models.items() for path in files}
        self._state.seen = {path: one for path, one in self._state.seen.items() if path in there}

    def _blob(self, digest: str) -> Path:
        return self._folder / "blobs" / digest

    def _read_state(self) -> None:
        self._state, self._written = _State(), ""
        with suppress(OSError, ValueError, TypeError):  # then it is as if nothing had been fetched
            self._written = (self._folder / "state.json").read_text()
            self._state = _State(**json.loads(self._written))

    def _write_state(self) -> None:
        text = json.dumps(vars(self._state))
        if text == self._written:
            return
        fresh = self._folder / "incoming" / "state.json"
        with fresh.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._folder / "state.json")


def is_version(name: str) -> bool:
    """Say whether a folder of a model is one of its versions, by its name."""
    return name.isascii() and name.isdecimal() and str(int(name)) == name != "0"


def whole_versions(paths: Mapping[str, object], model_file: str = MODEL_FILE) -> list[int]:
    """Return the versions that are whole, ascending.

    A version that a build has made is whole once its manifest is there, which is uploaded last. Any
    other is a graph, with nothing beside it that only a build puts there.

    Args:
        paths: of the files of a model.
        model_file: name of the graph.
    """
    beside: dict[int, set[str]] = {}
    for path in paths:
        folder, _, name = path.partition("/")
        if is_version(folder):
            beside.setdefault(int(folder), set()).add(name)
    return sorted(
        number
        for number, names in beside.items()
        if MANIFEST_FILE in names or (model_file in names and names.isdisjoint(BESIDE_A_GRAPH))
    )


def _listing(store: Store) -> Files:
    with in_words():
        return store.listing()


def _by_model(listing: Files) -> tuple[dict[str, dict[str, RemoteFile]], dict[str, SourceError]]:
    """Return the files of each model, and why models with hostile names are refused.

    Files beside the models, and all whose names begin with a dot, are none of theirs.
    """
    models: dict[str, dict[str, RemoteFile]] = {}
    refused: dict[str, SourceError] = {}
    for path, file in listing.items():
        name, *rest = path.split("/")
        if not _plain(path):
            refused[name] = SourceError(
                f"{path[:LONGEST_NAME]!r} is no path below a model: refused"
            )
        elif rest and not any(part.startswith(".") for part in (name, *rest)):
            models.setdefault(name, {})["/".join(rest)] = file
    return models, refused


def _plain(path: str) -> bool:
    """Say whether a path stays below the folder that it is put into."""
    parts = path.split("/")
    return (
        path.isprintable()
        and "\\" not in path
        and not {"", ".", ".."}.intersection(parts)
        and all(len(part.encode()) <= LONGEST_NAME for part in parts)
    )


def _promises(manifest: bytes, path: str, wanted: Sequence[str]) -> dict[str, str]:
    """Return the sha256 of each file of a version, as its manifest says.

    Raises:
        SourceError: a file that it names is not there.
    """
    folder = path.removesuffix(MANIFEST_FILE)
    try:
        files = dict(json.loads(manifest)["files"])
    except (ValueError, KeyError, TypeError):
        return {}  # the server tells of it when it loads the model
    listed = {name: str(digest) for name, digest in files.items() if name.startswith(folder)}
    for name, digest in listed.items():
        if not _DIGEST.fullmatch(digest):
            raise SourceError(f"{path} has {digest[:80]!r} as the sha256 of {name}")
    if lacking := sorted(listed.keys() - set(wanted)):
        raise SourceError(f"{lacking[0]} is not there, {path} names it")
    return listed


def _still_there(before: Files, wanted: Sequence[str], now: Files) -> None:
    """Refuse files that were exchanged while they came: no manifest says that they fit together.

    Raises:
        Damaged: they were.
    """
    for path in wanted:
        if now.get(path) != before[path]:
            raise Damaged(f"{path} was changed while it was fetched")


def _as_source_error(name: str, error: Exception) -> SourceError:
    if isinstance(error, SourceError):
        return error
    if isinstance(error, OSError):
        return SourceError(f"{name}: the cache cannot be written: {error.strerror or error}")
    return SourceError(str(error))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
