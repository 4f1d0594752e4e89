"""Mirroring to a companion: a real receiver, that takes, hangs, leaves and comes back."""

import logging
import socket
import weakref
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from nyquist.server.artifact.manifest import Manifest, read_manifest
from nyquist.server.serving.mirrored import Inference
from nyquist.server.serving.shadow import MAX_INFERENCES, Companion, Shadow, make_shadow
from nyquist.server.settings import read_settings
from nyquist.server.telemetry.current_call import Call, bind_call
from nyquist.server.telemetry.metrics import Metrics, ModelMetrics
from nyquist.server.wire.errors import StartError
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from nyquist.server.wire.tensors import from_raw
from tests.artifacts import copy_model, touch
from tests.processes import RunningServer, start_server
from tests.requests import fashion_request, logits
from tests.server.certificates import Authority
from tests.server.receiver import Receiver, until

NAME = "fashion_strided"
TOKEN = "a-token-that-is-long-enough"  # noqa: S105 - opens nothing
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
Outputs = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def manifest(repository: Path) -> Manifest:
    return read_manifest(repository / NAME, 1)


@pytest.fixture
def metrics() -> ModelMetrics:
    return Metrics().model(NAME, "1")


class Mirroring:
    """A shadow of one model, and what is offered to it."""

    def __init__(self, companion: Companion, share: float, manifest: Manifest) -> None:
        self._metrics = Metrics()
        self.offered = 0
        self._shadow = Shadow(companion, share)
        self._mirror = self._shadow.of(manifest, self._metrics.model(NAME, "1"))

    def __enter__(self) -> "Mirroring":
        self._shadow.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._shadow.close()

    def offer(self, batch: int = 1) -> "weakref.ref[NDArray[np.float32]]":
        """Mirror a request whose every value is its number."""
        self.offered += 1
        pictures = np.full((batch, 1, 48, 48), self.offered, np.float32)
        self._mirror(pictures, {"logits": np.full((batch, 10), -self.offered, np.float32)})
        return weakref.ref(pictures)

    def counted(self, what: str) -> float:
        labels = {"model": NAME, "version": "1"}
        value = self._metrics.registry.get_sample_value(f"nyquist_shadow_{what}_total", labels)
        assert value is not None
        return value


def array(tensor: Any) -> NDArray[Any]:
    return from_raw(tensor.raw, tensor.datatype, tensor.shape)


def test_a_share_of_one_mirrors_each_request_with_its_answer(manifest: Manifest) -> None:
    with Receiver() as receiver, Mirroring(Companion(receiver.target), 1.0, manifest) as shadow:
        for _ in range(50):
            shadow.offer(batch=3)
        receiver.wait_until(lambda it: len(it.received) == 50)
        until(lambda: shadow.counted("mirrored") == 50)
        assert shadow.counted("dropped") == 0
    for number, message in enumerate(receiver.received, 1):
        assert (message.model_name, message.model_version) == (NAME, "1")
        assert message.sha256 == manifest.graph_sha256
        assert message.pictures.name == "image"
        pictures, (output,) = array(message.pictures), message.outputs
        assert (pictures == number).all()
        assert pictures.shape == (3, 1, 48, 48)
        assert output.name == "logits"
        assert (array(output) == -number).all()
    assert receiver.streams == 1


def test_a_share_chooses_about_as_many(manifest: Manifest) -> None:
    with Receiver() as receiver, Mirroring(Companion(receiver.target), 0.1, manifest) as shadow:
        for _ in range(1000):
            shadow.offer()
        until(lambda: shadow.counted("mirrored") + shadow.counted("dropped") > 40)
        assert 40 < shadow.counted("mirrored") + shadow.counted("dropped") < 180, "6 deviations"


def test_a_companion_that_hangs_costs_its_inferences_and_no_memory(manifest: Manifest) -> None:
    with Receiver(reads=False) as receiver:
        with Mirroring(Companion(receiver.target), 1.0, manifest) as shadow:
            receiver.wait_until(lambda it: it.streams)
            kept = [shadow.offer(batch=16) for _ in range(3000)]  # 148 kB each
            assert shadow.counted("dropped") > 1000
            alive = sum(pictures() is not None for pictures in kept)
            assert alive <= MAX_INFERENCES + 1, "what is held, and what gRPC's thread let go last"
        assert shadow.counted("mirrored") + shadow.counted("dropped") == shadow.offered


def test_an_answer_that_is_part_of_its_batch_counts_with_the_whole(
    manifest: Manifest, metrics: ModelMetrics
) -> None:
    batch = np.empty((64, 10), np.float32)
    inference = Inference(manifest, metrics, np.empty(8, np.uint8), {"logits": batch[3:4]}, "")
    assert inference.nbytes == 8 + batch.nbytes


