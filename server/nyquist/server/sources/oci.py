"""Models in a container registry, as `oras push` or an image holds them.

manifest -> layers -> a titled file as it is; of a tar what is in it, unpacked once a digest

A registry tells a blob's digest and not what a tar holds: a tar is fetched to be listed, and what
it holds is noted beside the cache, so that it is fetched once.
"""

import hashlib
import ipaddress
import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import oras.provider
import requests
from requests.adapters import HTTPAdapter

from nyquist.server.sources.address import Address
from nyquist.server.sources.store import RemoteFile
from nyquist.server.sources.watch import Watch
from nyquist.server.wire.errors import SourceError

ACCEPTED = (
    "application/vnd.oci.image.manifest.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)
TITLE = "org.opencontainers.image.title"
UNPACK = "io.deis.oras.content.unpack"
CHUNK = 1 << 20

_TAR = re.compile(r".*[.+]tar([.+]gzip)?$")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class _Registry(oras.provider.Registry):  # type: ignore[misc] # oras has no types
    """Asks once: who calls tries again, and not for minutes."""

    do_request = oras.provider.Registry.do_request.__wrapped__


class _Patient(HTTPAdapter):
    """Gives every request a time."""

    def __init__(self, stall_s: float) -> None:
        super().__init__()
        self._stall_s = stall_s

    def send(self, request: Any, **options: Any) -> requests.Response:  # type: ignore[override]  # noqa: ANN401 - as requests has it
        return super().send(request, **{**options, "timeout": self._stall_s})


class OciStore:
    """A tag or a digest of a repository of a registry.

    Args:
        address: registry/name:tag or registry/name@sha256:digest.
        stall_s: seconds without a byte after which a request has failed.
        watch: hears of every chunk of a blob.
        folder: for what was unpacked, and for notes of what layers hold.
    """

    def __init__(self, address: Address, stall_s: float, watch: Watch, folder: Path) -> None:
        self._watch, self._folder = watch, folder
        host = address.place.partition("/")[0]
        self._registry = _Registry(insecure=_is_here(host))
        self._container = self._registry.get_container(address.place)
        for prefix in ("http://", "https://"):
            self._registry.session.mount(prefix, _Patient(stall_s))
        self._blobs: dict[str, str] = {}
        self._layers: dict[str, str] = {}

    def listing(self) -> Mapping[str, RemoteFile]:
        self._folder.mkdir(parents=True, exist_ok=True)
        found: dict[str, RemoteFile] = {}
        self._blobs, self._layers = {}, {}
        layers = [_Layer(one) for one in self._manifest()["layers"]]
        for layer in layers:
            if layer.is_tar:
                held = self._held(layer)
                found |= held
                self._layers |= dict.fromkeys(held, layer.sha256)
            elif layer.title:
                found[layer.title] = RemoteFile(layer.size, layer.sha256, layer.sha256)
                self._blobs[layer.title] = layer.sha256
        kept = {layer.sha256 for layer in layers}
        for one in self._folder.iterdir():
            if one.name.partition(".")[0] not in kept:
                shutil.rmtree(one) if one.is_dir() else one.unlink()
        return found

    def fetch(self, path: str, target: Path) -> None:
        if path in self._blobs:
            self._download(self._blobs[path], target)
            return
        digest = self._layers[path]
        unpacked = self._folder / digest / hashlib.sha256(path.encode()).hexdigest()
        if not unpacked.is_file():  # it was taken before, and the cache has lost it
            self._unpack(digest)
        unpacked.rename(target)

    def _manifest(self) -> Any:  # noqa: ANN401 - JSON
        self._registry.auth.load_configs(self._container)
        url = f"{self._registry.prefix}://{self._container.manifest_url()}"
        answer = self._registry.do_request(url, headers={"Accept": ACCEPTED})
        answer.raise_for_status()
        asked, found = self._container.digest, hashlib.sha256(answer.content).hexdigest()
        if asked and asked != f"sha256:{found}":
            raise SourceError(f"the manifest came with sha256 {found}, {asked} was asked for")
        manifest = answer.json()
        if "layers" not in manifest:
            raise SourceError("it is no image and no artifact; name one of an index by its digest")
        return manifest

    def _held(self, layer: "_Layer") -> dict[str, RemoteFile]:
        """Return what a tar holds, from the note of it or from itself."""
        with suppress(OSError, ValueError, TypeError):
            note = json.loads((self._folder / f"{layer.sha256}.json").read_text())
            return {path: RemoteFile(*one) for path, one in note.items()}
        return self._unpack(layer.sha256)

    def _unpack(self, digest: str) -> dict[str, RemoteFile]:
        """Fetch a tar, lay its files down by the sha256 of their paths, and note what they are."""
        fresh = self._folder / f"{digest}.part"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        archive = self._folder / f"{digest}.tar"
        self._download(digest, archive)
        held: dict[str, RemoteFile] = {}
        with tarfile.open(archive) as tar:
            for member in tar:
                self._watch.check()
                path = member.name.removeprefix("./")
                if member.isdir() or any(part.startswith(".wh.") for part in path.split("/")):
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise SourceError(f"{path!r} is no file: links and devices are refused")
                place = fresh / hashlib.sha256(path.encode()).hexdigest()
                with place.open("wb") as file:
                    shutil.copyfileobj(content, file, CHUNK)
                with place.open("rb") as file:
                    found = hashlib.file_digest(file, "sha256").hexdigest()
                held[path] = RemoteFile(member.size, found, found)
        archive.unlink()
        shutil.rmtree(self._folder / digest, ignore_errors=True)
        fresh.rename(self._folder / digest)
        note = {path: [one.size, one.tag, one.sha256] for path, one in held.items()}
        (self._folder / f"{digest}.json").write_text(json.dumps(note))
        return held

    def _download(self, digest: str, target: Path) -> None:
        answer = self._registry.get_blob(self._container, f"sha256:{digest}", stream=True)
        with answer, target.open("wb") as file:
            answer.raise_for_status()
            found = hashlib.sha256()
            for chunk in answer.iter_content(CHUNK):
                self._watch.received(len(chunk))
                found.update(chunk)
                file.write(chunk)
        if found.hexdigest() != digest:
            raise OSError(f"a blob came with sha256 {found.hexdigest()}, it has {digest}")


class _Layer:
    """One of a manifest."""

    def __init__(self, described: Mapping[str, Any]) -> None:
        matched = _DIGEST.fullmatch(described["digest"])
        if matched is None:
            raise SourceError(f"a layer has the digest {described['digest']!r}, one is sha256:...")
        self.sha256 = matched[1]
        self.size = int(described["size"])
        notes = described.get("annotations") or {}
        self.title = str(notes.get(TITLE, ""))
        kind = str(described["mediaType"])
        # A file that is pushed has the type of a plain tar too, unless another is named.
        packed = kind.endswith("tar+gzip") or notes.get(UNPACK) == "true"
        self.is_tar = packed if self.title else bool(_TAR.fullmatch(kind))


def _is_here(host: str) -> bool:
    """Say whether a registry is on this machine: those are asked without TLS, as Docker does."""
    name = host.rpartition(":")[0] or host
    with suppress(ValueError):
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    return name == "localhost"
