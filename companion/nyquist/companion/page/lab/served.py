"""The models that the lab can ask: of one server or of several, each version by itself.

index -> description -> Listed, or why it cannot be asked -> Subject, with its labels
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any

import grpc
from numpy.typing import NDArray

from nyquist.client.client import Client, RemoteModel
from nyquist.client.told import Told
from nyquist.server.wire.connection import Connection
from nyquist.server.wire.errors import InvalidRequest, ModelNotReady
from nyquist.server.wire.framing import PictureInput

UNSTATED_BATCH = 8
"""Pictures of a call where nobody says how many a request may hold; as in nyquist check."""

MOST_A_CALL = 16
"""Pictures of a call at most: the server's own callers wait behind it, and progress is seen."""


@dataclass(frozen=True)
class Target:
    """A server.

    Attributes:
        connection: to it.
        client: that calls it, with that connection.
    """

    connection: Connection
    client: Client

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Say what a server, or the way there, had against a call: raise ModelNotReady with it."""
        try:
            yield
        except grpc.RpcError as error:
            raise ModelNotReady(self.connection.explain(error)) from error


@dataclass(frozen=True)
class Subject:
    """A model that is asked.

    Attributes:
        id: that a browser asks for it by.
        target: whose it is.
        remote: as the server describes it.
        wanted: what a picture becomes for it.
    """

    id: str
    target: Target
    remote: RemoteModel
    wanted: PictureInput

    @property
    def most(self) -> int:
        """Pictures of a call."""
        return min(self.remote.max_batch_size or UNSTATED_BATCH, MOST_A_CALL)

    def answer(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """Ask the server. (B, ...) -> (B, C). Raises ModelNotReady if it does not answer."""
        with self.target.explained():
            return self.target.client.infer(self.remote, pictures)


class Models:
    """Finds what is served, and asks it. Safe to use from several threads.

    Args:
        targets: the servers.
        told: of a model whose server does not say it.
        names: of the models that are looked at; none for all that the servers list.
    """

    def __init__(
        self, targets: Sequence[Target], told: Told | None = None, names: Sequence[str] = ()
    ) -> None:
        self.targets, self._told, self._names = targets, told or Told(), names
        self._labels: dict[tuple[str, str], tuple[str, ...]] = {}
        self._lock = Lock()

    def listed(self) -> list[dict[str, object]]:
        """Return every version that is served, with what a person chooses it by."""
        return [one for at in range(len(self.targets)) for one in self._of(at)]

    def _of(self, at: int) -> list[dict[str, object]]:
        target = self.targets[at]
        try:
            with target.explained():
                return [
                    self._told_of(f"{at}/{name}/{version}")
                    for name in self._names or self._ready(target)
                    for version in target.client.describe(name).versions or ("",)
                ]
        except ModelNotReady as error:
            return [{"target": target.connection.target, "reason": str(error)}]

    def _ready(self, target: Target) -> list[str]:
        return sorted({one.name for one in target.client.index() if one.state == "READY"})

    def _told_of(self, one: str) -> dict[str, object]:
        at, _, rest = one.partition("/")
        name, _, version = rest.rpartition("/")
        target = self.targets[int(at)].connection.target
        known: dict[str, object] = {"id": one, "name": name, "version": version, "target": target}
        try:
            subject = self.find(one)
        except InvalidRequest as error:
            return known | {"reason": str(error)}
        wanted = subject.wanted
        return known | {
            "channels": wanted.channels,
            "size": [wanted.height, wanted.width] if wanted.most is None else None,
            "provider": subject.remote.provider.removesuffix("ExecutionProvider"),
        }

    def find(self, one: str) -> Subject:
        """Return a model by its id.

        Raises:
            InvalidRequest: there is none, or it cannot be asked for answers to pictures.
            ModelNotReady: its server does not have it, or does not answer.
        """
        at, _, rest = one.partition("/")
        name, slash, version = rest.rpartition("/")
        if not (slash and at.isdecimal() and int(at) < len(self.targets)):
            raise InvalidRequest(f"no model {one!r}; /lab/models lists those that there are")
        target = self.targets[int(at)]
        try:
            with target.explained():
                remote = target.client.describe(name, version).completed(self._told)
        except ValueError as error:
            raise InvalidRequest(str(error)) from error
        if remote.head.kind == "embedding":
            raise InvalidRequest(f"{name} gives an embedding: it has no answers that could flip")
        if remote.picture is None:
            raise InvalidRequest(
                f"{name} takes {remote.datatype} {remote.shape}, which no picture is"
            )
        return Subject(one, target, remote, remote.picture)

    def labels(self, subject: Subject, picture: NDArray[Any]) -> tuple[str, ...]:
        """Return the names of a model's classes; none where its server has none.

        They come with the answer to a picture, once for each graph whose checksum is told.

        Args:
            subject: the model.
            picture: that it takes.

        Raises:
            ModelNotReady: its server does not answer.
        """
        key = (subject.id, subject.remote.sha256)
        with self._lock:
            known = self._labels.get(key) if subject.remote.sha256 else None
        if known is not None:
            return known
        with subject.target.explained():
            (ranked,) = subject.target.client.classify(subject.remote, picture[None])
        names = {one.index: one.label for one in ranked if one.label}
        found = tuple(names.get(at, f"class {at}") for at in range(len(ranked))) if names else ()
        with self._lock:
            self._labels[key] = found
        return found