def test_a_companion_that_is_away_is_told_of_once_and_found_when_it_comes_back(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with ExitStack() as stack:
        kept = stack.enter_context(socket.socket())  # bound, or another process might take the port
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        port = kept.getsockname()[1]
        mirroring = Mirroring(Companion(f"127.0.0.1:{port}"), 1.0, manifest)
        shadow = stack.enter_context(mirroring)
        until(lambda: "is away" in caplog.text)
        until(lambda: shadow.counted("dropped") > 10, shadow.offer)
        for lap in (1, 2):
            with Receiver(port):  # until the sender has heard that something came through
                until(lambda: caplog.text.count(" gets ") == lap, shadow.offer)  # noqa: B023 - as below
            until(lambda: caplog.text.count("is away") == 1 + lap, shadow.offer)  # noqa: B023 - called at once
    told = [
        record.getMessage()
        for record in caplog.records
        if record.name == "nyquist.server.serving.shadow"
    ]
    assert [line.split("127.0.0.1")[1].split(" ")[1] for line in told] == [
        "is", "gets", "is", "gets", "is",
    ]  # fmt: skip
    assert shadow.counted("mirrored") + shadow.counted("dropped") == shadow.offered


def test_a_server_that_stops_does_not_wait_for_a_companion_that_hangs(manifest: Manifest) -> None:
    with Receiver(reads=False) as receiver:
        with Mirroring(Companion(receiver.target), 1.0, manifest) as shadow:
            receiver.wait_until(lambda it: it.streams)
            for _ in range(300):
                shadow.offer(batch=16)
        assert shadow.counted("mirrored") + shadow.counted("dropped") == 300


def test_the_stream_is_encrypted_and_brings_its_token(manifest: Manifest, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    identity = authority.issue("companion", "localhost")
    pair = (identity.key.read_bytes(), identity.certificate.read_bytes())
    with Receiver(credentials=grpc.ssl_server_credentials([pair]), token=TOKEN) as receiver:
        companion = Companion(receiver.target, authority.root.read_bytes(), TOKEN)
        with Mirroring(companion, 1.0, manifest) as shadow:
            shadow.offer()
            receiver.wait_until(lambda it: it.received)


def test_a_companion_that_refuses_is_away_and_the_log_says_why(
    manifest: Manifest, caplog: pytest.LogCaptureFixture
) -> None:
    with Receiver(token=TOKEN) as receiver, Mirroring(Companion(receiver.target), 1.0, manifest):
        until(lambda: "UNAUTHENTICATED no such token" in caplog.text)


def test_a_call_of_the_companion_itself_is_not_mirrored(manifest: Manifest) -> None:
    with Receiver() as receiver, Mirroring(Companion(receiver.target), 1.0, manifest) as shadow:
        bind_call(Call((("x-nyquist-no-shadow", "1"),)))
        shadow.offer()
        for source in ("probe", "shadow"):
            bind_call(Call((("x-nyquist-source", source),)))
            shadow.offer()
        bind_call(Call((("traceparent", f"00-{TRACE}-00f067aa0ba902b7-00"),)))
        shadow.offer()
        bind_call(Call(()))
        shadow.offer()
        receiver.wait_until(lambda it: len(it.received) == 2)
    assert [message.trace_id for message in receiver.received] == [TRACE, ""]
    assert shadow.counted("mirrored") + shadow.counted("dropped") == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read"), ("", "has 0 tokens"), ("one two", "has 2 tokens, expected one")],
)
def test_a_token_file_that_is_none_stops_the_server(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_text(content)
    flags = {"shadow_target": "localhost:1", "shadow_share": 1.0, "shadow_token_file": path}
    with pytest.raises(StartError, match=message):
        make_shadow(read_settings(flags))


def test_a_share_without_a_target_is_refused() -> None:
    with pytest.raises(StartError, match="--shadow-share needs --shadow-target"):
        read_settings({"shadow_share": 0.5})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


@pytest.fixture
def folder(repository: Path, tmp_path: Path) -> Path:
    return copy_model(repository, tmp_path, NAME)


@pytest.fixture
def mirroring(folder: Path, receiver: Receiver) -> Iterator[RunningServer]:
    options = ("--drain-s", "0", "--shadow-target", receiver.target, "--shadow-share", "1")
    running = start_server(folder.parent, options)
    yield running
    assert running.stop() == 0


def test_a_server_mirrors_what_it_answered_across_a_reload(
    mirroring: RunningServer, receiver: Receiver, folder: Path
) -> None:
    with grpc.insecure_channel(mirroring.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        answers = [logits(stub.ModelInfer(fashion_request(batch=2, model=NAME)))]
        touch(folder / "config.pbtxt")
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=NAME))
        stream = stub.ModelStreamInfer(
            iter([fashion_request(batch=batch, model=NAME) for batch in (1, 3)])
        )
        answers += [logits(answer.infer_response) for answer in stream]
        classes = fashion_request(model=NAME)
        classes.outputs.add(name="logits").parameters["classification"].int64_param = 1
        stub.ModelInfer(classes)
        invalid = fashion_request(model=NAME)
        invalid.inputs[0].datatype = "INT32"
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(invalid)
        stub.ModelInfer(fashion_request(batch=5, model=NAME))
        receiver.wait_until(lambda it: len(it.received) == 5)
    mirrored = [array(message.outputs[0]) for message in receiver.received]
    assert [len(output) for output in mirrored] == [2, 1, 3, 1, 5]
    for answer, output in zip(answers, mirrored, strict=False):
        np.testing.assert_array_equal(answer, output)
    np.testing.assert_array_equal(mirrored[3], answers[1])
    sent = fashion_request(batch=2, model=NAME).raw_input_contents[0]
    assert receiver.received[0].pictures.raw == sent


def test_a_share_of_nothing_opens_no_connection(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0)
        port = listener.getsockname()[1]
        options = ("--drain-s", "0", "--shadow-target", f"127.0.0.1:{port}")
        running = start_server(folder.parent, options)
        with grpc.insecure_channel(running.target) as channel:
            stubs.GRPCInferenceServiceStub(channel).ModelInfer(fashion_request(model=NAME))
        assert running.stop() == 0
        with pytest.raises(BlockingIOError):
            listener.accept()
