from collections.abc import Sequence

import pytest
from google.protobuf import text_format

from nyquist.server.runtime.session_settings import SessionSettings, read_sessions
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import model_config_pb2 as pb


def sessions(text: str) -> Sequence[SessionSettings]:
    return read_sessions(text_format.Parse(text, pb.ModelConfig()))


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def accelerator(name: str, **parameters: str) -> str:
    pairs = "".join(
        f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items()
    )
    named = f'gpu_execution_accelerator {{ name: "{name}" {pairs} }}'
    return f"optimization {{ execution_accelerators {{ {named} }} }}"


def test_a_configuration_that_asks_for_nothing_gets_one_session_of_the_operators_choice() -> None:
    assert sessions("") == (SessionSettings(),)


@pytest.mark.parametrize(
    ("text", "placed"),
    [
        ("instance_group { count: 3 }", [("auto", 0)] * 3),
        ("instance_group { kind: KIND_CPU count: 2 }", [("cpu", 0)] * 2),
        ("instance_group { kind: KIND_GPU }", [("gpu", 0)]),
        ("instance_group { kind: KIND_MODEL }", [("auto", 0)]),
        (
            "instance_group { kind: KIND_GPU count: 2 gpus: [0, 3] }",
            [("gpu", 0), ("gpu", 0), ("gpu", 3), ("gpu", 3)],
        ),
        (
            "instance_group { kind: KIND_GPU gpus: [1] } instance_group { kind: KIND_CPU }",
            [("gpu", 1), ("cpu", 0)],
        ),
    ],
)
def test_every_instance_is_a_session_on_its_device(
    text: str, placed: list[tuple[str, int]]
) -> None:
    found = sessions(text)
    assert [(session.device, session.device_id) for session in found] == placed
    assert {session.instances for session in found} == {len(placed)}


def test_parameters_reach_onnxruntime_under_its_own_names_and_values() -> None:
    text = "".join(
        parameter(key, value)
        for key, value in {
            "intra_op_thread_count": "3",
            "execution_mode": "1",
            "inter_op_thread_count": "2",
            "enable_mem_arena": "0",
            "enable_mem_pattern": "0",
            "memory.enable_memory_arena_shrinkage": "cpu:0",
            "session.intra_op.allow_spinning": "true",
            "session.intra_op.spin_duration_us": "300",
            "session.set_denormal_as_zero": "1",
            "session.disable_prepacking": "1",
            "session.dynamic_block_base": "4",
            "cudnn_conv_algo_search": "0",
            "arena_extend_strategy": "kSameAsRequested",
            "gpu_mem_limit": "4294967296",
            "enable_cuda_graph": "1",
            "use_tf32": "0",
        }.items()
    )
    assert sessions(text + "optimization { graph { level: 2 } }") == (
        SessionSettings(
            intra_op_threads=3,
            parallel=True,
            inter_op_threads=2,
            memory_arena=False,
            memory_pattern=False,
            entries={
                "session.intra_op.allow_spinning": "1",
                "session.intra_op.spin_duration_us": "300",
                "session.set_denormal_as_zero": "1",
                "session.disable_prepacking": "1",
                "session.dynamic_block_base": "4",
            },
            cuda={
                "cudnn_conv_algo_search": "EXHAUSTIVE",
                "arena_extend_strategy": "kSameAsRequested",
                "gpu_mem_limit": "4294967296",
                "enable_cuda_graph": "1",
                "use_tf32": "0",
            },
            optimization="ORT_DISABLE_ALL",
        ),
    )


def test_openvino_is_passed_over_since_it_computes_the_same() -> None:
    named = 'cpu_execution_accelerator { name: "openvino" }'
    assert sessions(f"optimization {{ execution_accelerators {{ {named} }} }}") == sessions("")


def test_accelerators_reach_onnxruntime_under_its_own_names_and_values() -> None:
    text = accelerator("tensorrt", precision_mode="FP16", max_workspace_size_bytes="1073741824")
    (session,) = sessions(text)
    assert session.tensorrt == {"trt_fp16_enable": "1", "trt_max_workspace_size": "1073741824"}
    (session,) = sessions(accelerator("tensorrt"))
    assert session.tensorrt == {}
    (session,) = sessions(accelerator("cuda", prefer_nhwc="1") + parameter("use_tf32", "0"))
    assert session.cuda == {"prefer_nhwc": "1", "use_tf32": "0"}
    assert session.tensorrt is None


def test_preferred_sizes_are_known_to_the_session() -> None:
    (session,) = sessions("dynamic_batching { preferred_batch_size: [3, 6] }")
    assert session.batch_sizes == (3, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            parameter("session.intra_op.alow_spinning", "1"),
            r"parameters has 'session.intra_op.alow_spinning', choices are arena_extend_strategy, "
            r".*session.intra_op.allow_spinning",
        ),
        (
            parameter("cudnn_conv_algo_search", "FAST"),
            "parameters.cudnn_conv_algo_search is 'FAST', choices are 0, 1, 2, EXHAUSTIVE, "
            "HEURISTIC, DEFAULT",
        ),
        (parameter("use_tf32", "yes"), "use_tf32 is 'yes', choices are 0, 1, false, true"),
        (parameter("gpu_mem_limit", "4GB"), "gpu_mem_limit is '4GB', it takes a whole number"),
        (parameter("gpu_mem_limit", "-1"), "gpu_mem_limit is '-1', it takes a whole number"),
        (parameter("intra_op_thread_count", "²"), "intra_op_thread_count is '²'"),
        (
            accelerator("openvino"),
            "execution_accelerators names 'openvino', choices are cuda, tensorrt",
        ),
        (
            accelerator("tensorrt", precision_mode="INT4"),
            "tensorrt.precision_mode is 'INT4', choices are FP32, FP16",
        ),
        (
            accelerator("tensorrt", prefer_nhwc="1"),
            "tensorrt has 'prefer_nhwc', choices are max_workspace_size_bytes, precision_mode",
        ),
        (
            'optimization { execution_accelerators { cpu_execution_accelerator { name: "x" } } }',
            "'x' is not served on the CPU",
        ),
        ("optimization { graph { level: 3 } }", "level is 3, choices are -1, 0, 1, 2"),
        (
            "instance_group { kind: 7 }",
            "kind is 7, choices are KIND_AUTO, KIND_GPU, KIND_CPU",
        ),
        ("instance_group { count: -1 }", "count is -1, choices are 1 to 64"),
        ("instance_group { count: 300 }", "count is 300, choices are 1 to 64"),
        (
            "instance_group { kind: KIND_GPU count: 33 gpus: [0, 1] }",
            "asks for 66 instances, most is 64",
        ),
        (
            parameter("session.optimized_model_filepath", "/x"),
            "has 'session.optimized_model_filepa",
        ),
        ("instance_group { kind: KIND_CPU gpus: [0] }", "gpus contradicts KIND_CPU"),
        ("instance_group { kind: KIND_GPU gpus: [-2] }", "gpus has -2, least is 0"),
    ],
)
def test_what_onnxruntime_would_take_in_silence_is_refused_with_the_choices(
    text: str, message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        sessions(text)
