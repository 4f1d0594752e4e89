"""Bodies of REST without a server: what they hold is what they say, and texts are tensors too."""

import asyncio
import json
from typing import Any

import pytest

from nyquist.server.front.bodies import Bodies, BodyLimits
from nyquist.server.front.http_body import read_body
from nyquist.server.front.rest_tensors import InferRequests
from nyquist.server.wire import tensors
from nyquist.server.wire.errors import InvalidRequest
from nyquist.server.wire.pb import inference_pb2 as pb


@pytest.mark.parametrize("texts", [["a", "", "ü"], [["a"], [""], ["ü"]]])
def test_texts_of_json_are_elements_of_bytes(texts: list[Any]) -> None:
    given = {"name": "words", "shape": [3], "datatype": "BYTES", "data": texts}
    body = json.dumps({"inputs": [given]}).encode()
    message, _ = InferRequests().read("any", "", body, len(body))
    (raw,) = pb.ModelInferRequest.FromString(message).raw_input_contents
    assert tensors.parse_bytes_elements(raw) == [b"a", b"", "ü".encode()]


@pytest.mark.parametrize(
    ("declared", "chunks", "message"),
    [(70_000, 3, "has more than the 70000"), (70_000, 1, "has 30000 bytes, it declares 70000")],
)
def test_a_long_body_has_what_it_declares(declared: int, chunks: int, message: str) -> None:
    events = [
        {"type": "http.request", "body": bytes(30_000), "more_body": left > 0}
        for left in reversed(range(chunks))
    ]

    async def receive() -> dict[str, Any]:
        return events.pop(0)

    length = {b"content-length": b"%d" % declared}
    reading = read_body(receive, length, Bodies(BodyLimits(100_000)), None, 100_000)
    with pytest.raises(InvalidRequest, match=message):
        asyncio.run(reading)
