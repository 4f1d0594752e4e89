"""Inference over HTTP: JSON, and the binary extension, to and from the messages of gRPC.

JSON, and bytes behind it -> head, id, raw contents -> ModelInferRequest
ModelInferResponse -> JSON, and bytes behind it

A request's tensors are copied once, into the message that the models take; what a caller says of
them again and again is looked up by its JSON. Formats: Open Inference Protocol v2, REST, and
Triton's extensions of binary data and of classification.
"""

import gc
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from google.protobuf.message import Message as Proto
from pydantic_core import from_json, to_json

from nyquist.server.front.message_reader import Message
from nyquist.server.wire import tensors
from nyquist.server.wire.encode import RAW_OUTPUT, field_start
from nyquist.server.wire.errors import InvalidRequest, TooLarge
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.request_head import LONGEST_HEAD, Heads

MOST_JSON_BYTES = 4 * 1024 * 1024
"""What is read of JSON without a pause that other callers would feel."""

MOST_TENSORS = 256
MOST_PARAMETERS = 4096
MOST_SIGNS = {b"{": 16 * 1024, b":": 64 * 1024, b"[": 512 * 1024}
"""Objects, their members and lists cost up to a hundred times what the bytes of a number do."""
MOST_AXES = 64
ID, RAW_INPUT = 3, 7
"""Fields of ModelInferRequest."""

OF_HTTP_ALONE = ("binary_data", "binary_data_size", "binary_data_output")
"""Parameters that say how tensors travel here, and nothing of what they are."""

_LEADING_ID = re.compile(rb'\{\s*"id"\s*:\s*"([A-Za-z0-9._:/=+-]+)"\s*,')
_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "iuf"}
"""What JSON's values may be, as numpy says it, for each kind of number."""


class AnswerWriter:
    """Makes the JSON of answers; that of the last one is kept, the next differs in its bytes alone.

    Args:
        named: whether each output that was asked for by name travels as bytes behind the JSON.
        others: the same of those that were not.
    """

    def __init__(self, named: Mapping[str, bool], others: bool) -> None:  # noqa: FBT001 - as above
        self._named, self._others = named, others
        self._before, self._size, self._told = b"", 0, b""

    def write(self, body: bytes) -> tuple[bytes, list[bytes]]:
        """Return the JSON of a ModelInferResponse, and the tensors to stand behind it."""
        if len(body) == self._size and body.startswith(self._before):
            return self._told, [body[len(self._before) :]]
        response = pb.ModelInferResponse.FromString(body)
        told, behind = self._write(response)
        if len(behind) == len(response.outputs) == 1:
            before = body[: len(body) - len(behind[0])]
            if before.endswith(field_start(RAW_OUTPUT, len(behind[0]))):
                self._before, self._size, self._told = before, len(body), told
        return told, behind

    def _write(self, response: pb.ModelInferResponse) -> tuple[bytes, list[bytes]]:
        told: dict[str, Any] = {"id": response.id} if response.id else {}
        told |= {"model_name": response.model_name, "model_version": response.model_version}
        told["outputs"], behind = [], []
        for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
            one: dict[str, Any] = {
                "name": output.name,
                "datatype": output.datatype,
                "shape": list(output.shape),
            }
            if self._named.get(output.name, self._others):
                one["parameters"] = {"binary_data_size": len(raw)}
                behind.append(raw)
            else:
                one["data"] = _listed(raw, output.datatype)
            told["outputs"].append(one)
        return to_json(told, inf_nan_mode="constants"), behind


@dataclass(frozen=True)
class _Form:
    """What the JSON of a request says.

    Attributes:
        head: the ModelInferRequest but for its contents.
        contents: of each input, itself or, if it lies behind the JSON, its size in bytes.
        writer: of the answers.
    """

    head: bytes
    contents: tuple[bytes | int, ...]
    writer: AnswerWriter


class InferRequests:
    """Reads the bodies of inference requests, and remembers their JSON: there are few kinds."""

    def __init__(self) -> None:
        self._forms: Heads[_Form] = Heads()

    def read(
        self, model: str, version: str, body: Message, json_bytes: int
    ) -> tuple[bytes, AnswerWriter]:
        """Return the bytes of a ModelInferRequest, and what writes its answer.

        Args:
            model: that the path names.
            version: likewise; empty where it names none.
            body: of the request.
            json_bytes: of it that are JSON; tensors lie behind.

        Raises:
            InvalidRequest: the body is no inference request.
            TooLarge: there is too much JSON.
        """
        _check_size(json_bytes)
        text, at = bytes(body[:json_bytes]), json_bytes
        parts: list[bytes | memoryview] = [b""]
        if leading := _LEADING_ID.match(text):
            parts += (field_start(ID, len(leading[1])), leading[1])
            text = b"{" + text[leading.end() :]
        key = b"%d %b %b %b" % (len(model), model.encode(), version.encode(), text)
        form = self._forms.get(key)
        if form is None:
            form = _read_form(model, version, text)
            if len(key) <= LONGEST_HEAD:
                self._forms.remember(key, form)
        parts[0], behind = form.head, memoryview(body)
        for content in form.contents:
            raw: bytes | memoryview
            if isinstance(content, int):
                raw, at = behind[at : at + content], at + content
            else:
                raw = content
            parts += (field_start(RAW_INPUT, len(raw)), raw)
        if at != len(body):
            raise InvalidRequest(
                f"the inputs have {at - json_bytes} bytes behind the JSON by their "
                f"binary_data_size, got {len(body) - json_bytes}"
            )
        return b"".join(parts), form.writer


