"""What each path of plain HTTP stands for.

path, method -> the call of gRPC, its request, and what becomes of its response

Paths are those of the REST form of the Open Inference Protocol v2 and of Triton's extensions;
`classify` is ours.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote

from pydantic_core import to_json

from nyquist.server.front.calls import OWN_DEADLINE
from nyquist.server.front.grpc_wire import Header
from nyquist.server.front.message_reader import Message
from nyquist.server.front.openapi import openapi
from nyquist.server.front.rest_messages import (
    as_json,
    log_request,
    trace_answer,
    trace_request,
)
from nyquist.server.front.rest_tensors import (
    AnswerWriter,
    InferRequests,
    fill_parameters,
    json_size,
    read_object,
    with_raw,
)
from nyquist.server.wire import tensors
from nyquist.server.wire.errors import InvalidRequest, ModelNotFound
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.signature import Signature

Answer: TypeAlias = tuple[int, list[Header], Sequence[bytes]]
"""Status, headers, and the parts of the body."""

HEADER_LENGTH = b"inference-header-content-length"
JSON: Header = (b"content-type", b"application/json")
BINARY: Header = (b"content-type", b"application/octet-stream")
SERVICE = "/inference.GRPCInferenceService/"
DESCRIPTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
"""Who may ask for what is served by gRPC may ask for what is served by HTTP."""

TOP, MOST_TOP = 5, 10_000
MODEL = r"/v2/models/(?P<name>[^/]+)(?:/versions/(?P<version>[^/]+))?"


@dataclass(frozen=True)
class Request:
    """A request as path and body have it.

    Attributes:
        name: of a model; empty where the path has none.
        version: likewise.
        query: what stands behind the path.
        json_length: bytes of the body that are JSON, as the caller has it; None where it is silent.
        body: whole and unpacked; a long one as a view.
    """

    name: str
    version: str
    query: bytes
    json_length: bytes | None
    body: Message

    @classmethod
    def of(
        cls, match: "re.Match[str]", query: bytes, fields: dict[bytes, bytes], body: Message
    ) -> "Request":
        """Read the names in a path."""
        groups = match.groupdict()
        name, version = (unquote(groups.get(key) or "") for key in ("name", "version"))
        return cls(name, version, query, fields.get(HEADER_LENGTH), body)


Prepared: TypeAlias = tuple[Any, Callable[[Any], Answer]]
"""The message for a call, and what makes the answer of its response; None calls nothing."""


@dataclass(frozen=True)
class Endpoint:
    """What one path and method stand for.

    Attributes:
        call: of gRPC, by its path.
        prepare: makes its message of a request.
        json: whether that reads JSON.
    """

    call: str
    prepare: Callable[[Request], Prepared]
    json: bool = True


def no_model(name: str, _: str) -> Signature:
    """Stand in for the signatures of models where there are none.

    Raises:
        ModelNotFound: always.
    """
    raise ModelNotFound(f"Request for unknown model: '{name}' is not found")


def _in_json(told: object) -> Answer:
    return 200, [JSON], (to_json(told, inf_nan_mode="constants"),)


def _plainly(response: Any) -> Answer:  # noqa: ANN401 - any message
    return _in_json(as_json(response))


def _empty(_: object) -> Answer:
    return 200, [JSON], ()


def _yes_or_no(name: str) -> Callable[[Any], Answer]:
    """Answer as the protocol has it, 200 for yes and 400 for no, and in words for KServe."""
    return lambda response: (200 if getattr(response, name) else 400, *_plainly(response)[1:])


def _endpoint(
    name: str, make: Callable[[Request], Any], answer: Callable[[Any], Answer] = _plainly
) -> Endpoint:
    return Endpoint(SERVICE + name, lambda asked: (make(asked), answer))


def _of_model(message: Any) -> Callable[[Request], Any]:  # noqa: ANN401 - a message's class
    return lambda asked: message(name=asked.name, version=asked.version)


def _change(message: Any) -> Callable[[Request], Any]:  # noqa: ANN401 - a message's class
    def make(asked: Request) -> Any:  # noqa: ANN401 - of that class
        request = message(model_name=asked.name)
        fill_parameters(request, read_object(asked.body))
        return request

    return make


def _index(asked: Request) -> pb.RepositoryIndexRequest:
    ready = read_object(asked.body).get("ready", False)
    if not isinstance(ready, bool):
        raise InvalidRequest("ready is true or false")
    return pb.RepositoryIndexRequest(ready=ready)


_STATISTICS = {"GET": _endpoint("ModelStatistics", _of_model(pb.ModelStatisticsRequest))}
_TRACE = _endpoint(
    "TraceSetting",
    lambda asked: trace_request(asked.name, read_object(asked.body)),
    lambda response: _in_json(trace_answer(response)),
)
_LOGGING = _endpoint(
    "LogSettings",
    lambda asked: log_request(read_object(asked.body)),
    lambda response: _in_json(as_json(response)["settings"]),
)
_CONTROL: tuple[tuple[str, dict[str, Endpoint]], ...] = (
    ("/v2/health/live", {
        "GET": _endpoint("ServerLive", lambda _: pb.ServerLiveRequest(), _yes_or_no("live"))}),
    ("/v2/health/ready", {
        "GET": _endpoint("ServerReady", lambda _: pb.ServerReadyRequest(), _yes_or_no("ready"))}),
    ("/v2/?", {"GET": _endpoint("ServerMetadata", lambda _: pb.ServerMetadataRequest())}),
    ("/v2/models/stats", _STATISTICS),
    (MODEL, {"GET": _endpoint("ModelMetadata", _of_model(pb.ModelMetadataRequest))}),
    (MODEL + "/ready", {
        "GET": _endpoint("ModelReady", _of_model(pb.ModelReadyRequest), _yes_or_no("ready"))}),
    (MODEL + "/config", {
        "GET": _endpoint("ModelConfig", _of_model(pb.ModelConfigRequest),
                         lambda response: _plainly(response.config))}),
    (MODEL + "/stats", _STATISTICS),
    ("(?:/v2/models/(?P<name>[^/]+)|/v2)/trace/setting", {"GET": _TRACE, "POST": _TRACE}),
    ("/v2/logging", {"GET": _LOGGING, "POST": _LOGGING}),
    ("/v2/repository/index", {
        "POST": _endpoint("RepositoryIndex", _index,
                          lambda response: _in_json([as_json(one) for one in response.models]))}),
    ("/v2/repository/models/(?P<name>[^/]+)/load", {
        "POST": _endpoint("RepositoryModelLoad",
                          _change(pb.RepositoryModelLoadRequest),
                          _empty)}),
    ("/v2/repository/models/(?P<name>[^/]+)/unload", {
        "POST": _endpoint("RepositoryModelUnload",
                          _change(pb.RepositoryModelUnloadRequest),
                          _empty)}),
    *((f"/v2/{kind.lower()}sharedmemory(?:/region/[^/]+)?/{verb.lower()}",
       dict.fromkeys(("GET", "POST"),
                     _endpoint(f"{kind}SharedMemory{verb}",
                               lambda _: pb.SystemSharedMemoryStatusRequest())))
      for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")),
)  # fmt: skip


class Paths:
    """Every path, those of inference first.

    Args:
        signature: of a model by its name and version; raises where there is none.
    """

    def __init__(self, signature: Callable[[str, str], Signature]) -> None:
        self._signature, self._requests = signature, InferRequests()
        paths = (
            (MODEL + "/infer", {"POST": Endpoint(OWN_DEADLINE, self._infer)}),
            (MODEL + "/classify", {"POST": Endpoint(OWN_DEADLINE, self._classify, json=False)}),
            *_CONTROL,
            ("/openapi.json", {"GET": Endpoint(DESCRIPTION, _description)}),
        )
        self._paths = [(re.compile(pattern), endpoints) for pattern, endpoints in paths]

    def find(self, path: str) -> "tuple[dict[str, Endpoint], re.Match[str]] | None":
        """Return what a path stands for, by method, and the names in it; None for nothing."""
        for pattern, endpoints in self._paths:
            if match := pattern.fullmatch(path):
                return endpoints, match
        return None

    def _infer(self, asked: Request) -> Prepared:
        size = json_size(asked.body, asked.json_length)
        message, writer = self._requests.read(asked.name, asked.version, asked.body, size)
        return message, partial(_inferred, writer)

    def _classify(self, asked: Request) -> Prepared:
        """Send a picture file for the input; ask for the highest classes of the first output."""
        top = _top(asked.query)
        signature = self._signature(asked.name, asked.version)
        if not asked.body:
            raise InvalidRequest("the body is a JPEG, PNG or WebP, got nothing")
        request = pb.ModelInferRequest(model_name=asked.name, model_version=asked.version)
        taken, *others = signature.inputs
        if others:
            names = ", ".join(repr(one.name) for one in signature.inputs)
            raise InvalidRequest(f"a picture is one input, and the model takes {names}")
        request.inputs.add(name=taken.name, datatype="BYTES", shape=[1])
        output = request.outputs.add(name=signature.outputs[0].name)
        output.parameters["classification"].int64_param = top
        size = len(asked.body).to_bytes(4, "little")  # as an element of BYTES
        return with_raw(request.SerializeToString(), size, asked.body), _classified


def _inferred(writer: AnswerWriter, body: bytes) -> Answer:
    told, behind = writer.write(body)
    if not behind:
        return 200, [JSON], (told,)
    return 200, [BINARY, (HEADER_LENGTH, b"%d" % len(told))], (told, *behind)


def _classified(body: bytes) -> Answer:
    response = pb.ModelInferResponse.FromString(body)
    classes = []
    for element in tensors.parse_bytes_elements(response.raw_output_contents[0]):
        score, index, *label = element.decode(errors="replace").split(":", 2)
        classes.append({"index": int(index), "label": "".join(label), "score": float(score)})
    return _in_json(
        {
            "model_name": response.model_name,
            "model_version": response.model_version,
            "output": response.outputs[0].name,
            "classes": classes,
        }
    )


def _top(query: bytes) -> int:
    """Return how many classes are asked for.

    Raises:
        InvalidRequest: what is asked for is no such number, or something else.
    """
    asked = parse_qs(query.decode("latin-1"), keep_blank_values=True)
    for name in asked:
        if name != "top":
            raise InvalidRequest(f"unknown option '{name[:40]}' of classify, there is 'top'")
    text = asked.get("top", [str(TOP)])[-1]
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MOST_TOP):
        raise InvalidRequest(f"top is from 1 to {MOST_TOP}, got '{text[:20]}'")
    return int(text)


def _description(_: Request) -> Prepared:
    return None, lambda _: _in_json(openapi())
