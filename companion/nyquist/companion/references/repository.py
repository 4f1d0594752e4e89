"""What served graphs are held against: the references of a repository, loaded once.

name, version, sha256 of the served graph -> manifest -> same graph? -> weights -> LoadedReference
"""

from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Protocol

import grpc
import numpy as np
from numpy.typing import NDArray

from nyquist.companion.references.description import describe_apart
from nyquist.companion.references.network import load_reference, load_samples
from nyquist.models.spec import Preprocessing
from nyquist.server.artifact.layout import complete_versions, model_folders, read_config
from nyquist.server.artifact.manifest import (
    LABELS_FILE,
    Manifest,
    Tolerances,
    read_manifest,
)
from nyquist.server.wire.errors import ArtifactError, NyquistError
from nyquist.server.wire.framing import Layout
from nyquist.server.wire.head import CLASSES, Head
from nyquist.server.wire.signature import TensorSpec

BATCH_SIZES = (1, 3, 8)
TRIALS_A_CALL = 4
"""Pictures of a call for shifts: few, because the server's own callers wait for them."""


class Unverifiable(NyquistError):
    """The served version has no reference here, or is not the graph that its reference is of."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.FAILED_PRECONDITION


class Answers(Protocol):
    """What served answers are held against."""

    @property
    def words(self) -> str:
        """What computes them, as people are told."""

    def predict(self, pictures: NDArray[Any], /) -> NDArray[Any]:
        """Compute the answers. (B, *input shape) -> (B, C)."""


@dataclass(frozen=True)
class LoadedReference:
    """What is known of a version: its pictures, and what its answers to them are held against.

    Attributes:
        manifest: what it is; None where nothing but the server's answers is known.
        reference: that computes what it should answer; None where there is none.
        pictures: reference images, as the input wants them, (N, ...).
        labels: of its classes; empty where it has none.
        max_batch_size: pictures that a request may hold.
        input: what it takes.
        layout: order of the axes of one picture.
        tolerances: that it is held to; None where nobody says any.
    """

    manifest: Manifest | None
    reference: Answers | None
    pictures: NDArray[Any]
    labels: tuple[str, ...]
    max_batch_size: int
    input: TensorSpec
    layout: Layout
    tolerances: Tolerances | None

    @property
    def head(self) -> Head:
        """How its answers are read: as classes where nobody says."""
        return self.manifest.head if self.manifest else CLASSES

    @property
    def axes(self) -> tuple[int, int]:
        """Axes of height and width in a batch."""
        return Preprocessing(self.layout).shift_axes

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The sizes that latency is measured at, of those that the server takes."""
        return tuple(size for size in BATCH_SIZES if size <= self.max_batch_size)

    @property
    def trials_a_call(self) -> int:
        """Pictures that are shifted at once."""
        return min(TRIALS_A_CALL, self.max_batch_size)


class References:
    """Every reference of a repository; safe to use from several threads.

    Args:
        repository: folder of the artifacts, looked at again for each question.
    """

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._known: dict[tuple[str, int], LoadedReference] = {}
        self._described: dict[tuple[str, int], tuple[Manifest, bytes]] = {}
        self._lock = Lock()

    def exist(self) -> bool:
        """Say whether there is a repository."""
        return self._repository.is_dir()

    def names(self) -> list[str]:
        """Return the models of the repository. Raises ArtifactError if it is no folder."""
        return [folder.name for folder in model_folders(self._repository)]

    def get(self, name: str, version: int, sha256: str | None) -> LoadedReference:
        """Return the reference of a graph that is served.

        Args:
            name: of the model.
            version: that is served; 0 is the latest, for a server that has no versions.
            sha256: of the graph that is served; empty where the server does not say, and None takes
                the reference for any: then its answers alone tell whether it is that graph.

        Raises:
            Unverifiable: there is none; the message says why.
        """
        folder = self._repository / name
        with self._lock:
            try:
                manifest = self._manifest(folder, version)
                if sha256 and manifest.graph_sha256 != sha256:
                    raise Unverifiable(
                        f"the server runs a graph of {name!r} version {version} with sha256 "
                        f"{sha256}, the reference is of {manifest.graph_sha256}"
                    )
                return self._loaded(folder, manifest)
            except ArtifactError as error:
                self._known.pop((name, version), None)
                reason = str(error).replace(f"{self._repository}/", "")  # our paths are our own
                raise Unverifiable(
                    f"the reference of {name!r} version {version} cannot be used: {reason}"
                ) from error

    def describe(self, manifest: Manifest) -> bytes:
        """Return a serialised ModelDescription of a version; see `description.describe_apart`."""
        key = (manifest.name, manifest.version)
        if self._described.get(key, (None, b""))[0] != manifest:
            folder = self._repository / manifest.name
            self._described[key] = manifest, describe_apart(folder, manifest)
        return self._described[key][1]

    def loaded(self, name: str, version: int, sha256: str) -> LoadedReference:
        """Return the same without a look at the files, where it was loaded before."""
        with self._lock:
            known = self._known.get((name, version))
        if known is not None and known.manifest and known.manifest.graph_sha256 == sha256:
            return known
        return self.get(name, version, sha256)

    def _manifest(self, folder: Path, version: int) -> Manifest:
        has = complete_versions(folder) if folder.is_dir() else []
        if not version and has:
            version = has[-1]
        if version not in has:
            raise Unverifiable(
                f"there is no reference of {folder.name!r} version {version}, "
                f"only of {', '.join(map(str, has)) or 'none'}"
            )
        return read_manifest(folder, version)

    def _loaded(self, folder: Path, manifest: Manifest) -> LoadedReference:
        key = (manifest.name, manifest.version)
        known = self._known.get(key)
        if known is None or known.manifest != manifest:
            known = self._known[key] = load_known(folder, manifest)
        return known


def load_known(folder: Path, manifest: Manifest) -> LoadedReference:
    """Load what a version is verified with. Raises ArtifactError if a file is damaged."""
    labels = manifest.read_file(folder, f"{manifest.version}/{LABELS_FILE}")
    return LoadedReference(
        manifest=manifest,
        reference=load_reference(folder, manifest),
        pictures=np.ascontiguousarray(load_samples(folder, manifest).images.numpy()),
        labels=tuple(labels.decode().splitlines()),
        max_batch_size=read_config(folder, manifest).max_batch_size,
        input=manifest.input,
        layout=manifest.preprocessing.layout,
        tolerances=manifest.tolerances,
    )
