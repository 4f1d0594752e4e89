"""The Open Inference Protocol over plain HTTP, against a server process."""

import gzip
import http.client
import io
import json
import socket
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from openapi_spec_validator import validate
from PIL import Image

from nyquist.models.samples import fashion_samples, photograph_samples
from nyquist.server.wire import tensors
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import RunningServer, start_server

pytestmark = pytest.mark.parametrize("transport", ["h2corn"], indirect=True, scope="session")

MODEL = "/v2/models/fashion_strided"
ESPRESSO = 967
TOKEN, REPOSITORY_TOKEN = "a" * 32, "b" * 32


class Http:
    """One connection, kept open from request to request."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(
        self, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        sent = json.dumps(body).encode() if isinstance(body, dict) else body
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self._connection.request(method, path, sent, fields)
        answer = self._connection.getresponse()
        return answer.status, answer.read(), answer.headers

    def close(self) -> None:
        self._connection.close()

    def json(
        self, method: str, path: str, body: bytes | dict[str, Any] | None = None, **headers: str
    ) -> tuple[int, Any]:
        status, told, _ = self.ask(method, path, body, **headers)
        return status, json.loads(told or b"null")


@pytest.fixture
def plain(server: RunningServer) -> Iterator[Http]:
    connected = Http(server.port)
    yield connected
    connected.close()


def pictures(count: int) -> Any:
    return fashion_samples().images[:count].numpy()


def asked(values: Any, **more: Any) -> dict[str, Any]:
    tensor = {"name": "image", "shape": values.shape, "datatype": "FP32"}
    return {"inputs": [tensor | {"data": values.ravel().tolist()}], **more}


def binary(values: Any, *behind: bytes, **more: Any) -> tuple[bytes, dict[str, str]]:
    """Return the body and the headers of a request whose tensor lies behind the JSON."""
    raw = values.tobytes()
    size = {"binary_data_size": len(raw)}
    tensor = {"name": "image", "shape": values.shape, "datatype": "FP32", "parameters": size}
    text = json.dumps({"inputs": [tensor], **more}).encode()
    length = {"Inference-Header-Content-Length": str(len(text))}
    return b"".join((text, raw, *behind)), length


def of_grpc(stub: stubs.GRPCInferenceServiceStub, values: Any) -> Any:
    request = pb.ModelInferRequest(
        model_name="fashion_strided", raw_input_contents=[values.tobytes()]
    )
    request.inputs.add(name="image", datatype="FP32", shape=values.shape)
    response = stub.ModelInfer(request)
    return tensors.from_raw(response.raw_output_contents[0], "FP32", response.outputs[0].shape)


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.fromarray(photograph_samples().images[3].numpy()).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_json_gets_the_answer_of_grpc_flat_or_nested_and_with_its_id(
    plain: Http, stub: stubs.GRPCInferenceServiceStub
) -> None:
    values = pictures(2)
    status, told = plain.json("POST", f"{MODEL}/infer", asked(values, id="seven"))
    (output,) = told.pop("outputs")
    assert (status, told) == (
        200,
        {"id": "seven", "model_name": "fashion_strided", "model_version": "1"},
    )
    assert (output["name"], output["datatype"], output["shape"]) == ("logits", "FP32", [2, 10])
    assert output["data"] == of_grpc(stub, values).ravel().tolist()
    nested = asked(values)
    nested["inputs"][0]["data"] = values.tolist()
    _, again = plain.json("POST", f"{MODEL}/versions/1/infer", nested)
    assert "id" not in again
    assert again["outputs"] == [output]


def test_tensors_travel_as_bytes_behind_the_json_in_either_direction(
    plain: Http, stub: stubs.GRPCInferenceServiceStub
) -> None:
    # The JSON after the first is known, and before the last what to answer has been told.
    for name, values in zip("abb", pictures(3)[:, None], strict=True):
        everything = {"binary_data_output": True}
        body, length = binary(values, id=name, parameters=everything)
        status, told, headers = plain.ask("POST", f"{MODEL}/infer", body, **length)
        end = int(headers["Inference-Header-Content-Length"])
        answer = json.loads(told[:end])
        assert (status, answer["id"]) == (200, name)
        assert answer["outputs"][0]["parameters"] == {"binary_data_size": 40}
        assert told[end:] == of_grpc(stub, values).tobytes()


def test_an_output_is_binary_as_it_says_itself_and_classes_are_named(plain: Http) -> None:
    wanted = [{"name": "logits", "parameters": {"binary_data": False, "classification": 3}}]
    body, length = binary(pictures(2), outputs=wanted, parameters={"binary_data_output": True})
    status, told = plain.json("POST", f"{MODEL}/infer", body, **length)
    (output,) = told["outputs"]
    assert (status, output["datatype"], output["shape"]) == (200, "BYTES", [2, 3])
    assert all(len(element.split(":")) == 3 for element in output["data"])


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_body_may_be_compressed_and_is_inflated_no_further_than_bodies_may_be(
    plain: Http, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    body, length = binary(pictures(1))
    length["Content-Encoding"] = encoding
    status, told = plain.json("POST", f"{MODEL}/infer", pack(body), **length)
    assert (status, told["outputs"][0]["shape"]) == (200, [1, 10])
    bomb = pack(bytes(65 * 2**20))
    status, told = plain.json("POST", f"{MODEL}/infer", bomb, Content_Encoding=encoding)
    assert status == 413
    assert str(64 * 2**20) in told["error"]


ONE = {"name": "image", "shape": [1, 1, 48, 48], "datatype": "FP32"}
REFUSED: list[tuple[Any, str]] = [
    (b"{", "failed to parse the request JSON"),
    (b"[]", "the request JSON is an object, got a list"),
    ({"inputs": {}}, "inputs is a list of objects, got an object"),
    ({"inputs": []}, "expected 1 inputs but got 0 inputs"),
    ({"inputs": [ONE]}, "input 'image' has neither data nor binary_data_size"),
    ({"inputs": [ONE | {"data": [1.0]}]}, "expected 2304 elements for input 'image', got 1"),
    ({"inputs": [ONE | {"data": ["1"] * 2304}]}, "data of input 'image' is not all of FP32"),
    ({"inputs": [ONE | {"data": [[1, 2], [3]]}]}, "data of input 'image' is no tensor"),
    ({"inputs": [ONE | {"data": [[]] * 3000}]}, "expected 2304 elements"),
    (b"[" * (2**19 + 1), "JSON may have 524288 [ here; send binary data"),
    ({"inputs": [], "parameters": dict.fromkeys(map(str, range(4097)), 0)},
     "there may be 4096 parameters, got 4097"),
    ({"inputs": [ONE | {"datatype": "BYTES", "data": [1] * 2304}]}, "'image' is not all of BYTES"),
    ({"inputs": [ONE | {"shape": "1"}]}, "shape of input 'image' is a list of 64 axes at most"),
    ({"inputs": [ONE | {"shape": [1] * 65}]}, "is a list of 64 axes at most"),
    ({"inputs": [ONE | {"shape": [2**63]}]}, "an axis of input 'image' is a whole number of 64"),
    ({"inputs": [ONE | {"datatype": "FP99", "data": []}]}, "unknown datatype 'FP99' of 'image'"),
    ({"inputs": [ONE | {"datatype": "UINT8", "data": [256] * 2304}]}, "must be in 0..255, got 256"),
    ({"inputs": [{"shape": []}]}, "name is a text, got nothing"),
    ({"inputs": [ONE] * 257}, "there may be 256 inputs, got 257"),
    ({"inputs": [], "parameters": 3}, "parameters is an object, got a number"),
    ({"inputs": [], "parameters": {"priority": []}}, "'priority' is a flag, a number or a text"),
    ({"inputs": [], "parameters": {"priority": 2**63}}, "'priority' is a flag, a number or a text"),
    ({"inputs": [ONE | {"parameters": {"shared_memory_region": "r", "binary_data_size": 0}}]},
     "shared memory is not served"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), REFUSED)
def test_a_request_that_is_none_is_told_what_is_wrong(
    plain: Http, body: bytes | dict[str, Any], message: str
) -> None:
    status, told = plain.json("POST", f"{MODEL}/infer", body)
    assert status == (501 if "shared memory" in message else 400)
    assert message in told["error"]


@pytest.mark.parametrize("length", ["0", "-1", "abc", "99999999"])
def test_a_length_of_the_json_that_cannot_be_is_refused(plain: Http, length: str) -> None:
    headers = {"Inference-Header-Content-Length": length}
    status, told = plain.json("POST", f"{MODEL}/infer", asked(pictures(1)), **headers)
    assert status == 400
    assert "Inference-Header-Content-Length is from 1 to" in told["error"]


def test_bytes_that_belong_to_no_input_are_refused(plain: Http) -> None:
    body, length = binary(pictures(1), b"more")
    status, told = plain.json("POST", f"{MODEL}/infer", body, **length)
    assert (status, told["error"]) == (
        400,
        "the inputs have 9216 bytes behind the JSON by their binary_data_size, got 9220",
    )


def test_json_is_read_up_to_four_mebibytes_and_named_what_to_send_instead(plain: Http) -> None:
    status, told = plain.json("POST", f"{MODEL}/infer", b" " * (4 * 2**20 + 1))
    assert status == 413
    assert "tensors may be binary data" in told["error"]


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("GET", "/v2/models/nobody", 404, "Request for unknown model: 'nobody' is not found"),
        ("GET", f"{MODEL}/versions/9/stats", 404, "version 9 is not found"),
        ("GET", f"{MODEL}/versions/x", 400, "version should be an integral value > 0"),
        ("GET", f"/v2/models/{quote('../é', safe='')}", 404, "'../é' is not found"),
        ("POST", "/v2/models/nobody/classify", 404, "unknown model"),
        ("GET", "/", 404, "nothing is served at /; /openapi.json says what is"),
        ("GET", f"{MODEL}/infer", 405, "GET is not served here, POST is"),
        ("GET", "/v2/systemsharedmemory/status", 501, "shared memory is not served"),
        ("POST", "/v2/cudasharedmemory/region/r/register", 501, "shared memory is not served"),
    ],
)
def test_what_is_not_there_is_named_with_the_status_that_triton_has(
    plain: Http, method: str, path: str, status: int, message: str
) -> None:
    got, told = plain.json(method, path)
    assert got == status
    assert message in told["error"]


def test_health_metadata_and_statistics_are_those_of_grpc(
    plain: Http, stub: stubs.GRPCInferenceServiceStub
) -> None:
    for path in ("/v2/health/live", "/v2/health/ready", f"{MODEL}/ready"):
        assert plain.json("GET", path) == (200, {path.rpartition("/")[2]: True})
    assert plain.json("GET", "/v2/models/nobody/ready") == (400, {"ready": False})
    assert plain.json("GET", "/v2")[1]["name"] == "nyquist"
    metadata = plain.json("GET", MODEL)[1]
    said = stub.ModelMetadata(pb.ModelMetadataRequest(name="fashion_strided"))
    assert metadata["inputs"] == [{"name": "image", "datatype": "FP32", "shape": [-1, 1, 48, 48]}]
    assert metadata["parameters"] == {k: v.string_param for k, v in said.parameters.items()}
    config = plain.json("GET", f"{MODEL}/config")[1]
    assert (config["max_batch_size"], config["input"][0]["dims"]) == (64, [1, 48, 48])
    (counted,) = plain.json("GET", f"{MODEL}/stats")[1]["model_stats"]
    plain.json("POST", f"{MODEL}/infer", asked(pictures(2)))
    (then,) = plain.json("GET", f"{MODEL}/stats")[1]["model_stats"]
    assert then["inference_count"] == counted["inference_count"] + 2
    assert len(plain.json("GET", "/v2/models/stats")[1]["model_stats"]) > 1


def test_a_picture_as_the_body_is_classified(plain: Http) -> None:
    status, told = plain.json("POST", "/v2/models/efficientnet_lite0/classify?top=2", jpeg())
    assert (status, told["output"], len(told["classes"])) == (200, "logits", 2)
    first, second = told["classes"]
    assert (first["index"], first["label"]) == (ESPRESSO, "espresso")
    assert first["score"] > second["score"]


@pytest.mark.parametrize(
    ("query", "body", "message"),
    [
        ("", b"GIF89a", "expected a file of format JPEG, PNG, WEBP"),
        ("", b"", "the body is a JPEG, PNG or WebP, got nothing"),
        ("?top=0", b"x", "top is from 1 to 10000, got '0'"),
        ("?tops=1", b"x", "unknown option 'tops' of classify, there is 'top'"),
    ],
)
def test_what_is_no_picture_or_no_number_of_classes_is_refused(
    plain: Http, query: str, body: bytes, message: str
) -> None:
    status, told = plain.json("POST", f"/v2/models/efficientnet_lite0/classify{query}", body)
    assert status == 400
    assert message in told["error"]


def test_settings_are_changed_and_taken_back(plain: Http) -> None:
    assert plain.json("POST", "/v2/trace/setting", {"trace_rate": "7"})[1]["trace_rate"] == "7"
    of_model = plain.json("GET", f"{MODEL}/trace/setting")[1]
    assert (of_model["trace_rate"], of_model["trace_level"]) == ("7", ["OFF"])
    assert plain.json("POST", "/v2/trace/setting", {"trace_rate": None})[1]["trace_rate"] == "1000"
    assert plain.json("POST", "/v2/logging", {"log_verbose_level": 1})[1]["log_verbose_level"] == 1
    assert plain.json("POST", "/v2/logging", {"log_verbose_level": 0})[0] == 200
    assert plain.json("POST", "/v2/logging", {"log_verbose_level": []})[0] == 400


def test_the_description_is_valid_openapi_and_every_path_of_it_is_served(plain: Http) -> None:
    document = plain.json("GET", "/openapi.json")[1]
    validate(document)
    assert len(document["paths"]) == 22
    for path, operations in document["paths"].items():
        named = path.replace("{model}", "nobody").replace("{version}", "1")
        for method in operations.keys() & {"get", "post"}:
            status, told, _ = plain.ask(method.upper(), named, b"{}" if method == "post" else None)
            assert status != 405
            assert b"nothing is served" not in told


@pytest.fixture(scope="module")
def guarded(
    one_model: Path, transport: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Http]:
    """A connection to a server that wants tokens."""
    folder = tmp_path_factory.mktemp("tokens")
    options = ["--drain-s", "0", "--transport", transport, "--config-overrides"]
    for name, token in (("token", TOKEN), ("repository-token", REPOSITORY_TOKEN)):
        (folder / name).write_text(token)
        options += [f"--{name}-file", str(folder / name)]
    running = start_server(one_model, options)
    connected = Http(running.port)
    yield connected
    connected.close()
    assert running.stop() == 0


def test_a_caller_without_a_token_is_refused_before_its_body_is_read(guarded: Http) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as caller:
        caller.sendall(
            f"POST {MODEL}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n".encode()
        )
        assert caller.recv(100).startswith(b"HTTP/1.1 401")


def test_each_path_asks_for_the_token_of_its_call(guarded: Http) -> None:
    plain = guarded
    use, repository = (f"Bearer {token}" for token in (TOKEN, REPOSITORY_TOKEN))
    assert plain.ask("GET", "/v2/health/ready")[0] == 200
    for path in (MODEL, "/openapi.json"):
        status, _, headers = plain.ask("GET", path)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert plain.ask("GET", path, Authorization=use)[0] == 200
    unload = "/v2/repository/models/fashion_strided/unload"
    assert plain.ask("POST", unload, Authorization=use)[0] == 403
    body = {"parameters": {"unload_dependents": False}}
    assert plain.ask("POST", unload, body, Authorization=repository)[0] == 200
    assert plain.ask("GET", f"{MODEL}/ready")[0] == 400
    status, told = plain.json(
        "POST", "/v2/repository/index", {"ready": True}, Authorization=repository
    )
    assert (status, told) == (200, [])
    load = unload.replace("unload", "load")
    unknown = {"parameters": {"color": "red"}}
    status, told = plain.json("POST", load, unknown, Authorization=repository)
    assert (status, "unrecognized load parameter 'color'" in told["error"]) == (400, True)
    smaller = {"parameters": {"config": json.dumps({"max_batch_size": 2})}}
    assert plain.ask("POST", load, smaller, Authorization=repository)[0] == 200
    assert plain.json("GET", f"{MODEL}/config", Authorization=use)[1]["max_batch_size"] == 2
    assert plain.ask("POST", load, Authorization=repository)[0] == 200
    assert plain.ask("GET", f"{MODEL}/ready")[0] == 200
    assert (
        plain.json("POST", "/v2/repository/index", Authorization=repository)[1][0]["state"]
        == "READY"
    )
