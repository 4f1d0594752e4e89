"""What an ONNX file says of itself: opset, inputs, outputs. Read without onnx, and without weights.

bytes -> fields of the message, one after the other, passed over by their length -> GraphFacts

The numbers of the fields are those of onnx.proto.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from nyquist.server.wire.errors import ArtifactError

OPEN = -1
"""The size of an axis that has a name, or nothing, in place of a number."""

DATATYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64",
    8: "BYTES", 9: "BOOL", 10: "FP16", 11: "FP64", 12: "UINT32", 13: "UINT64", 16: "BF16",
}  # fmt: skip
"""TensorProto.DataType, as the Open Inference Protocol spells it."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_GRAPH, _OPSETS = 7, 8
_INITIALIZERS, _INPUTS, _OUTPUTS, _SPARSE = 5, 11, 12, 15
_MOST_VARINT_BYTES = 10

Field = tuple[int, int | memoryview]


@dataclass(frozen=True)
class GraphTensor:
    """An input or output.

    Attributes:
        name: in the graph.
        datatype: as the protocol spells it; empty for what is no dense tensor.
        shape: with the batch, -1 where an axis is open; None where the file does not say.
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None


@dataclass(frozen=True)
class GraphFacts:
    """What a graph takes and gives.

    Attributes:
        opset: of ONNX's own operators; 0 where it has none of them.
        inputs: that a caller must send: those that no weight stands in for.
        outputs: in the order of the file.
        weight_files: that hold weights beside the file, as it names them.
    """

    opset: int
    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    weight_files: tuple[str, ...] = ()


def read_graph_facts(model: bytes) -> GraphFacts:
    """Read what an ONNX file says of itself.

    Raises:
        ArtifactError: it is no ONNX file.
    """
    try:
        fields = list(_fields(memoryview(model)))
        graph = next((value for number, value in fields if number == _GRAPH), None)
        if graph is None:
            raise ValueError("it has no graph")  # noqa: TRY301 - told as whatever else is wrong
        inputs, outputs, weights = [], [], set()
        files: dict[str, None] = {}
        for number, value in _fields(_message(graph)):
            if number == _INPUTS:
                inputs.append(_tensor(_message(value)))
            elif number == _OUTPUTS:
                outputs.append(_tensor(_message(value)))
            elif number in (_INITIALIZERS, _SPARSE):
                weights.add(_text(_message(value), 8))
                files |= dict.fromkeys(_locations(_message(value)))
        opsets = [_message(value) for number, value in fields if number == _OPSETS]
        opset = max(
            (_number(one, 2) for one in opsets if _text(one, 1) in ("", "ai.onnx")), default=0
        )
    except (ValueError, IndexError) as error:
        raise ArtifactError(f"it is no ONNX file: {error}") from error
    needed = tuple(tensor for tensor in inputs if tensor.name not in weights)
    return GraphFacts(opset, needed, tuple(outputs), tuple(files))


def _locations(tensor: memoryview) -> list[str]:
    """Return the file of a TensorProto's data: external_data = 13, of pairs: key = 1, value = 2."""
    pairs = [_message(value) for number, value in _fields(tensor) if number == 13]
    return [_text(pair, 2) for pair in pairs if _text(pair, 1) == "location"]


def _tensor(value: memoryview) -> GraphTensor:
    """Read a ValueInfoProto: name = 1, type = 2; of the type: tensor_type = 1."""
    name = _text(value, 1)
    kind = _first(value, 2)
    dense = None if kind is None else _first(_message(kind), 1)
    if dense is None:
        return GraphTensor(name, "", None)
    shape = _first(_message(dense), 2)
    datatype = DATATYPES.get(_number(_message(dense), 1), "")
    return GraphTensor(name, datatype, None if shape is None else _shape(_message(shape)))


def _shape(value: memoryview) -> tuple[int, ...]:
    """Read a TensorShapeProto: dim = 1; of that: dim_value = 1."""
    axes = [_message(axis) for number, axis in _fields(value) if number == 1]
    sizes = [_first(axis, 1) for axis in axes]
    return tuple(size if isinstance(size, int) and size > 0 else OPEN for size in sizes)


def _first(message: memoryview, number: int) -> int | memoryview | None:
    return next((value for found, value in _fields(message) if found == number), None)


def _number(message: memoryview, number: int) -> int:
    value = _first(message, number)
    return value if isinstance(value, int) else 0


def _text(message: memoryview, number: int) -> str:
    value = _first(message, number)
    return bytes(value).decode() if isinstance(value, memoryview) else ""


def _message(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number stands where a message should")  # noqa: TRY004 - it is damaged
    return value


def _fields(message: memoryview) -> Iterator[Field]:
    """Yield number and value of each field of a protobuf message."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if kind == _BYTES:
            length, at = _varint(message, at)
        elif kind in (_FIXED32, _FIXED64):
            length = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"no protobuf message has a field of kind {kind}")
        if at + length > len(message):
            raise ValueError("it ends within a field")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(_MOST_VARINT_BYTES):
        byte = message[at + shift]
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise ValueError("a number has more than ten bytes")
