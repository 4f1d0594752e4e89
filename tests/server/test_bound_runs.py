"""Runs at fixed addresses, all but the GPU: buffers of the CPU take the place of its own."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from nyquist.models.samples import fashion_samples
from nyquist.server.runtime.bound_runs import BoundRuns
from nyquist.server.runtime.engine import Engine, open_runs, open_session
from nyquist.server.runtime.session_plan import CPU, CUDA, GRAPHS, Execution, SessionPlan
from nyquist.server.runtime.session_settings import SessionSettings
from nyquist.server.wire.errors import ArtifactError

ON_CPU = Execution("cpu", threads=1).plan(SessionSettings(), [CPU], 1)


@pytest.fixture(scope="module")
def graph(repository: Path) -> bytes:
    return (repository / "fashion_blur" / "1" / "model.onnx").read_bytes()


@pytest.fixture(scope="module")
def session(graph: bytes) -> ort.InferenceSession:
    return open_session(graph, ON_CPU, [CPU])


def test_runs_at_fixed_addresses_give_the_same_answers_and_leave_earlier_ones_alone(
    session: ort.InferenceSession,
) -> None:
    runs = BoundRuns(session, "cpu", 0)
    runs.check()
    pictures = fashion_samples().images[:4].numpy()
    expected = [session.run(None, {"image": pictures[a:b]})[0] for a, b in ((0, 2), (2, 4), (0, 3))]
    found = [runs.run(pictures[a:b])[0] for a, b in ((0, 2), (2, 4), (0, 3))]
    assert [part.tobytes() for part in found] == [part.tobytes() for part in expected]


def test_runs_at_fixed_addresses_need_fixed_sizes() -> None:
    grows = helper.make_graph(
        [helper.make_node("Relu", ["image"], ["logits"])],
        "grows",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, "height", 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1, "height", 8])],
    )
    model = helper.make_model(
        grows, opset_imports=[helper.make_opsetid("", 18)], ir_version=10
    ).SerializeToString()
    session = open_session(model, ON_CPU, [CPU])
    with pytest.raises(ArtifactError, match="needs tensors of fixed size, 'image' is"):
        BoundRuns(session, "cpu", 0)


class Forgetful(BoundRuns):
    """Answers what it was asked first."""

    first: list[np.ndarray[Any, Any]] | None = None

    def run(self, batch: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        if self.first is None:
            self.first = super().run(batch)
        return self.first


class Failing(BoundRuns):
    """Cannot."""

    def run(self, batch: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        raise RuntimeError(f"no graph of {batch.shape}")


@pytest.mark.parametrize(
    ("kind", "reason"), [(Forgetful, "gives other answers"), (Failing, "fails: no graph of")]
)
def test_graphs_that_do_not_work_are_noticed_before_a_request_comes(
    session: ort.InferenceSession, kind: type[BoundRuns], reason: str
) -> None:
    with pytest.raises(ArtifactError, match=f"a CUDA graph {reason}"):
        kind(session, "cpu", 0).check()


def test_a_run_told_to_end_fails_until_runs_are_resumed(session: ort.InferenceSession) -> None:
    runs = BoundRuns(session, "cpu", 0)
    runs.terminate()
    with pytest.raises(Exception, match="terminate"):
        runs.run(np.zeros((1, 1, 48, 48), np.float32))
    runs.resume()
    runs.check()


class OnCuda:
    """A session that says it is on a GPU."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def get_providers(self) -> list[str]:
        return [CUDA, CPU]


@pytest.fixture
def opened(session: ort.InferenceSession, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each session was opened with graphs; each says that it is on a GPU."""
    asked: list[bool] = []

    def opens(_: bytes, plan: SessionPlan, *_rest: object) -> OnCuda:
        asked.append(plan.graphs)
        return OnCuda(session)

    monkeypatch.setattr("nyquist.server.runtime.engine.open_session", opens)
    return asked


def runs_with(settings: SessionSettings) -> BoundRuns | None:
    plan = Execution().plan(settings, [CUDA, CPU], 1)
    return open_runs(b"", plan, settings, [CUDA, CPU])[1]


def test_cuda_runs_by_graphs(opened: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "nyquist.server.runtime.engine.BoundRuns", lambda made, _, id_: BoundRuns(made, "cpu", id_)
    )
    assert isinstance(runs_with(SessionSettings()), BoundRuns)
    assert opened == [True]


def test_where_graphs_fail_cuda_runs_without_and_says_so(
    opened: list[bool], caplog: pytest.LogCaptureFixture
) -> None:
    """There is no GPU to hold the buffers."""
    assert runs_with(SessionSettings()) is None
    assert opened == [True, False]
    assert "no CUDA graphs, each batch is filled up to the largest: a CUDA gr" in caplog.text


def test_without_graphs_every_batch_has_one_size(
    session: ort.InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "nyquist.server.runtime.engine.open_runs", lambda *_: (OnCuda(session), None)
    )
    engine = Engine(b"", Execution(), max_batch_size=8)
    assert [engine.padding(size) for size in (1, 5, 8)] == [7, 3, 0]
    picture = fashion_samples().images[:1].numpy()
    (found,) = engine.run(picture)["logits"]
    assert np.allclose(found, session.run(None, {"image": picture})[0], atol=1e-5)


def test_graphs_that_a_model_insists_on_or_refuses(opened: list[bool]) -> None:
    with pytest.raises(ArtifactError, match="a CUDA graph fails"):
        runs_with(SessionSettings(cuda={GRAPHS: "1"}))
    assert runs_with(SessionSettings(cuda={GRAPHS: "0"})) is None
    assert opened == [True, False]


def test_a_model_without_a_batch_is_run_unpadded_and_one_with_it_is_warmed_whole(
    session: ort.InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without graphs; what is told of the warm-up is the answer for one picture."""
    monkeypatch.setattr(
        "nyquist.server.runtime.engine.open_runs", lambda *_: (OnCuda(session), None)
    )
    picture = np.zeros((1, 48, 48), np.float32)
    for largest, missing in ((4, 1), (0, 0)):
        engine = Engine(b"", Execution("cuda"), max_batch_size=largest)
        assert engine.padding(3) == missing
        assert [output.shape for output in engine.warm(picture).values()] == [(1, 10)]
