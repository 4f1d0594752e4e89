"""Encode the outputs of a model as the response that the request asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.wire import tensors
from nyquist.server.wire.decode import InferCall
from nyquist.server.wire.errors import InvalidRequest
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.signature import DYNAMIC, Signature, TensorSpec

ID, RAW_OUTPUT = 3, 6
"""Fields of ModelInferResponse."""


def encode_response(
    request_id: str,
    call: InferCall,
    arrays: dict[str, NDArray[Any]],
    signature: Signature,
    labels: Mapping[str, Sequence[str]],
) -> bytes:
    """Serialise a ModelInferResponse.

    Args:
        request_id: echoed.
        call: names the outputs, in the caller's order, and the style of contents.
        arrays: each output, as the graph has it.
        signature: of the model that answers.
        labels: of the classes of an output, in their order, where it has any.
    """
    response = pb.ModelInferResponse(
        model_name=signature.name, model_version=signature.version, id=request_id
    )
    specs = {output.name: output for output in signature.outputs}
    for wanted in call.outputs:
        spec, array = specs[wanted.name], arrays[wanted.name]
        array = array.reshape(spec.from_graph(array.shape))
        if wanted.classes:
            classes = _classes(array, spec, wanted.classes, labels.get(wanted.name, ()))
            rows = len(array) if array.ndim else 1
            shape = (rows, len(classes) // rows)
            _add_bytes(response, wanted.name, shape, classes, typed=call.typed)
        elif spec.datatype == "BYTES":
            texts = [text.encode() for text in array.flat]
            _add_bytes(response, wanted.name, array.shape, texts, typed=call.typed)
        else:
            _add_array(response, wanted.name, spec.datatype, array, typed=call.typed)
    return response.SerializeToString()


@dataclass(frozen=True)
class AnswerForm:
    """An answer in raw contents but for its id and its numbers; the rest never changes.

    Attributes:
        before_id: model and version, as they are on the wire.
        outputs: names, datatypes and shapes, likewise.
        contents: of each output its name, its size in bytes, and the field that begins it.
    """

    before_id: bytes
    outputs: bytes
    contents: tuple[tuple[str, int, bytes], ...]

    @classmethod
    def of(cls, call: InferCall, signature: Signature, batch: int) -> "AnswerForm | None":
        """Return the form of the answers to a call, or None if they are of another kind."""
        tensors_out = {output.name: output for output in signature.outputs}
        wanted = [tensors_out[output.name] for output in call.outputs]
        free = any(-1 in output.shape or output.datatype == "BYTES" for output in wanted)
        if free or call.typed or any(output.classes for output in call.outputs):
            return None
        named = pb.ModelInferResponse(
            model_name=signature.name, model_version=signature.version
        ).SerializeToString()
        described, contents = pb.ModelInferResponse(), []
        for output in wanted:
            shape = output.whole
            if output.batch == DYNAMIC:
                shape = (batch, *output.shape)
            described.outputs.add(name=output.name, datatype=output.datatype, shape=shape)
            size = prod(shape) * tensors.DTYPES[output.datatype].itemsize
            contents.append((output.name, size, field_start(RAW_OUTPUT, size)))
        return cls(named, described.SerializeToString(), tuple(contents))

    def fill(self, id_bytes: bytes, arrays: dict[str, NDArray[Any]]) -> bytes | None:
        """Serialise a ModelInferResponse; None if an array is not of the size it should have."""
        parts = [self.before_id]
        if id_bytes:
            parts += (field_start(ID, len(id_bytes)), id_bytes)
        parts.append(self.outputs)
        for name, size, start in self.contents:
            raw = arrays[name].tobytes()
            if len(raw) != size:
                return None
            parts += (start, raw)
        return b"".join(parts)


def field_start(number: int, length: int) -> bytes:
    """Return what stands before the bytes of a message field on the wire: its tag, its length."""
    prefix = bytearray((number << 3 | 2,))
    while length > 0x7F:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix)


def highest_classes(values: NDArray[Any], count: int, labels: Sequence[str]) -> list[bytes]:
    """Name the `count` highest classes of each picture, highest first.

    values: (B, ...), flattened to (B, C) -> B * min(count, C) elements b"value:index:label" as
    Triton's classification extension writes them: six decimals for a value that may have any, and
    b"value:index" where there is no label.
    """
    flat = values.reshape(len(values), -1)
    fractional = flat.dtype.kind == "f"
    order = np.argsort(-flat if fractional else ~flat, axis=1, kind="stable")[:, :count]
    elements = []
    for row, indices in zip(flat, order, strict=True):
        for index in indices:
            label = labels[index] if index < len(labels) else ""
            value = f"{row[index]:f}" if fractional else str(int(row[index]))
            elements.append(f"{value}:{index}{label and f':{label}'}".encode())
    return elements


def _classes(
    array: NDArray[Any], spec: TensorSpec, count: int, labels: Sequence[str]
) -> list[bytes]:
    """Do as `highest_classes`, for whatever an output is.

    Raises:
        InvalidRequest: it is of strings, which have no order.
    """
    if spec.datatype == "BYTES":
        raise InvalidRequest(f"output '{spec.name}' is of strings and has no highest classes")
    values = tensors.widened(array) if spec.datatype == "BF16" else array
    return highest_classes(values if values.ndim else values[None], count, labels)


def _add_bytes(
    response: pb.ModelInferResponse,
    name: str,
    shape: Sequence[int],
    elements: list[bytes],
    *,
    typed: bool,
) -> None:
    output = response.outputs.add(name=name, datatype="BYTES", shape=shape)
    if typed:
        output.contents.bytes_contents.extend(elements)
    else:
        response.raw_output_contents.append(tensors.bytes_elements(elements))


def _add_array(
    response: pb.ModelInferResponse, name: str, datatype: str, array: NDArray[Any], *, typed: bool
) -> None:
    output = response.outputs.add(name=name, datatype=datatype, shape=array.shape)
    field = tensors.TYPED_FIELDS.get(datatype)
    if typed and field is not None:
        getattr(output.contents, field).extend(array.ravel().tolist())
    else:
        response.raw_output_contents.append(array.tobytes())