def with_raw(head: bytes, *content: Message) -> bytes:
    """Return a ModelInferRequest with one raw content, which comes in parts."""
    return b"".join((head, field_start(RAW_INPUT, sum(map(len, content))), *content))


def json_size(body: Message, header_length: bytes | None) -> int:
    """Return how much of a body is JSON.

    Args:
        body: of a request.
        header_length: the Inference-Header-Content-Length; None where all of it is.

    Raises:
        InvalidRequest: the length is none, or beyond the end.
    """
    if header_length is None:
        return len(body)
    size = int(header_length) if header_length.isdigit() and len(header_length) < 12 else -1
    if not 0 < size <= len(body):
        shown = header_length[:20].decode("latin-1")
        raise InvalidRequest(
            f"Inference-Header-Content-Length is from 1 to the {len(body)} bytes of the body, "
            f"got {shown!r}"
        )
    return size


def read_object(text: Message) -> dict[str, Any]:
    """Read a JSON object; nothing at all is an empty one.

    Raises:
        InvalidRequest: it is none.
        TooLarge: it is longer than JSON may be.
    """
    _check_size(len(text))
    text = bytes(text)
    for sign, most in MOST_SIGNS.items():
        if text.count(sign) > most:
            raise InvalidRequest(f"JSON may have {most} {sign.decode()} here; send binary data")
    collects = gc.isenabled()
    gc.disable()  # which would go through all of a million lists again and again
    try:
        read = from_json(text, cache_strings="none") if text else {}
    except ValueError as error:
        raise InvalidRequest(f"failed to parse the request JSON: {str(error)[:200]}") from error
    finally:
        if collects:
            gc.enable()
    if not isinstance(read, dict):
        raise InvalidRequest(f"the request JSON is an object, got {_kind(read)}")
    return read


def _check_size(json_bytes: int) -> None:
    if json_bytes > MOST_JSON_BYTES:
        raise TooLarge(
            f"{json_bytes} bytes of JSON, there may be {MOST_JSON_BYTES}; "
            "tensors may be binary data"
        )


def set_parameter(message: Proto, name: str, value: object, whole: str = "int64_param") -> None:
    """Write a parameter of JSON.

    Args:
        message: that has a field for each kind.
        name: of the parameter.
        value: of it.
        whole: the field for whole numbers.

    Raises:
        InvalidRequest: it is of no kind that parameters have.
    """
    kinds = {bool: "bool_param", int: whole, float: "double_param", str: "string_param"}
    try:
        setattr(message, kinds[type(value)], value)
    except (KeyError, ValueError, AttributeError) as error:
        raise InvalidRequest(
            f"parameter '{name[:40]}' is a flag, a number or a text, got {_kind(value)}"
        ) from error


def _read_form(model: str, version: str, text: bytes) -> _Form:
    asked = read_object(text)
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    request.id = _text(asked, "id", default="")
    fill_parameters(request, asked)
    contents = []
    for given in _objects(asked, "inputs"):
        tensor = request.inputs.add(name=_text(given, "name"), datatype=_text(given, "datatype"))
        tensor.shape.extend(_shape(given, tensor.name))
        fill_parameters(tensor, given)
        contents.append(_content(given, tensor))
    named = {}
    for wanted in _objects(asked, "outputs"):
        output = request.outputs.add(name=_text(wanted, "name"))
        fill_parameters(output, wanted)
        named[output.name] = _parameters(wanted).get("binary_data")
    others = _parameters(asked).get("binary_data_output") is True
    style = {name: others if binary is None else binary is True for name, binary in named.items()}
    return _Form(request.SerializeToString(), tuple(contents), AnswerWriter(style, others))


def _content(
    given: Mapping[str, Any], tensor: pb.ModelInferRequest.InferInputTensor
) -> bytes | int:
    """Return an input's raw contents, or their size where they lie behind the JSON."""
    size = _parameters(given).get("binary_data_size")
    if size is not None:
        if type(size) is not int or size < 0:
            raise InvalidRequest(f"binary_data_size of '{tensor.name}' is a number of bytes")
        return size
    if "data" not in given:
        raise InvalidRequest(f"input '{tensor.name}' has neither data nor binary_data_size")
    return _raw(given["data"], tensor.datatype, tensor.name, prod(tensor.shape))


