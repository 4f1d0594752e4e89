import pytest

from nyquist.server.serving.served_model import queue_options
from nyquist.server.wire.errors import InvalidRequest
from nyquist.server.wire.pb import inference_pb2 as pb


def request(**parameters: pb.InferParameter) -> pb.ModelInferRequest:
    return pb.ModelInferRequest(id="q1", parameters=parameters)


def test_priority_and_timeout_are_read_as_tritons_clients_send_them() -> None:
    asked = request(
        priority=pb.InferParameter(uint64_param=2), timeout=pb.InferParameter(int64_param=1500)
    )
    assert queue_options(asked) == (2, 0.0015)
    signed = request(priority=pb.InferParameter(int64_param=3))
    assert queue_options(signed) == (3, 0.0)
    assert queue_options(request()) == (0, 0.0)
    assert not request().parameters


@pytest.mark.parametrize(
    ("key", "parameter", "message"),
    [
        (
            "timeout",
            pb.InferParameter(uint64_param=1),
            "invalid value type for 'timeout' parameter, expected int64_param, got uint64_param.",
        ),
        (
            "priority",
            pb.InferParameter(string_param="high"),
            "invalid value type for 'priority' parameter, expected int64_param or uint64_param, "
            "got string_param.",
        ),
        (
            "priority",
            pb.InferParameter(),
            "invalid value type for 'priority' parameter, expected int64_param or uint64_param, "
            "got nothing.",
        ),
        (
            "timeout",
            pb.InferParameter(int64_param=-1),
            "invalid value for 'timeout' parameter, expected at least 0, got -1.",
        ),
    ],
)
def test_a_wish_of_the_wrong_kind_says_what_is_right(
    key: str, parameter: pb.InferParameter, message: str
) -> None:
    with pytest.raises(InvalidRequest) as failure:
        queue_options(request(**{key: parameter}))
    assert str(failure.value) == message
