"""What is known of a served model: from its reference, from its server, from whoever asks.

RemoteModel -> reference of that graph, or none of that name -> LoadedReference -> RemoteModel
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from numpy.typing import NDArray

from nyquist.client.client import Client, RemoteModel
from nyquist.client.told import Told
from nyquist.companion.references.given import TOLERANCES
from nyquist.companion.references.repository import (
    BATCH_SIZES,
    Answers,
    LoadedReference,
    References,
    Unverifiable,
)
from nyquist.models.samples import photographs
from nyquist.server.wire.signature import ANY_SIZE, DYNAMIC, TensorSpec


@dataclass(frozen=True)
class AsSent:
    """A reference that somebody gave, asked for what the server is sent.

    Attributes:
        given: takes what the server takes.
        remote: that says how pictures are sent.
    """

    given: Answers
    remote: RemoteModel

    @property
    def words(self) -> str:
        """What computes the answers, as people are told."""
        return self.given.words

    def predict(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """Compute the answers. (B, ...) -> (B, C). Raises Unverifiable if it does not take them."""
        sent = self.remote.normalised(pictures)
        try:
            return self.given.predict(sent)
        except Exception as error:  # of pictures that do not fit, PyTorch and onnxruntime raise any
            reason = str(error).strip().partition("\n")[0]
            raise Unverifiable(
                f"the reference does not take {self.remote.datatype} {sent.shape}: {reason}"
            ) from error


class Subjects:
    """Finds what a served model is held against; safe to use from several threads.

    A server of the Open Inference Protocol need not say what a model takes: the reference does, or
    whoever asks. A model without a reference is moved, and compared with nothing.

    Args:
        client: of the server.
        references: of its models.
        told: of a model whose server does not say it.
        models: that are looked at; none for those of the references.
        given: reference of the one model, in place of the repository's.

    Raises:
        ValueError: there is a reference, but not one model.
    """

    def __init__(
        self,
        client: Client,
        references: References,
        told: Told | None = None,
        models: Sequence[str] = (),
        given: Answers | None = None,
    ) -> None:
        if given and len(models) != 1:
            raise ValueError(
                f"--reference is of one model: name it with --model, got {len(models)} of them"
            )
        self.client, self.references = client, references
        self._told, self._models, self._given = told or Told(), models, given

    def names(self) -> Sequence[str]:
        """Return the models that are looked at. Raises ArtifactError if there is no repository."""
        return self._models or self.references.names()

    def known(self, remote: RemoteModel, *, any_graph: bool = False) -> LoadedReference:
        """Return what a served version is held against.

        Args:
            remote: as the server describes it.
            any_graph: take the reference for whatever graph is served.

        Raises:
            Unverifiable: the reference is of another graph, or damaged.
            ValueError: neither a reference nor the server nor the caller says what it takes.
        """
        if remote.name not in self._referenced():
            return self._without_reference(remote)
        sha256 = None if any_graph else remote.sha256
        known = self.references.get(remote.name, number_of(remote.version), sha256)
        most = remote.max_batch_size or self._told.max_batch_size or known.max_batch_size
        return replace(known, max_batch_size=most) if most < known.max_batch_size else known

    def completed(self, remote: RemoteModel, known: LoadedReference) -> RemoteModel:
        """Return a model with all that is known of it."""
        told = self._told
        if not told.datatype:
            taken = known.input
            told = replace(told, input=taken.name, datatype=taken.datatype, shape=taken.shape)
        if not told.output and known.manifest:
            told = replace(told, output=known.manifest.outputs[0].name)
        return remote.completed(told)

    def _referenced(self) -> Sequence[str]:
        """Return the models with references; with models that are named, none need have one."""
        if self._given or (self._models and not self.references.exist()):
            return ()
        return self.references.names()

    def _without_reference(self, remote: RemoteModel) -> LoadedReference:
        """Return what can be asked of a model all the same, with the photographs of the zoo."""
        remote = remote.completed(self._told)
        pictures = remote.read_pictures([one.path for one in photographs()])
        layout = remote.picture.layout if remote.picture else "CHW"
        least, most = (
            tuple(bound if size == DYNAMIC else size for size in remote.shape)
            for bound in (1, ANY_SIZE)
        )
        return LoadedReference(
            manifest=None,
            reference=AsSent(self._given, remote) if self._given else None,
            pictures=pictures,
            labels=(),
            max_batch_size=remote.max_batch_size or BATCH_SIZES[-1],
            input=TensorSpec(
                name=remote.input,
                datatype=remote.datatype,
                shape=remote.shape,
                least=least,
                most=most,
            ),
            layout=layout,
            tolerances=TOLERANCES if self._given else None,
        )


def number_of(version: str) -> int:
    """Return the number of a version, or 0, which none has, if it is no number."""
    return int(version) if version.isascii() and version.isdecimal() else 0
