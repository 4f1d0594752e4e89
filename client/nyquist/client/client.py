"""A client of the Open Inference Protocol: arrays in, arrays or named classes out.

>>> Client("localhost:8001").close()  # no call, no connection
>>> RankedClass(logit=11.5, index=967, label="espresso").label
'espresso'
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any, TypedDict

import grpc
import numpy as np
from numpy.typing import NDArray

from nyquist.client.told import Told
from nyquist.server.wire import tensors
from nyquist.server.wire.connection import CLIENT, SOURCE, Connection, Metadata, Source
from nyquist.server.wire.framing import AXES, DATATYPES, DYNAMIC, PictureInput, told_picture_input
from nyquist.server.wire.head import CLASSES, Head, told_head
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from nyquist.server.wire.pictures import PictureFile, read_picture_files

MAX_MESSAGE_BYTES = 2**31 - 1  # the server has the limit that counts
DEFAULT_TIMEOUT_S = 30.0
LOGITS = "logits"


@dataclass(frozen=True)
class RemoteModel:
    """What a server says of a model; what it does not say is empty.

    Attributes:
        name: as asked for.
        version: that answers, and that is asked for pictures; empty where the server has none.
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
        max_batch_size: pictures that a request may hold; 0 where nobody says.
        told: what else a caller knows of it; see `completed`.
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
    max_batch_size: int = 0
    told: Told = field(default_factory=Told)

    def completed(self, told: Told) -> "RemoteModel":
        """Return the model with what a caller says of it where the server says nothing."""
        known = self.input != ""
        return replace(
            self,
            input=self.input or told.input,
            datatype=self.datatype if known else told.datatype,
            shape=self.shape if known else told.shape,
            picture=told.picture or self.picture,
            max_batch_size=self.max_batch_size or told.max_batch_size,
            told=told,
        )

    def normalised(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """Return pictures as they are sent. (B, ...) -> (B, ...).

        Raises:
            ValueError: there is a mean for bytes.
        """
        mean, std = self.told.mean, self.told.std
        if (mean, std) == (Told.mean, Told.std):
            return pictures
        if self.datatype == "UINT8":
            raise ValueError(f"--mean and --std are of float32 inputs; {self.name} takes UINT8")
        trailing = 0 if self.picture is not None and self.picture.layout == "HWC" else AXES - 1
        subtracted, divisor = (
            np.array(value, np.float32).reshape(-1, *(1,) * trailing) for value in (mean, std)
        )
        return (pictures - subtracted) / divisor

    @property
    def output(self) -> str:
        """The output that answers: the one told, `logits`, the first; empty if none is known."""
        if self.told.output and (not self.outputs or self.told.output in self.outputs):
            return self.told.output
        return LOGITS if LOGITS in self.outputs else next(iter(self.outputs), "")

    def read_pictures(self, paths: Sequence[PictureFile]) -> NDArray[Any]:
        """Read picture files as a batch of inputs, as the server would read them: (B, *shape).

        Where the input is of dynamic size, the first picture says it.

        Raises:
            OSError: a file cannot be read.
            InvalidRequest: one is no picture, is damaged or too large.
            ValueError: the model takes no pictures.
        """
        if not self.input or not self.datatype:
            raise ValueError(
                f"the server does not say what {self.name} takes; say it with --input CxHxW"
            )
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
        source: what the calls are; those that are no client's are counted apart, and not mirrored.

    Raises:
        WrongConnection: the connection's files cannot be used.
    """

    def __init__(
        self,
        connection: Connection | str,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        source: Source = CLIENT,
    ) -> None:
        if isinstance(connection, str):
            connection = Connection(connection)
        self._connection, self._timeout_s = connection, timeout_s
        self._about: Metadata = () if source == CLIENT else ((SOURCE, source),)
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
        return [
            IndexEntry(one.name, one.version, one.state.removeprefix("State."), one.reason)
            for one in answer.models  # MLServer writes State.READY
        ]

    def describe(self, model: str, version: str = "") -> RemoteModel:
        """Ask for a model's version, tensors and execution provider; by default of its latest.

        Raises:
            ValueError: it takes several inputs; or what it says of picture files is not
                understood, see told_picture_input.
        """
        asked = pb.ModelMetadataRequest(name=model, version=version)
        answer = self._stub.ModelMetadata(asked, **self._call())
        if len(answer.inputs) > 1:
            names = ", ".join(one.name for one in answer.inputs)
            raise ValueError(f"{model} takes several inputs, {names}; one picture is understood")
        picture = answer.inputs[0] if answer.inputs else pb.ModelMetadataResponse.TensorMetadata()
        batch, *shape = picture.shape or (DYNAMIC,)
        told = {key: fact.string_param for key, fact in answer.parameters.items()}
        versions = tuple(sorted(answer.versions, key=_number))
        return RemoteModel(
            name=answer.name,
            version=version or next(reversed(versions), ""),
            versions=versions,
            input=picture.name,
            datatype=picture.datatype,
            shape=tuple(shape),
            outputs={output.name: tuple(output.shape[1:]) for output in answer.outputs},
            provider=told.get("execution_provider", ""),
            sha256=told.get("sha256", ""),
            picture=told_picture_input(picture.datatype, shape, told),
            head=told_head(told),
            max_batch_size=max(0, batch, _number(told.get("max_batch_size", ""))[0]),
        )

    def serves(self, model: str) -> bool:
        """Ask whether a model is served."""
        try:
            self.describe(model)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.NOT_FOUND:
                return False
            raise
        return True

    def look_up(self, model: str) -> RemoteModel:
        """Describe a model that a person has named.

        Raises:
            ValueError: there is none of that name; the message says which there are, where the
                server lists them.
        """
        try:
            return self.describe(model)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
        raise ValueError(f"no model {model!r} at {self._connection.target}{self._others(model)}")

    def _others(self, model: str) -> str:
        try:
            index = self.index()
        except grpc.RpcError:
            return ""
        names = sorted({entry.name for entry in index})
        served = sorted({entry.name for entry in index if entry.state == "READY"})
        near = get_close_matches(model, names, n=1, cutoff=0.5)
        if model in names:
            others = ", ".join(served) or "none"
            return f", which knows it and serves {others}; nyquist status says why"
        return f"; did you mean {near[0]}?" if near else f", which has {', '.join(names) or 'none'}"

    def infer(self, model: RemoteModel, pictures: NDArray[Any], output: str = "") -> NDArray[Any]:
        """Compute one output for a batch, by default `model.output`. (B, *model.shape) -> (B, ...).

        Raises:
            ValueError: the server answers without that output, or in a datatype of no numbers.
        """
        output = output or model.output
        request = self._request(model, pictures)
        if output:
            request.outputs.add(name=output)
        return _tensor(self._stub.ModelInfer(request, **self._call()), output)

    def classify(
        self, model: RemoteModel, pictures: NDArray[Any], output: str = ""
    ) -> list[list[RankedClass]]:
        """Rank every class of each picture, highest first. pictures: (B, *model.shape).

        A server without the classification extension, or that does not say how many classes there
        are, has its numbers ranked here, and no labels.

        Raises:
            ValueError: the model gives an embedding.
        """
        if model.head.kind == "embedding":
            raise ValueError(f"{model.name} gives an embedding; classes it has none")
        output = output or model.output
        request = self._request(model, pictures)
        classes = model.outputs.get(output, (DYNAMIC,))[-1]
        if output:
            wanted = request.outputs.add(name=output)
            if classes > 0:
                wanted.parameters["classification"].int64_param = classes
        answer = self._stub.ModelInfer(request, **self._call())
        if [one.datatype for one in answer.outputs] != ["BYTES"]:
            return [_ranked(row) for row in _tensor(answer, output)]
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
        body = np.ascontiguousarray(model.normalised(pictures), dtype).tobytes()
        request = pb.ModelInferRequest(
            model_name=model.name, model_version=model.version, raw_input_contents=[body]
        )
        request.inputs.add(name=model.input, datatype=model.datatype, shape=pictures.shape)
        return request


def _tensor(answer: pb.ModelInferResponse, output: str) -> NDArray[Any]:
    """Return one output of an answer, which may hold others too, raw or typed; "" is the first."""
    names = [tensor.name for tensor in answer.outputs]
    if (output or not names) and output not in names:
        raise ValueError(f"the answer has outputs {', '.join(names) or 'none'}, without {output!r}")
    at = names.index(output) if output else 0
    tensor = answer.outputs[at]
    raw = answer.raw_output_contents[at : at + 1]
    if tensor.datatype not in (tensors.DTYPES if raw else tensors.TYPED_FIELDS):
        raise ValueError(f"output {tensor.name!r} comes as {tensor.datatype}, which are no numbers")
    if raw:
        return tensors.from_raw(raw[0], tensor.datatype, tensor.shape)
    elements = getattr(tensor.contents, tensors.TYPED_FIELDS[tensor.datatype])
    return tensors.from_elements(elements, tensor.datatype, tensor.shape)


def _number(version: str) -> tuple[int, str]:
    """Order versions: those that are no number, which other servers have, first and by name."""
    return (int(version), "") if version.isascii() and version.isdecimal() else (-1, version)


def _ranked(row: NDArray[Any]) -> list[RankedClass]:
    order = np.argsort(-row, kind="stable").tolist()
    return [RankedClass(float(row[index]), index, "") for index in order]


def _ranked_class(element: bytes) -> RankedClass:
    value, index, *label = element.decode().split(":", maxsplit=2)
    return RankedClass(float(value), int(index), label[0] if label else "")
