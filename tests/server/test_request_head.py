"""A request that is read by its head is the request that protobuf reads."""

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.wire.decode import InferCall, RequestedOutput
from nyquist.server.wire.encode import AnswerForm, encode_response
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.request_head import LONGEST_HEAD, Heads, Incoming, Requests
from nyquist.server.wire.signature import Signature

words = st.text(max_size=5)
parameters = st.dictionaries(words, st.builds(pb.InferParameter, int64_param=st.integers(0, 300)))
inputs = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=words,
    datatype=words,
    shape=st.lists(st.integers(-2, 1 << 40), max_size=4),
    parameters=parameters,
)
outputs = st.builds(pb.ModelInferRequest.InferRequestedOutputTensor, name=words)
requests = st.builds(
    pb.ModelInferRequest,
    model_name=words,
    model_version=words,
    id=words,
    parameters=parameters,
    inputs=st.lists(inputs, max_size=2),
    outputs=st.lists(outputs, max_size=2),
    raw_input_contents=st.lists(st.binary(max_size=400), max_size=2),
)
"""Bytes of a request, its fields in the order of their numbers or with one of them elsewhere."""
bodies = st.one_of(
    requests.map(pb.ModelInferRequest.SerializeToString),
    st.tuples(requests, requests).map(
        lambda pair: pair[0].SerializeToString() + pair[1].SerializeToString()
    ),
)


def agrees_with_protobuf(body: bytes) -> bool:
    """Check one body, and return whether it has a head."""
    request = Incoming(body)
    if not request.head:
        return False
    try:
        expected = pb.ModelInferRequest.FromString(body)
    except DecodeError:
        try:
            pb.ModelInferRequest.FromString(request.head)
        except DecodeError:
            return True
        raise AssertionError("a head that can be parsed, of a request that cannot") from None
    assert request.id == expected.id
    (raw,) = expected.raw_input_contents
    assert body[request.start : request.start + request.size] == raw
    expected.ClearField("id")
    expected.ClearField("raw_input_contents")
    assert pb.ModelInferRequest.FromString(request.head) == expected
    return True


@given(bodies, bodies)
def test_a_request_laid_out_like_an_earlier_one_is_read_as_if_it_were_the_first(
    earlier: bytes, later: bytes
) -> None:
    reader = Requests()
    reader.read(earlier)
    assert_read_alike(reader, later)


def test_one_byte_that_differs_before_the_contents_is_enough_to_be_read_anew() -> None:
    inputs = [{"name": "image", "datatype": "UINT8", "shape": [1, 200]}]
    request = pb.ModelInferRequest(model_name="m", inputs=inputs, raw_input_contents=[bytes(200)])
    good = request.SerializeToString()
    reader = Requests()
    assert reader.read(good).head
    for at in range(len(good) - 200):
        for byte in (0, 1, 10, 57, 58, 72, 199, 200, 255):
            assert_read_alike(reader, good[:at] + bytes([byte]) + good[at + 1 :])
            reader.read(good)


def assert_read_alike(reader: Requests, body: bytes) -> None:
    found, expected = reader.read(body), Incoming(body)
    assert found.head == expected.head
    if expected.head:
        ends = (expected.id, expected.start, expected.size)
        assert (found.id, found.start, found.size) == ends


@given(bodies)
def test_a_head_holds_all_of_a_request_but_its_id_and_its_contents(body: bytes) -> None:
    agrees_with_protobuf(body)


@given(bodies, st.data())
def test_damaged_bytes_are_never_read_in_another_way_than_protobuf_does(
    body: bytes, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(body)))
    replaced = data.draw(st.integers(0, 2))
    agrees_with_protobuf(body[:at] + data.draw(st.binary(max_size=3)) + body[at + replaced :])


def test_the_fields_may_come_in_any_order() -> None:
    fields: list[dict[str, Any]] = [
        {"model_name": "m"},
        {"id": "7"},
        {"inputs": [pb.ModelInferRequest.InferInputTensor(name="image", shape=[1, 2])]},
        {"raw_input_contents": [bytes(300)]},
    ]
    parts = [pb.ModelInferRequest(**field).SerializeToString() for field in fields]
    assert all(agrees_with_protobuf(b"".join(order)) for order in permutations(parts))


def test_what_has_no_head_is_left_to_protobuf() -> None:
    good: dict[str, Any] = {"model_name": "m", "raw_input_contents": [b"1"]}
    others: list[dict[str, Any]] = [
        {"raw_input_contents": []},
        {"raw_input_contents": [b"1", b"2"]},
        {"id": "ä"},
        {"model_name": "m" * LONGEST_HEAD},
    ]
    assert Incoming(pb.ModelInferRequest(**good).SerializeToString()).head
    for other in others:
        assert not Incoming(pb.ModelInferRequest(**(good | other)).SerializeToString()).head


def test_callers_who_choose_ever_other_heads_fill_no_memory() -> None:
    heads: Heads[int] = Heads()
    for number in range(10_000):
        heads.remember(b"%d" % number, number)
    kept = [number for number in range(10_000) if heads.get(b"%d" % number) is not None]
    assert 0 < len(kept) < 1000
    assert kept[-1] == 9_999
    heads.remember(b"", 1)
    assert heads.get(b"") is None


@pytest.fixture(scope="session")
def signature(repository: Path) -> Signature:
    """Of a model with two outputs."""
    one = read_manifest(repository / "fashion_strided", 1)
    (logits,) = one.outputs
    other = logits.model_copy(update={"name": "other", "shape": (3, 2)})
    return one.model_copy(update={"outputs": (logits, other)}).signature


@given(request_id=st.text(max_size=3), batch=st.integers(1, 70), asked=st.integers(0, 2))
def test_an_answer_that_is_filled_in_is_the_one_that_protobuf_writes(
    signature: Signature, request_id: str, batch: int, asked: int
) -> None:
    names = [output.name for output in signature.outputs][: asked or None]
    call = InferCall((), tuple(map(RequestedOutput, names)), typed=False)
    arrays = {
        output.name: np.random.default_rng(batch).random((batch, *output.shape)).astype(np.float32)
        for output in signature.outputs
    }
    form = AnswerForm.of(call, signature, batch)
    assert form is not None
    expected = encode_response(request_id, call, arrays, signature, {})
    assert form.fill(request_id.encode(), arrays) == expected


def test_an_answer_of_another_size_than_was_said_is_not_filled_in(signature: Signature) -> None:
    call = InferCall((), (RequestedOutput("logits"),), typed=False)
    form = AnswerForm.of(call, signature, 2)
    assert form is not None
    assert form.fill(b"", {"logits": np.zeros((1, 10), np.float32)}) is None
