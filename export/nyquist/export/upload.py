"""Bring versions of models into a bucket, so that no reader sees half of one.

versions that are whole here -> those that are not whole there -> files that are not there, the
graph after what lies beside it -> config.pbtxt -> the manifest, which makes the version one
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nyquist.server.artifact.layout import complete_versions
from nyquist.server.artifact.manifest import (
    CONFIG_FILE,
    LABELS_FILE,
    MANIFEST_FILE,
    MODEL_FILE,
    Manifest,
    read_manifest,
)
from nyquist.server.sources.address import Address, parse_repository
from nyquist.server.sources.store import Unreadable, in_words, open_files
from nyquist.server.wire.errors import ArtifactError, NyquistError, StartError

WRITABLE = ("s3", "gs", "az")
STALL_S = 30.0
TRIES = 3

_MD5 = re.compile("[0-9a-f]{32}")


class PublishError(NyquistError):
    """A version cannot be brought there; what was there is as it was."""


def parse_target(text: str) -> Address:
    """Return the address that models are published to.

    Raises:
        PublishError: it is none, or none that is written to.
    """
    try:
        address = parse_repository(text)
    except StartError as error:
        raise PublishError(str(error).removeprefix("repository: ")) from error
    if isinstance(address, Path) or address.scheme not in WRITABLE:
        schemes = ", ".join(f"{scheme}://" for scheme in WRITABLE)
        raise PublishError(
            f"{text} cannot be published to, only {schemes} addresses can; a folder is --output, a "
            "registry takes oras push, and the Hub hf upload"
        )
    return address


@dataclass(frozen=True)
class Uploaded:
    """What was brought there of one model.

    Attributes:
        versions: that were not there.
        bytes: of the files that were not.
        edited: whether config.pbtxt was edited there, and stays as it is.
    """

    versions: tuple[int, ...]
    bytes: int
    edited: bool


class Target:
    """A repository in a bucket.

    Args:
        address: of it.

    Raises:
        PublishError: it cannot be read, or what it needs is not installed.
    """

    def __init__(self, address: Address) -> None:
        self._address = address
        try:
            self._files = open_files(address, STALL_S)
        except ImportError as error:
            raise PublishError(
                f"{address} needs the extra sources of nyquist: "
                "pip install 'nyquist-serving[sources]'"
            ) from error
        if hasattr(self._files, "retries"):  # of S3, which waits longer before each further one
            self._files.retries = TRIES
        try:
            with in_words():
                self._files.find(address.place)
        except Unreadable as error:
            raise PublishError(f"{address} cannot be read: {error}") from error

    def publish(self, folder: Path) -> Uploaded:
        """Bring the versions of a model there that are not.

        Args:
            folder: of the model, here.

        Raises:
            PublishError: a version has other content there, or it cannot be written.
        """
        try:
            with in_words():
                return self._publish(folder)
        except ArtifactError as error:
            raise PublishError(f"it is not published: {error}") from error
        except Unreadable as error:
            raise PublishError(
                f"{self._address}/{folder.name} cannot be written: {error}; the same command goes "
                "on where this one ended"
            ) from error

    def _publish(self, folder: Path) -> Uploaded:
        there = self._listing(folder.name)
        theirs = {
            int(path.split("/")[0]): self._manifest(folder.name, path)
            for path in there
            if path.endswith(f"/{MANIFEST_FILE}")
        }
        uploaded: list[int] = []
        size, edited = 0, False
        for number in complete_versions(folder):
            manifest = read_manifest(folder, number)
            if number in theirs:
                self._compare(manifest, theirs[number])
                continue
            paths = _in_order(manifest)
            edited = _is_edited(self._digest(folder.name, CONFIG_FILE, there), theirs)
            if edited:
                paths.remove(CONFIG_FILE)
            size += sum(self._put(folder, path, there) for path in paths)
            uploaded.append(number)
            theirs[number] = dict(manifest.files)
        return Uploaded(tuple(uploaded), size, edited)

    def _listing(self, name: str) -> dict[str, Mapping[str, Any]]:
        self._files.invalidate_cache()
        root = f"{self._address.place}/{name}"
        found = self._files.find(root, detail=True)
        return {path.removeprefix(f"{root}/"): info for path, info in found.items()}

    def _manifest(self, name: str, path: str) -> dict[str, str]:
        content = self._files.cat_file(f"{self._address.place}/{name}/{path}")
        try:
            return Manifest.model_validate_json(content).files
        except ValidationError as error:
            raise PublishError(f"{self._address}/{name}/{path} is no manifest") from error

    def _compare(self, ours: Manifest, theirs: Mapping[str, str]) -> None:
        """Refuse a version that is there with other files."""
        folder = f"{ours.version}/"
        for path, digest in ours.files.items():
            if path.startswith(folder) and theirs.get(path) != digest:
                raise PublishError(
                    f"{self._address}/{ours.name} has a version {ours.version} with another "
                    f"{path}: sha256 {theirs.get(path)}, here it is {digest}; a version is never "
                    "written over: build on the versions that are there, or delete it there first"
                )

    def _digest(self, name: str, path: str, there: Mapping[str, object]) -> str:
        if path not in there:
            return ""
        content = self._files.cat_file(f"{self._address.place}/{name}/{path}")
        return hashlib.sha256(content).hexdigest()

    def _put(self, folder: Path, path: str, there: Mapping[str, Mapping[str, Any]]) -> int:
        """Upload a file, unless the store says that it is there; return the bytes that went."""
        file = folder / path
        if path in there and _is_same(there[path], file):
            return 0
        # Of two that publish at a time the second is refused where the store can do so.
        once = path.endswith(MANIFEST_FILE) and self._address.scheme in ("s3", "gs")
        mode = {"mode": "create"} if once else {}
        self._files.put_file(str(file), f"{self._address.place}/{folder.name}/{path}", **mode)
        return file.stat().st_size


def _in_order(manifest: Manifest) -> list[str]:
    """Return the files of a version as they are uploaded.

    Until its manifest is there, a reader must not take what is for a graph that was put there by
    hand: labels go first, which only a build puts beside one.
    """
    number = manifest.version
    own = [path for path in manifest.files if path.startswith(f"{number}/")]
    ranks = {f"{number}/{LABELS_FILE}": 0, f"{number}/{MODEL_FILE}": 2}
    own.sort(key=lambda path: (ranks.get(path, 1), path))
    shared = [path for path in (LABELS_FILE, CONFIG_FILE) if path in manifest.files]
    return [*own, *shared, f"{number}/{MANIFEST_FILE}"]


def _is_edited(digest: str, versions: Mapping[int, Mapping[str, str]]) -> bool:
    """Say whether a config.pbtxt is there that no build has written."""
    built = {files.get(CONFIG_FILE) for files in versions.values()}
    return bool(digest and versions) and digest not in built


def _is_same(info: Mapping[str, Any], file: Path) -> bool:
    """Say whether a store knows the MD5 of what it has, and it is that of a file here."""
    if info["size"] != file.stat().st_size:
        return False
    tag = str(info.get("ETag", "")).strip('"')
    settings = info.get("content_settings") or {}
    raw = settings.get("content_md5")
    known = {
        tag if _MD5.fullmatch(tag) else "",
        base64.b64decode(info.get("md5Hash", "")).hex(),
        bytes(raw).hex() if raw else "",
    }
    with file.open("rb") as content:
        return hashlib.file_digest(content, "md5").hexdigest() in known
