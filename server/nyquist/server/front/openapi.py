"""The paths of plain HTTP in OpenAPI 3.1: one function a kind of path, and the document."""

from functools import cache
from importlib.metadata import version
from typing import Any

from nyquist.server.telemetry.log_control import KINDS
from nyquist.server.telemetry.trace_settings import CHECKS


def _reference(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"content": {"application/json": {"schema": schema}}}


def _object(required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:  # noqa: ANN401 - a schema
    described: dict[str, Any] = {"type": "object", "properties": properties}
    return described | ({"required": list(required)} if required else {})


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
ANYTHING = {"type": "object", "additionalProperties": True}
PLAIN = {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}}
SETTING = ["string", "integer"]
LOG = PLAIN | {"propertyNames": {"enum": sorted(KINDS)}}
TRACE = {
    "type": "object",
    "propertyNames": {"enum": sorted(CHECKS)},
    "additionalProperties": {"type": [*SETTING, "null", "array"], "items": {"type": SETTING}},
}
MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"
MODEL_PATH = {
    "name": "model", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1},
}  # fmt: skip
VERSION_PATH = {
    "name": "version", "in": "path", "required": True,
    "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,17}$"},
}  # fmt: skip
HEADER_LENGTH = {
    "name": "Inference-Header-Content-Length", "in": "header", "required": False,
    "schema": {"type": "integer", "minimum": 1},
    "description": "Bytes of JSON that the body begins with; the inputs that have a "
    "binary_data_size lie behind it, in their order. Without it the body is all JSON.",
}  # fmt: skip
ERRORS = {
    "400": "The request contradicts the protocol or the model.",
    "401": "There is no token, or a wrong one.",
    "403": "The token is for something else.",
    "404": "There is no such model, version or path.",
    "413": "The body is larger than one may be.",
    "429": "As many calls run as the server takes at a time.",
    "500": "The server failed.",
    "501": "This is left out on purpose.",
    "503": "The queue is full, the model is not ready, or the server stops.",
    "504": "The server's deadline came before the answer.",
}
TENSOR = _object(
    ("name", "datatype", "shape"),
    name=TEXT,
    datatype={"type": "string", "examples": ["FP32", "UINT8", "BYTES"]},
    shape=_list(WHOLE),
    parameters=PLAIN,
    data={"type": "array", "description": "Nested or flat, in row-major order.", "items": True},
)
SCHEMAS: dict[str, Any] = {
    "Error": _object(("error",), error=TEXT),
    "Server": _object(name=TEXT, version=TEXT, extensions=_list(TEXT)),
    "Tensor": TENSOR,
    "InferRequest": _object(
        ("inputs",),
        id=TEXT,
        inputs=_list(_reference("Tensor")),
        outputs=_list(_object(("name",), name=TEXT, parameters=PLAIN)),
        parameters=PLAIN,
    ),
    "InferResponse": _object(
        ("model_name", "model_version", "outputs"),
        id=TEXT,
        model_name=TEXT,
        model_version=TEXT,
        outputs=_list(_reference("Tensor")),
    ),
    "Classes": _object(
        ("model_name", "model_version", "output", "classes"),
        model_name=TEXT,
        model_version=TEXT,
        output={"type": "string", "description": "Whose values the scores are."},
        classes=_list(
            _object(
                ("index", "label", "score"), index=WHOLE, label=TEXT, score={"type": "number"}
            )
        ),
    ),
    "Metadata": _object(
        name=TEXT, versions=_list(TEXT), platform=TEXT, inputs=_list(_reference("Tensor")),
        outputs=_list(_reference("Tensor")), parameters=ANYTHING,
    ),
    "Statistics": _object(("model_stats",), model_stats=_list(ANYTHING)),
    "Index": _list(_object(name=TEXT, version=TEXT, state=TEXT, reason=TEXT)),
    "Settings": ANYTHING,
}  # fmt: skip


def _operation(
    name: str,
    summary: str,
    answer: dict[str, Any] | None = None,
    *,
    body: dict[str, Any] | None = None,
    parameters: tuple[dict[str, Any], ...] = (),
) -> dict[str, Any]:
    """Describe one method of one path; every one may end in each of the errors."""
    right = {"description": "As asked."} | (answer or {})
    wrong = {
        code: {"description": words} | _json(_reference("Error")) for code, words in ERRORS.items()
    }
    described: dict[str, Any] = {"operationId": name, "summary": summary}
    if body:
        described["requestBody"] = body
    if parameters:
        described["parameters"] = list(parameters)
    return described | {"responses": {"200": right} | wrong}


