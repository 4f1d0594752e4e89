from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from models.samples import fashion_samples
from server.engine import CPU, CUDA, Engine, Execution, bucket_sizes, missing_rows, pad_batch
from server.errors import ArtifactError, InferenceFailed, StartError

HEURISTIC = {"cudnn_conv_algo_search": "HEURISTIC"}
WITHOUT_CUDA = CUDA not in ort.get_available_providers()


@pytest.fixture(scope="module")
def graph(repository: Path) -> bytes:
    return (repository / "fashion_blur" / "1" / "model.onnx").read_bytes()


def test_the_cpu_alone_is_asked_for_where_this_onnxruntime_has_no_cuda() -> None:
    assert Execution().providers([CPU]) == [(CPU, {})]
    assert Execution(provider="cpu").providers([CUDA, CPU]) == [(CPU, {})]


def test_cuda_is_asked_for_with_a_search_that_does_not_stall_and_the_cpu_behind_it() -> None:
    assert Execution().providers([CUDA, CPU]) == [(CUDA, HEURISTIC), (CPU, {})]
    assert Execution(provider="cuda").providers([CPU]) == [(CUDA, HEURISTIC), (CPU, {})]


def test_required_cuda_leaves_no_way_to_the_cpu() -> None:
    strict = Execution(require_cuda=True)
    assert strict.providers([CUDA, CPU]) == [(CUDA, HEURISTIC)]
    assert strict.session_config()["session.disable_cpu_ep_fallback"] == "1"
    assert "session.disable_cpu_ep_fallback" not in Execution().session_config()


def test_threads_do_not_spin() -> None:
    config = Execution().session_config()
    assert config["session.intra_op.allow_spinning"] == "0"
    assert config["session.inter_op.allow_spinning"] == "0"


def test_the_cpu_and_required_cuda_contradict_each_other() -> None:
    with pytest.raises(StartError, match="contradicts"):
        Execution(provider="cpu", require_cuda=True)


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
