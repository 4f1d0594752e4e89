import logging
from pathlib import Path

import pytest

from server.batcher import BatchLimits
from server.errors import ArtifactError
from server.model_config import batch_limits, parse_model_config

PATH = Path("m/config.pbtxt")
LEAST = 'platform: "onnxruntime_onnx" max_batch_size: 8 '


def limits(text: str) -> BatchLimits:
    return batch_limits(parse_model_config(LEAST + text, PATH))


def test_the_batching_settings_that_triton_users_know_are_read() -> None:
    text = """dynamic_batching {
        max_queue_delay_microseconds: 1500
        default_queue_policy { max_queue_size: 7 }
    }"""
    assert limits(text) == BatchLimits(8, merge=True, max_queue_delay_s=0.0015, max_queue_size=7)


def test_without_dynamic_batching_requests_do_not_share_a_run() -> None:
    assert limits("") == BatchLimits(8, merge=False, max_queue_size=1024)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST + "sequence_batching {}", "sequence_batching is not served"),
        (LEAST + "ensemble_scheduling {}", "ensemble_scheduling is not served"),
        ('platform: "tensorrt_plan" max_batch_size: 8', "platform is 'tensorrt_plan'"),
        ('platform: "onnxruntime_onnx"', "max_batch_size is 0, least is 1"),
        ("max_batchsize: 8", "max_batchsize"),
    ],
)
def test_a_configuration_that_cannot_be_honoured_is_refused(text: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        parse_model_config(text, PATH)


def test_settings_that_are_not_read_are_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        limits("dynamic_batching { preferred_batch_size: [4] } instance_group { count: 2 }")
    assert "not read: dynamic_batching.preferred_batch_size, instance_group" in caplog.text
