import logging
from pathlib import Path

import pytest

from nyquist.server.artifact.model_config import check_model_config, parse_model_config
from nyquist.server.runtime.session_settings import read_sessions
from nyquist.server.scheduling.limits import BatchLimits, QueuePolicy, batch_limits
from nyquist.server.wire.errors import ArtifactError

PATH = Path("m/config.pbtxt")
LEAST = 'platform: "onnxruntime_onnx" max_batch_size: 8 '


def read(text: str) -> BatchLimits:
    config = parse_model_config(text.encode(), PATH)
    check_model_config(config, PATH)
    read_sessions(config)
    return batch_limits(config)


def limits(text: str) -> BatchLimits:
    return read(LEAST + text)


def test_the_batching_settings_that_triton_users_know_are_read() -> None:
    text = """dynamic_batching {
        preferred_batch_size: [4, 2]
        max_queue_delay_microseconds: 1500
        priority_levels: 3
        default_priority_level: 2
        default_queue_policy {
            timeout_action: DELAY
            default_timeout_microseconds: 250000
            allow_timeout_override: true
            max_queue_size: 7
        }
        priority_queue_policy { key: 3 value { max_queue_size: 1 } }
    }"""
    default = QueuePolicy(7, timeout_s=0.25, delay=True, override=True)
    assert limits(text) == BatchLimits(
        8,
        max_queue_delay_s=0.0015,
        preferred_sizes=(2, 4),
        levels=(default, default, QueuePolicy(1)),
        default_level=2,
    )


@pytest.mark.parametrize(("given", "seconds"), [("", 120.0), ("7", 7.0), ("0", 0.0)])
def test_the_longest_run_is_a_parameter(given: str, seconds: float) -> None:
    parameter = f'{{ key: "max_run_seconds" value {{ string_value: "{given}" }} }}'
    assert limits(f"parameters {parameter}" if given else "").max_run_s == seconds


def test_order_is_kept_where_it_is_asked_for() -> None:
    assert limits("dynamic_batching { preserve_ordering: true }").preserve_ordering
    assert not limits("dynamic_batching {}").preserve_ordering


def test_without_dynamic_batching_requests_do_not_share_a_run() -> None:
    assert limits("") == BatchLimits(8, merge=False)
    assert limits("").levels == (QueuePolicy(max_size=1024),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LEAST + "sequence_batching {}", "sequence_batching is not served"),
        (LEAST + "ensemble_scheduling {}", "ensemble_scheduling is not served"),
        ('platform: "tensorrt_plan" max_batch_size: 8', "platform is 'tensorrt_plan'"),
        ('backend: "pytorch" max_batch_size: 8', "backend is 'pytorch', served is 'onnxruntime'"),
        ("max_batch_size: -1", "max_batch_size is -1, least is 0"),
        ("max_batch_size: 2147483647", "max_batch_size is 2147483647, most is 65536"),
        ('default_model_filename: "../x.onnx"', "is '../x.onnx', which is no plain name"),
        ("max_batchsize: 8", "max_batchsize"),
        (
            LEAST + "dynamic_batching { preferred_batch_size: [4, 9] }",
            "preferred_batch_size has 9, choices are 1 to 8",
        ),
        (
            LEAST + "dynamic_batching { priority_levels: 2 }",
            "default_priority_level is 0, choices are 1 to 2",
        ),
        (
            LEAST + "dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
            "default_priority_level is 3, choices are 1 to 2",
        ),
        (
            LEAST + "dynamic_batching { priority_levels: 100000000 default_priority_level: 1 }",
            "priority_levels is 100000000, most is 100",
        ),
        (
            LEAST + "dynamic_batching { priority_queue_policy { key: 1 value {} } }",
            "priority_queue_policy has 1, priority_levels is 0",
        ),
        (
            LEAST + "dynamic_batching { preserve_ordering: true"
            " priority_levels: 2 default_priority_level: 1 }",
            "preserve_ordering contradicts priority_levels 2",
        ),
        (
            LEAST + "dynamic_batching { preserve_ordering: true default_queue_policy"
            " { timeout_action: DELAY default_timeout_microseconds: 1 } }",
            "preserve_ordering contradicts timeout_action DELAY",
        ),
        (
            LEAST + 'parameters { key: "max_run_seconds" value { string_value: "1m" } }',
            "parameters.max_run_seconds is '1m', it takes a whole number of at least 0",
        ),
        (
            LEAST + 'parameters { key: "intra_op_threads" value { string_value: "2" } }',
            "parameters has 'intra_op_threads', choices are .*intra_op_thread",
        ),
    ],
)
def test_a_configuration_that_cannot_be_honoured_is_refused(text: str, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read(text)


def test_settings_that_are_not_read_are_named_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    text = """
        dynamic_batching { preferred_batch_size: [4] }
        instance_group { count: 2 passive: true }
        instance_group { rate_limiter { priority: 1 } }
        optimization {
            graph { level: 1 } eager_batching: true
            execution_accelerators {
                cpu_execution_accelerator { name: "openvino" }
                gpu_execution_accelerator { name: "cuda" parameters { key: "use_tf32" value: "0" } }
            }
        }
        response_cache { enable: true }
    """
    with caplog.at_level(logging.WARNING):
        limits(text)
    names = "instance_group.passive, instance_group.rate_limiter, optimization.eager_batching"
    accelerator = "optimization.execution_accelerators.cpu_execution_accelerator"
    assert f"not read: {names}, {accelerator}, response_cache" in caplog.text