def _answers(name: str) -> dict[str, Any]:
    return _json(_reference(name))


def _of_model(suffix: str, method: str, operation: dict[str, Any]) -> dict[str, Any]:
    """Lay out a model's path, with and without its version."""
    of_version = operation | {"operationId": f"{operation['operationId']}OfVersion"}
    return {
        MODEL + suffix: {"parameters": [MODEL_PATH], method: operation},
        VERSION + suffix: {"parameters": [MODEL_PATH, VERSION_PATH], method: of_version},
    }


def _yes_or_no(name: str, summary: str, key: str) -> dict[str, Any]:
    """Describe what is answered with 200 for yes and 400 for no."""
    told: dict[str, Any] = {"type": "object", "properties": {key: FLAG}}
    operation = _operation(name, summary, _json(told))
    operation["responses"]["400"] = {"description": "It is not, or the request is wrong."} | _json(
        {"anyOf": [told, _reference("Error")]}
    )
    return operation


def _settings(name: str, summary: str, kind: dict[str, Any]) -> dict[str, Any]:
    body = {"required": False} | _json(kind)
    return {
        "get": _operation(f"get{name}", f"Return {summary}.", _answers("Settings")),
        "post": _operation(f"set{name}", f"Change {summary}.", _answers("Settings"), body=body),
    }


def _paths() -> dict[str, Any]:
    binary: dict[str, Any] = {"application/octet-stream": {"schema": {}}}
    infer = _operation(
        "infer",
        "Run a model. Outputs with the parameter binary_data come as bytes behind the JSON.",
        {"content": _answers("InferResponse")["content"] | binary},
        body={"required": True, "content": _answers("InferRequest")["content"] | binary},
        parameters=(HEADER_LENGTH,),
    )
    top = {
        "name": "top", "in": "query", "required": False,
        "schema": {"type": "integer", "minimum": 1, "maximum": 10_000, "default": 5},
    }  # fmt: skip
    classify = _operation(
        "classify",
        "Name the highest classes of a JPEG, PNG or WebP.",
        _answers("Classes"),
        body={
            "required": True,
            "content": {kind: {"schema": {}} for kind in ("image/*", "application/octet-stream")},
        },
        parameters=(top,),
    )
    change = {"required": False} | _json(_object(parameters=PLAIN))
    named = {"parameters": [MODEL_PATH]}
    ready = {"required": False} | _json(_object(ready=FLAG))
    return {
        "/v2": {"get": _operation("server", "Name the server.", _answers("Server"))},
        "/v2/health/live": {"get": _yes_or_no("live", "Say whether the process answers.", "live")},
        "/v2/health/ready": {
            "get": _yes_or_no("ready", "Say whether every model is ready.", "ready")
        },
        "/v2/models/stats": {
            "get": _operation("allStatistics", "Count all models.", _answers("Statistics"))
        },
        **_of_model("", "get", _operation("model", "Describe a model.", _answers("Metadata"))),
        **_of_model(
            "/ready",
            "get",
            _yes_or_no("modelReady", "Say whether a model is ready.", "ready"),
        ),
        **_of_model(
            "/config", "get", _operation("config", "Return a configuration.", _answers("Settings"))
        ),
        **_of_model(
            "/stats", "get", _operation("statistics", "Count a model.", _answers("Statistics"))
        ),
        **_of_model("/infer", "post", infer),
        **_of_model("/classify", "post", classify),
        MODEL + "/trace/setting": named
        | _settings("ModelTrace", "what is traced of a model", TRACE),
        "/v2/trace/setting": _settings("Trace", "what is traced", TRACE),
        "/v2/logging": _settings("Logging", "what is logged", LOG),
        "/v2/repository/index": {
            "post": _operation("index", "List the models.", _answers("Index"), body=ready)
        },
        "/v2/repository/models/{model}/load": named
        | {"post": _operation("load", "Load a model.", body=change)},
        "/v2/repository/models/{model}/unload": named
        | {"post": _operation("unload", "Unload a model.", body=change)},
    }


@cache
def openapi() -> dict[str, Any]:
    """Return the description of every path."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Nyquist",
            "version": version("nyquist-serving"),
            "description": "The Open Inference Protocol v2 over HTTP, with Triton's extensions.",
        },
        "paths": _paths(),
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