def _raw(values: object, datatype: str, name: str, count: int) -> bytes:
    """Return the values of JSON, nested or flat, as they lie in raw contents."""
    dtype = tensors.DTYPES.get(datatype)
    if dtype is None:
        known = ", ".join(tensors.DTYPES)
        raise InvalidRequest(f"unknown datatype '{datatype[:20]}' of '{name}', choose from {known}")
    elements = _flat(values, name, count)
    if datatype == "BYTES":
        if not all(isinstance(text, str) for text in elements):
            raise InvalidRequest(f"data of input '{name}' is not all of {datatype}")
        return tensors.bytes_elements(text.encode() for text in elements)
    array = np.array(elements)
    if array.size and array.dtype.kind not in _KINDS[dtype.kind]:
        raise InvalidRequest(f"data of input '{name}' is not all of {datatype}")
    if dtype.kind in "iu" and array.size:
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        wrong = [end for end in (array.min(), array.max()) if not least <= int(end) <= most]
        if wrong:
            raise InvalidRequest(
                f"elements of input '{name}' must be in {least}..{most}, got {wrong[0]}"
            )
    with np.errstate(over="ignore"):  # beyond FP32 is infinity, as it is in C
        return array.astype(dtype).tobytes()


def _flat(values: object, name: str, count: int) -> list[Any]:
    """Return the elements of lists in lists; no more of them are looked at than there may be.

    Raises:
        InvalidRequest: they are no tensor, or not as many as there should be.
    """
    level: list[Any] = [values]
    for _ in range(MOST_AXES):
        if len(level) > count or not any(isinstance(row, list) for row in level):
            break
        if not all(isinstance(row, list) and len(row) == len(level[0]) for row in level):
            raise InvalidRequest(f"data of input '{name}' is no tensor: its rows differ")
        level = list(chain.from_iterable(level))
    if len(level) != count:
        raise InvalidRequest(f"expected {count} elements for input '{name}', got {len(level)}")
    return level


def _listed(raw: bytes, datatype: str) -> list[Any]:
    """Return raw contents as JSON has them, flat."""
    if datatype == "BYTES":
        return [text.decode(errors="replace") for text in tensors.parse_bytes_elements(raw)]
    listed: list[Any] = np.frombuffer(raw, tensors.DTYPES[datatype]).tolist()
    return listed


def fill_parameters(
    message: pb.ModelInferRequest
    | pb.ModelInferRequest.InferInputTensor
    | pb.ModelInferRequest.InferRequestedOutputTensor
    | pb.RepositoryModelLoadRequest
    | pb.RepositoryModelUnloadRequest,
    given: Mapping[str, Any],
) -> None:
    """Give a message the parameters that JSON has, without those that are of HTTP alone.

    Raises:
        InvalidRequest: they are no object, or one is of no kind that there is.
    """
    parameters = _parameters(given)
    if len(parameters) > MOST_PARAMETERS:
        raise InvalidRequest(f"there may be {MOST_PARAMETERS} parameters, got {len(parameters)}")
    for name, value in parameters.items():
        if name not in OF_HTTP_ALONE:
            set_parameter(message.parameters[name], name, value)


def _parameters(given: Mapping[str, Any]) -> dict[str, Any]:
    parameters = given.get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidRequest(f"parameters is an object, got {_kind(parameters)}")
    return parameters


def _objects(asked: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    listed = asked.get(key, [])
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise InvalidRequest(f"{key} is a list of objects, got {_kind(listed)}")
    if len(listed) > MOST_TENSORS:
        raise InvalidRequest(f"there may be {MOST_TENSORS} {key}, got {len(listed)}")
    return listed


def _shape(given: Mapping[str, Any], name: str) -> list[int]:
    shape = given.get("shape")
    whole = isinstance(shape, list) and all(type(axis) is int for axis in shape)
    if not whole or not isinstance(shape, list) or len(shape) > MOST_AXES:
        raise InvalidRequest(f"shape of input '{name}' is a list of {MOST_AXES} axes at most")
    if any(abs(axis) >= 2**63 for axis in shape):
        raise InvalidRequest(f"an axis of input '{name}' is a whole number of 64 bits")
    return shape


def _text(given: Mapping[str, Any], key: str, default: str | None = None) -> str:
    text = given.get(key, default)
    if not isinstance(text, str):
        raise InvalidRequest(f"{key} is a text, got {_kind(text)}")
    return text


def _kind(value: object) -> str:
    kinds = {
        dict: "an object",
        list: "a list",
        str: "a text",
        bool: "a flag",
        type(None): "nothing",
    }
    return kinds.get(type(value), "a number")
