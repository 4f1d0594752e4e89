from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from nyquist.models.samples import fashion_samples
from nyquist.server.runtime.engine import (
    Engine,
    bucket_sizes,
    find_cuda,
    missing_rows,
    open_session,
    pad_batch,
)
from nyquist.server.runtime.session_plan import CPU, CUDA, TENSORRT, Execution, SessionPlan
from nyquist.server.runtime.session_settings import SessionSettings
from nyquist.server.wire.errors import ArtifactError, InferenceFailed, StartError

ON_CUDA = {
    "cudnn_conv_algo_search": "HEURISTIC",
    "use_tf32": "0",
    "device_id": "0",
    "enable_cuda_graph": "1",
}
SHORT_SPINNING = {
    "session.intra_op.allow_spinning": "1",
    "session.intra_op.spin_duration_us": "20",
    "session.inter_op.allow_spinning": "0",
}
ANY = SessionSettings()
WITHOUT_CUDA = CUDA not in ort.get_available_providers()


@pytest.fixture(scope="module")
def graph(repository: Path) -> bytes:
    return (repository / "fashion_blur" / "1" / "model.onnx").read_bytes()


def plan(
    execution: Execution, settings: SessionSettings = ANY, available: Sequence[str] = (CUDA, CPU)
) -> SessionPlan:
    return execution.plan(settings, available, cores=8)


def test_the_cpu_alone_is_asked_for_where_this_onnxruntime_has_no_cuda() -> None:
    on_cpu = SessionPlan(((CPU, {}),), SHORT_SPINNING, intra_op_threads=8)
    assert plan(Execution(), available=[CPU]) == on_cpu
    assert plan(Execution(provider="cpu")) == on_cpu


def test_cuda_is_asked_for_with_a_search_that_does_not_stall_and_the_cpu_behind_it() -> None:
    on_cuda = SessionPlan(((CUDA, ON_CUDA), (CPU, {})), SHORT_SPINNING, intra_op_threads=8)
    assert plan(Execution()) == on_cuda
    assert plan(Execution(provider="cuda"), available=[CPU]) == on_cuda


def test_required_cuda_leaves_no_way_to_the_cpu() -> None:
    assert plan(Execution(require_cuda=True)) == SessionPlan(
        ((CUDA, ON_CUDA),),
        {**SHORT_SPINNING, "session.disable_cpu_ep_fallback": "1"},
        intra_op_threads=8,
        must=CUDA,
    )


def test_what_a_model_asks_for_is_asked_for_to_the_letter() -> None:
    settings = SessionSettings(
        device="gpu",
        device_id=3,
        intra_op_threads=5,
        entries={"session.intra_op.allow_spinning": "0"},
        cuda={"cudnn_conv_algo_search": "EXHAUSTIVE", "use_tf32": "1"},
        tensorrt={"trt_fp16_enable": "1"},
        optimization="ORT_ENABLE_BASIC",
        memory_arena=False,
        parallel=True,
        inter_op_threads=4,
    )
    assert plan(Execution(threads=2), settings) == SessionPlan(
        (
            (TENSORRT, {"device_id": "3", "trt_fp16_enable": "1"}),
            (CUDA, {"cudnn_conv_algo_search": "EXHAUSTIVE", "device_id": "3", "use_tf32": "1"}),
            (CPU, {}),
        ),
        {**SHORT_SPINNING, "session.intra_op.allow_spinning": "0"},
        intra_op_threads=5,
        optimization="ORT_ENABLE_BASIC",
        memory_arena=False,
        parallel=True,
        inter_op_threads=4,
        must=CUDA,
    )


def test_the_operators_cpu_wins_over_a_models_gpu() -> None:
    settings = SessionSettings(device="gpu", cuda={"use_tf32": "0"}, tensorrt={})
    on_cpu = plan(Execution(provider="cpu"), settings)
    assert (on_cpu.providers, on_cpu.must) == (((CPU, {}),), "")


def test_a_models_cpu_wins_over_the_operators_wish_for_cuda_and_not_over_its_need() -> None:
    settings = SessionSettings(device="cpu")
    assert plan(Execution(provider="cuda"), settings).providers == ((CPU, {}),)
    with pytest.raises(StartError, match="contradicts a model's instance_group of KIND_CPU"):
        plan(Execution(require_cuda=True), settings)


@pytest.mark.parametrize(
    ("operator", "model", "instances", "threads"),
    [(0, 0, 1, 8), (0, 0, 2, 4), (0, 0, 3, 2), (0, 0, 99, 1), (2, 0, 1, 2), (2, 3, 4, 3)],
)
def test_instances_share_the_cores_unless_a_number_of_threads_is_asked_for(
    operator: int, model: int, instances: int, threads: int
) -> None:
    settings = SessionSettings(instances=instances, intra_op_threads=model)
    assert plan(Execution(threads=operator), settings).intra_op_threads == threads


def test_a_session_is_opened_as_planned(graph: bytes) -> None:
    planned = SessionPlan(
        ((CPU, {}),),
        {"session.intra_op.allow_spinning": "1"},
        intra_op_threads=1,
        optimization="ORT_DISABLE_ALL",
        memory_arena=False,
        memory_pattern=False,
        parallel=True,
        inter_op_threads=2,
    )
    options = open_session(graph, planned, [CPU]).get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "1"
    assert options.intra_op_num_threads == 1
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern


