"""The calls beside inference over HTTP: paths and JSON to messages, messages to JSON.

Texts and names are those of the REST form of the Open Inference Protocol v2 and of Triton's
extensions: repository, configuration, statistics, trace, logging.
"""

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from nyquist.server.front.rest_tensors import set_parameter
from nyquist.server.wire.errors import InvalidRequest
from nyquist.server.wire.pb import inference_pb2 as pb


def as_json(message: Message) -> Any:  # noqa: ANN401 - whatever JSON has
    """Return a message as JSON has it: every plain field, numbers as numbers, fields as in .proto.

    protobuf's own writes numbers of 64 bits as texts, which Triton's clients do not read.
    """
    if "parameter_choice" in message.DESCRIPTOR.oneofs_by_name:
        chosen = message.WhichOneof("parameter_choice")
        return chosen and getattr(message, chosen)
    told = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if field.is_repeated:
            told[field.name] = _several(field, value)
        elif field.message_type is None or message.HasField(field.name):
            told[field.name] = _one(field, value)
    return told


def _several(field: Any, values: Any) -> Any:  # noqa: ANN401 - a descriptor; a map or a list
    entry = field.message_type
    if entry is not None and entry.GetOptions().map_entry:
        inner = entry.fields_by_name["value"]
        return {str(key): _one(inner, values[key]) for key in values}
    return [_one(field, value) for value in values]


def _one(field: Any, value: Any) -> Any:  # noqa: ANN401 - a descriptor; whatever a field has
    if field.message_type is not None:
        return as_json(value)
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known else value
    return value


def trace_request(name: str, asked: Mapping[str, Any]) -> pb.TraceSettingRequest:
    """Return what changes settings of the trace; null takes one back.

    Raises:
        InvalidRequest: a value is neither a text nor a list of texts.
    """
    request = pb.TraceSettingRequest(model_name=name)
    for key, value in asked.items():
        values = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(one, str | int) for one in values):
            raise InvalidRequest(f"trace setting '{key[:40]}' is a text or a list of texts")
        request.settings[key].value.extend(map(str, values))
    return request


def trace_answer(response: pb.TraceSettingResponse) -> dict[str, Any]:
    """Return the settings as texts, and the levels as a list, as Triton writes them."""
    held: Mapping[str, Any] = response.settings
    return {
        key: list(setting.value) if key == "trace_level" else "".join(setting.value)
        for key, setting in held.items()
    }


def log_request(asked: Mapping[str, Any]) -> pb.LogSettingsRequest:
    """Return what changes settings of the log.

    Raises:
        InvalidRequest: a value is no flag, no number and no text.
    """
    request = pb.LogSettingsRequest()
    for key, value in asked.items():
        set_parameter(request.settings[key], key, value, whole="uint32_param")
    return request
