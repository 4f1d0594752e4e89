"""A client of the Open Inference Protocol: arrays in, arrays or named classes out.

>>> Client("localhost:8001").close()  # no call, no connection
>>> RankedClass(logit=11.5, index=967, label="espresso").label
'espresso'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from nyquist.server.wire import tensors
from nyquist.server.wire.connection import NO_SHADOW, Connection, Metadata
from nyquist.server.wire.framing import DATATYPES, PictureInput, told_picture_input
from nyquist.server.wire.head import CLASSES, Head, told_head
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from nyquist.server.wire.pictures import read_picture_files

MAX_MESSAGE_BYTES = 2**31 - 1  # the server has the limit that counts
DEFAULT_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class RemoteModel:
    """What a server says of a model.

    Attributes:
        name: as asked for.
        version: that answers, and that is asked for pictures.
        versions: all that are served, ascending.
        input: name of the one input.
        datatype: of the input, as the protocol spells it.
        shape: of one picture, without the batch.
        outputs: shape of each output for one picture, by name.
        provider: execution provider that runs it; empty where the server does not say.
        sha256: of its graph, hexadecimal; empty where the server does not say.
        head: how its first output is read; classes where the server does not say.
        picture: what a picture file becomes for it, as the server itself would read it; None where
            the input is no picture.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    input: str
    datatype: str
    shape: tuple[int, ...]
    outputs: Mapping[str, tuple[int, ...]]
    provider: str
    sha256: str
    picture: PictureInput | None
    head: Head = CLASSES

    @property
    def answer(self) -> str:
        """Name of its first output, which is the answer."""
        return next(iter(self.outputs))

    def read_pictures(self, paths: Sequence[Path]) -> NDArray[Any]:
        """Read picture files as a batch of inputs, as the server would read them: (B, *shape).

        Where the input is of dynamic size, the first picture says it.

        Raises:
            OSError: a file cannot be read.
            InvalidRequest: one is no picture, is damaged or too large.
            ValueError: the model takes no pictures.
        """
        if self.picture is None:
            raise ValueError(
                "pictures are made into inputs of 1 or 3 channels, (C, H, W) or (H, W, C) of "
                f"{', '.join(DATATYPES)}; {self.name} takes {self.datatype} {self.shape}"
            )
        return read_picture_files(paths, self.picture)


@dataclass(frozen=True)
class RankedClass:
    """One class of an answer.

    Attributes:
        logit: its value among the numbers of the answer: a probability where those are some.
        index: its place among them.
        label: its name; empty where the model has none.
    """

    logit: float
    index: int
    label: str


@dataclass(frozen=True)
class IndexEntry:
    """One line of a server's index.

    Attributes:
        name: of the model.
        version: of it; empty where the server does not say.
        state: READY, LOADING, UNLOADING or UNAVAILABLE.
        reason: why it is not ready; empty if it is.
    """

    name: str
    version: str
    state: str
    reason: str


class _CallOptions(TypedDict):
    timeout: float
    metadata: Metadata


