"""Runs from page-locked memory, all but the GPU: plain memory takes its place."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from models.samples import fashion_samples
from server.bound_runs import BoundRuns
from server.engine import CPU, Execution, bound_runs, open_session
from server.errors import ArtifactError
from server.pinned_runs import NVIDIA, PinnedRuns, page_locked_memory
from server.session_settings import SessionSettings

PLAIN = SessionSettings()
INTEL = int(ort.OrtDeviceVendorId.INTEL)


@pytest.fixture(scope="module")
def session(repository: Path) -> ort.InferenceSession:
    graph = (repository / "fashion_blur" / "1" / "model.onnx").read_bytes()
    return open_session(graph, Execution("cpu", threads=1).plan(PLAIN, [CPU], 1), [CPU])


@dataclass(frozen=True)
class Hardware:
    """What a provider runs on."""

    vendor_id: int


@dataclass(frozen=True)
class Memory:
    """Of a device, page-locked."""

    device_id: int


@dataclass(frozen=True)
class Device:
    """What onnxruntime lists: an execution provider on a piece of hardware, and its memory."""

    device: Hardware
    host: Memory | None

    def memory_info(self, kind: ort.OrtDeviceMemoryType) -> Memory | None:
        assert kind is ort.OrtDeviceMemoryType.HOST_ACCESSIBLE
        return self.host


def test_the_page_locked_memory_is_that_of_the_sessions_own_gpu() -> None:
    first, second = Memory(0), Memory(1)
    devices: Iterable[Any] = [
        Device(Hardware(INTEL), None),
        Device(Hardware(INTEL), Memory(1)),
        Device(Hardware(NVIDIA), first),
        Device(Hardware(NVIDIA), second),
    ]
    assert page_locked_memory(1, devices) is second
    assert page_locked_memory(0, devices) is first
    assert page_locked_memory(2, devices) is None


def test_a_machine_without_a_gpu_has_none() -> None:
    assert page_locked_memory(0, [d for d in ort.get_ep_devices() if d.ep_name == CPU]) is None


@pytest.mark.parametrize(("inputs", "outputs"), [(True, True), (True, False), (False, True)])
def test_answers_are_those_of_plain_runs_and_outlive_the_next_run(
    session: ort.InferenceSession, inputs: bool, outputs: bool
) -> None:
    runs = PinnedRuns(session, None, inputs=inputs, outputs=outputs)
    runs.check()
    pictures = fashion_samples().images[:4].numpy()
    slices = ((0, 2), (2, 4), (0, 3), (1, 4))
    expected = [session.run(None, {"image": pictures[a:b]})[0] for a, b in slices]
    found = [runs.run(pictures[a:b])[0] for a, b in slices]
    assert [part.tobytes() for part in found] == [part.tobytes() for part in expected]


@dataclass
class Recorder:
    """A session that notes what is asked of it and of its binding; it computes nothing."""

    session: ort.InferenceSession
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        if name in ("get_inputs", "get_outputs"):
            return getattr(self.session, name)
        if name == "io_binding":
            return lambda: self

        def note(*values: Any) -> None:
            self.asked.append((name, *map(told, values)))

        return note


def told(value: Any) -> Any:
    if isinstance(value, ort.OrtValue):
        return f"{value.data_type()} {list(value.shape())} on {value.device_name()}"
    return type(value).__name__ if isinstance(value, np.ndarray | ort.RunOptions) else value


def test_what_is_asked_of_onnxruntime_to_the_letter(session: ort.InferenceSession) -> None:
    recorder: Any = Recorder(session)
    batch = np.zeros((2, 1, 48, 48), np.float32)
    runs = PinnedRuns(recorder, None, inputs=True, outputs=True)
    runs.run(batch)
    runs.run(batch)
    each_time = [
        ("bind_ortvalue_input", "image", "tensor(float) [2, 1, 48, 48] on cpu"),
        ("synchronize_inputs",),
        ("run_with_iobinding", recorder, "RunOptions"),
        ("synchronize_outputs",),
    ]
    once = [("bind_ortvalue_output", "logits", "tensor(float) [2, 10] on cpu")]
    assert recorder.asked == [*once, *each_time, *each_time]
    recorder.asked.clear()
    PinnedRuns(recorder, None, inputs=False, outputs=False).run(batch)
    assert recorder.asked == [
        ("bind_output", "logits"),
        ("bind_cpu_input", "image", "ndarray"),
        ("synchronize_inputs",),
        ("run_with_iobinding", recorder, "RunOptions"),
        ("synchronize_outputs",),
        ("copy_outputs_to_cpu",),
    ]


class Careless(PinnedRuns):
    """Forgets what it was given."""

    def run(self, batch: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        return super().run(np.zeros_like(batch))


class Failing(PinnedRuns):
    """Cannot."""

    def run(self, batch: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        raise RuntimeError(f"no such allocator for {batch.shape}")


@pytest.mark.parametrize(
    ("kind", "reason"), [(Careless, "gives other answers"), (Failing, "no such allocator")]
)
def test_buffers_that_do_not_work_are_noticed_before_a_request_comes(
    session: ort.InferenceSession, kind: type[PinnedRuns], reason: str
) -> None:
    with pytest.raises(ArtifactError, match=f"page-locked memory .*{reason}"):
        kind(session, None, inputs=True, outputs=True).check()


def test_a_run_told_to_end_fails_until_runs_are_resumed(session: ort.InferenceSession) -> None:
    runs = PinnedRuns(session, None, inputs=True, outputs=True)
    runs.terminate()
    with pytest.raises(Exception, match="terminate"):
        runs.run(np.zeros((1, 1, 48, 48), np.float32))
    runs.resume()
    runs.check()


def test_without_page_locked_memory_or_the_wish_for_it_runs_are_plain(
    session: ort.InferenceSession,
) -> None:
    there: list[Any] = [Device(Hardware(NVIDIA), Memory(0))]
    unwished = SessionSettings(pinned_input=False, pinned_output=False)
    assert bound_runs(session, unwished, there) is None
    assert bound_runs(session, SessionSettings(device_id=1), there) is None
    assert bound_runs(session, PLAIN, []) is None


def test_page_locked_memory_that_cannot_be_had_is_done_without_and_named(
    session: ort.InferenceSession, caplog: pytest.LogCaptureFixture
) -> None:
    """The memory is only listed: onnxruntime cannot make tensors in it."""
    listed: list[Any] = [Device(Hardware(NVIDIA), Memory(0))]
    assert bound_runs(session, PLAIN, listed) is None
    assert "take plain memory: page-locked memory fails" in caplog.text


def test_cuda_graphs_need_buffers_of_the_device_itself(session: ort.InferenceSession) -> None:
    graphs = SessionSettings(cuda={"enable_cuda_graph": "1"})
    assert isinstance(bound_runs(session, graphs, []), BoundRuns)