@pytest.mark.parametrize("execution", [Execution("cpu"), Execution("cuda")])
def test_cuda_is_looked_for_where_pip_puts_it_before_a_session_asks_for_it(
    execution: Execution, graph: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr("nyquist.server.runtime.engine.ctypes.CDLL", lambda name: name)
    monkeypatch.setattr(
        "nyquist.server.runtime.engine.ort.preload_dlls", lambda: done.append("look")
    )
    monkeypatch.setattr(
        "nyquist.server.runtime.engine.ort.InferenceSession", lambda *_, **__: done.append("open")
    )
    find_cuda.cache_clear()
    for _ in range(2):
        open_session(graph, plan(execution), [CUDA, CPU])
    find_cuda.cache_clear()
    assert done == ["look"] * (execution.provider == "cuda") + ["open", "open"]


def test_without_a_driver_cuda_is_not_tried_and_what_is_missing_is_said_once(
    graph: bytes, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("nyquist.server.runtime.engine.ctypes.CDLL", absent)
    find_cuda.cache_clear()
    for _ in range(2):
        session = open_session(graph, plan(Execution("cuda")), [CUDA, CPU])
        assert session.get_providers() == [CPU]
    (line,) = caplog.messages
    assert "libcuda.so.1" in line
    with pytest.raises(ArtifactError, match=r"no NVIDIA driver .+ --gpus all"):
        open_session(graph, plan(Execution(require_cuda=True)), [CUDA, CPU])
    find_cuda.cache_clear()


def test_the_cpu_and_required_cuda_contradict_each_other() -> None:
    with pytest.raises(StartError, match="contradicts"):
        Execution(provider="cpu", require_cuda=True)


@pytest.mark.skipif(not WITHOUT_CUDA, reason="this machine may have a GPU that answers")
def test_a_model_that_asks_for_a_gpu_is_not_served_without_one(graph: bytes) -> None:
    with pytest.raises(ArtifactError, match="CUDAExecutionProvider is asked for"):
        Engine(graph, Execution(), 4, SessionSettings(device="gpu"))


@pytest.mark.skipif(not WITHOUT_CUDA, reason="this machine may have a GPU that answers")
def test_cuda_asked_for_in_vain_falls_back_and_says_so(graph: bytes) -> None:
    engine = Engine(graph, Execution(provider="cuda"), max_batch_size=4)
    assert engine.provider == CPU
    assert engine.fell_back
    assert not Engine(graph, Execution(provider="auto"), max_batch_size=4).fell_back


@pytest.mark.skipif(not WITHOUT_CUDA, reason="this machine may have a GPU that answers")
def test_cuda_required_in_vain_is_refused(graph: bytes) -> None:
    with pytest.raises(StartError, match="CUDA is required"):
        Engine(graph, Execution(require_cuda=True), max_batch_size=4)


def test_bytes_that_are_no_model_are_refused() -> None:
    with pytest.raises(ArtifactError, match="cannot open"):
        Engine(b"not a model", Execution(provider="cpu"), max_batch_size=4)


def test_a_batch_that_the_graph_cannot_take_fails_without_detail(graph: bytes) -> None:
    engine = Engine(graph, Execution(provider="cpu"), max_batch_size=4)
    with pytest.raises(InferenceFailed, match=r"^the model failed on this batch$"):
        engine.run(np.zeros((1, 1, 47, 48, 2), np.float32))


def test_cuda_buckets_are_the_powers_of_two_and_the_largest_batch() -> None:
    assert bucket_sizes(1) == (1,)
    assert bucket_sizes(16) == (1, 2, 4, 8, 16)
    assert bucket_sizes(12) == (1, 2, 4, 8, 12)


def test_preferred_sizes_are_buckets_too() -> None:
    assert bucket_sizes(16, (3, 8)) == (1, 2, 3, 4, 8, 16)


def test_a_batch_is_padded_to_the_next_bucket_and_not_at_all_without_buckets() -> None:
    assert [missing_rows(size, (1, 2, 4, 8)) for size in (1, 2, 3, 5, 8)] == [0, 0, 1, 3, 0]
    assert missing_rows(3, ()) == 0
    padded = pad_batch(np.ones((3, 2), np.float32), 1)
    assert padded.tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]


@pytest.mark.parametrize("model", ["fashion_strided", "fashion_polyphase", "fashion_max_blur"])
def test_on_the_cpu_an_answer_is_bit_identical_whatever_batch_it_rode_in(
    repository: Path, model: str
) -> None:
    content = (repository / model / "1" / "model.onnx").read_bytes()
    engine = Engine(content, Execution(provider="cpu"), max_batch_size=64)
    pictures = fashion_samples().images[:16].numpy()
    alone = [engine.run(pictures[i : i + 1])["logits"] for i in range(16)]
    for size in range(2, 17):
        together = engine.run(pictures[:size])["logits"]
        assert together.tobytes() == np.concatenate(alone[:size]).tobytes()


def test_the_number_of_threads_does_not_change_an_answer(graph: bytes) -> None:
    pictures = fashion_samples().images[:8].numpy()
    one, two = (
        Engine(graph, Execution("cpu", threads=threads), max_batch_size=8).run(pictures)["logits"]
        for threads in (1, 2)
    )
    assert one.tobytes() == two.tobytes()


def test_a_probe_tells_whether_a_warm_session_works(graph: bytes) -> None:
    engine = Engine(graph, Execution("cpu", threads=1), max_batch_size=2)
    picture = np.zeros((1, 48, 48), np.float32)
    engine.warm(picture)
    engine.probe()
    with pytest.raises(InferenceFailed):
        engine.warm(picture[:, 1:])
    with pytest.raises(InferenceFailed):
        engine.probe()