class Client:
    """Calls one server; safe to use from several threads. Close it, or use it with `with`.

    Every method raises grpc.RpcError as the server or the connection has it, and
    WrongConnection where the token can no longer be read.

    Args:
        connection: to the server; or its host:port, without TLS and token.
        timeout_s: deadline of each call, in seconds.
        mirrored: whether the server may mirror the calls; a companion's own are not live traffic.

    Raises:
        WrongConnection: the connection's files cannot be used.
    """

    def __init__(
        self,
        connection: Connection | str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        mirrored: bool = True,
    ) -> None:
        if isinstance(connection, str):
            connection = Connection(connection)
        self._connection, self._timeout_s = connection, timeout_s
        self._about: Metadata = () if mirrored else ((NO_SHADOW, "1"),)
        self._channel = connection.channel(
            (
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
            )
        )
        self._stub = stubs.GRPCInferenceServiceStub(self._channel)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; running calls are cancelled."""
        self._channel.close()

    def ready(self, model: str = "") -> bool:
        """Say whether the server, or one model of it, is ready."""
        if not model:
            request = pb.ServerReadyRequest()
            return self._stub.ServerReady(request, **self._call()).ready
        asked = pb.ModelReadyRequest(name=model)
        return self._stub.ModelReady(asked, **self._call()).ready

    def index(self) -> list[IndexEntry]:
        """Ask for the state of every version that the server knows of."""
        answer = self._stub.RepositoryIndex(pb.RepositoryIndexRequest(), **self._call())
        return [IndexEntry(one.name, one.version, one.state, one.reason) for one in answer.models]

    def describe(self, model: str, version: str = "") -> RemoteModel:
        """Ask for a model's version, tensors and execution provider; by default of its latest.

        Raises:
            ValueError: what it says of picture files is not understood; see told_picture_input.
        """
        asked = pb.ModelMetadataRequest(name=model, version=version)
        answer = self._stub.ModelMetadata(asked, **self._call())
        (picture,) = answer.inputs
        shape = tuple(picture.shape[1:])
        told = {key: fact.string_param for key, fact in answer.parameters.items()}
        return RemoteModel(
            name=answer.name,
            version=version or max(answer.versions, key=int),
            versions=tuple(sorted(answer.versions, key=int)),
            input=picture.name,
            datatype=picture.datatype,
            shape=shape,
            outputs={output.name: tuple(output.shape[1:]) for output in answer.outputs},
            provider=told.get("execution_provider", ""),
            sha256=told.get("sha256", ""),
            picture=told_picture_input(picture.datatype, shape, told),
            head=told_head(told),
        )

    def infer(self, model: RemoteModel, pictures: NDArray[Any], output: str = "") -> NDArray[Any]:
        """Compute one output, by default the first, for a batch: (B, *model.outputs[output]).

        pictures: (B, *model.shape).
        """
        request = self._request(model, pictures)
        request.outputs.add(name=output or model.answer)
        answer = self._stub.ModelInfer(request, **self._call())
        (tensor,) = answer.outputs
        return tensors.from_raw(answer.raw_output_contents[0], tensor.datatype, tensor.shape)

    def classify(
        self, model: RemoteModel, pictures: NDArray[Any], output: str = ""
    ) -> list[list[RankedClass]]:
        """Name every class of each picture, highest first. pictures: (B, *model.shape).

        Raises:
            ValueError: the model gives an embedding.
        """
        if model.head.kind == "embedding":
            raise ValueError(f"{model.name} gives an embedding; classes it has none")
        output = output or model.answer
        request = self._request(model, pictures)
        wanted = request.outputs.add(name=output)
        wanted.parameters["classification"].int64_param = model.outputs[output][-1]
        answer = self._stub.ModelInfer(request, **self._call())
        elements = tensors.parse_bytes_elements(answer.raw_output_contents[0])
        count = len(elements) // len(pictures)
        ranked = [_ranked_class(element) for element in elements]
        return [ranked[at : at + count] for at in range(0, len(ranked), count)]

    def _call(self) -> _CallOptions:
        return {
            "timeout": self._timeout_s,
            "metadata": (*self._connection.metadata(), *self._about),
        }

    def _request(self, model: RemoteModel, pictures: NDArray[Any]) -> pb.ModelInferRequest:
        dtype = tensors.DTYPES[model.datatype]
        body = np.ascontiguousarray(pictures, dtype).tobytes()
        request = pb.ModelInferRequest(
            model_name=model.name, model_version=model.version, raw_input_contents=[body]
        )
        request.inputs.add(name=model.input, datatype=model.datatype, shape=pictures.shape)
        return request


def _ranked_class(element: bytes) -> RankedClass:
    value, index, *label = element.decode().split(":", maxsplit=2)
    return RankedClass(float(value), int(index), label[0] if label else "")
