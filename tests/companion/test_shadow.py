"""Live traffic that a server sends: what the companion makes of it."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event

import grpc
import numpy as np
import pytest

from nyquist.client.client import Client, RemoteModel
from nyquist.companion.measures.parity import compare, pooled
from nyquist.companion.references.repository import References
from nyquist.companion.watch.shadow import Allowance, TrafficWindow
from nyquist.server.wire.pb import shadow_pb2 as pb
from nyquist.server.wire.pb import shadow_pb2_grpc as stubs
from tests.companion.processes import RunningCompanion, start_companion
from tests.processes import RunningServer

MODEL = "fashion_strided"
LIVE = f'{{model="{MODEL}",version="1"}}'
FORGED_ANSWERS = {
    "answers": ([1, 5], bytes(20)),
    "batch": ([2, 10], bytes(80)),
    "nothing": ([0, 10], b""),
    "scalar": ([], bytes(4)),
}
SLOW_PROBES = (
    *("--probe-period-s", "600", "--core-share", "1", "--nice", "0", "--drain-s", "0"),
    *("--shadow-rate", "1000"),
)


@pytest.fixture(scope="module")
def companion(
    server: RunningServer, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningCompanion]:
    only = tmp_path_factory.mktemp("references")
    (only / MODEL).symlink_to(repository / MODEL)
    running = start_companion(server.target, only, SLOW_PROBES)
    running.wait_for(lambda: running.verdict(MODEL) == "healthy")
    yield running
    assert running.stop() == 0


@pytest.fixture
def model(client: Client) -> RemoteModel:
    return client.describe(MODEL)


def mirrored(
    client: Client, model: RemoteModel, pictures: np.ndarray, off: float = 0.0
) -> pb.MirroredInference:
    """A request as the server would send it with its answer, one logit of which is `off`."""
    logits = client.infer(model, pictures).copy()
    logits[0, 0] += off
    tensor = pb.MirroredInference.Tensor
    return pb.MirroredInference(
        model_name=model.name,
        model_version=model.version,
        sha256=model.sha256,
        pictures=tensor(
            name="image", datatype="FP32", shape=pictures.shape, raw=pictures.tobytes()
        ),
        outputs=[tensor(name="logits", datatype="FP32", shape=logits.shape, raw=logits.tobytes())],
    )


def mirror(companion: RunningCompanion, *inferences: pb.MirroredInference) -> int:
    with grpc.insecure_channel(companion.target) as channel:
        return stubs.ShadowStub(channel).Mirror(iter(inferences), timeout=30).received


@pytest.fixture
def pictures(repository: Path, model: RemoteModel) -> np.ndarray:
    return References(repository).get(MODEL, 1, model.sha256).pictures


def test_mirrored_answers_are_compared_and_asked_for_a_pixel_aside(
    companion: RunningCompanion, client: Client, model: RemoteModel, pictures: np.ndarray
) -> None:
    sent = [mirrored(client, model, pictures[at : at + 4]) for at in range(0, 32, 4)]
    before = companion.metrics()[f"nyquist_shadow_checked_total{LIVE}"]
    assert mirror(companion, *sent) == 8
    checked = f"nyquist_shadow_checked_total{LIVE}"
    companion.wait_for(lambda: companion.metrics()[checked] == before + 8)
    metrics = companion.metrics()
    live = f'model="{MODEL}",source="shadow",version="1"'
    assert metrics[f"nyquist_parity_relative_error{{{live}}}"] < 1e-4
    assert metrics[f"nyquist_parity_agreement_ratio{{{live}}}"] == 1
    for protocol in ("circular", "zero_padded"):
        labels = f'model="{MODEL}",protocol="{protocol}",source="shadow",version="1"'
        assert 0.8 < metrics[f"nyquist_shift_consistency_ratio{{{labels}}}"] <= 1
    handled = 'grpc_method="Mirror",grpc_service="nyquist.v1.Shadow",grpc_type="client_stream"'
    assert metrics[f'grpc_server_handled_total{{grpc_code="OK",{handled},source="client"}}'] >= 1


def test_a_wrong_answer_shows_and_leaves_the_verdict_to_the_probes(
    companion: RunningCompanion, client: Client, model: RemoteModel, pictures: np.ndarray
) -> None:
    mirror(companion, mirrored(client, model, pictures[:3], off=1.0))
    error = f'nyquist_parity_max_abs_error{{model="{MODEL}",source="shadow",version="1"}}'
    companion.wait_for(lambda: 0.9 < companion.metrics().get(error, 0) < 1.1)
    assert companion.verdict(MODEL) == "healthy"


def test_what_has_no_reference_is_counted_and_nothing_else(
    companion: RunningCompanion, client: Client, model: RemoteModel, pictures: np.ndarray
) -> None:
    before = companion.metrics()
    good = mirrored(client, model, pictures[:1])
    other_graph, unknown, no_number = (pb.MirroredInference() for _ in range(3))
    for one in (other_graph, unknown, no_number):
        one.CopyFrom(good)
    other_graph.sha256, unknown.model_name, no_number.model_version = "0" * 64, "nobody", "x"
    assert mirror(companion, other_graph, unknown, no_number) == 3
    name = "nyquist_shadow_unverifiable_total"
    assert companion.metrics()[name] == before[name] + 3
    received = f"nyquist_shadow_received_total{LIVE}"
    assert companion.metrics()[received] == before[received]
    assert "nobody" not in companion.get("/metrics")


@pytest.mark.parametrize(
    "spoiled", ["shape", "datatype", "raw", "outputs", "answers", "batch", "nothing", "scalar"]
)
def test_nonsense_is_logged_and_the_next_is_compared(
    companion: RunningCompanion,
    client: Client,
    model: RemoteModel,
    pictures: np.ndarray,
    spoiled: str,
) -> None:
    bad, good = (mirrored(client, model, pictures[:1]) for _ in range(2))
    if spoiled == "shape":
        bad.pictures.shape[:] = [1, 1, 2, 1152]
    elif spoiled == "outputs":
        bad.outputs[0].name = "others"
    elif spoiled in FORGED_ANSWERS:
        bad.outputs[0].shape[:], bad.outputs[0].raw = FORGED_ANSWERS[spoiled]
    else:
        setattr(bad.pictures, spoiled, {"datatype": "FP64", "raw": b"123"}[spoiled])
    checked = f"nyquist_shadow_checked_total{LIVE}"
    before = companion.metrics()[checked]
    mirror(companion, bad, good)
    companion.wait_for(lambda: companion.metrics()[checked] == before + 1)
    assert "live traffic of fashion_strided" in companion.log[-1]
    assert "Traceback" not in "".join(companion.log)


def test_a_forged_answer_counts_as_ten_spreads_and_as_an_outlier(
    companion: RunningCompanion, client: Client, model: RemoteModel, pictures: np.ndarray
) -> None:
    outliers = f"nyquist_shadow_outliers_total{LIVE}"
    before = companion.metrics()[outliers]
    huge = mirrored(client, model, pictures[:1])
    huge.outputs[0].raw = np.full(10, 1e30, np.float32).tobytes()
    bright = mirrored(client, model, pictures[:1] * np.float32(1e20))
    mirror(companion, huge, bright)
    companion.wait_for(lambda: companion.metrics()[outliers] == before + 2)
    companion.wait_for(lambda: "2 outliers" in companion.get("/"))
    live = f'model="{MODEL}",source="shadow",version="1"'
    probed = f'model="{MODEL}",source="probe",version="1"'
    figures = companion.metrics()
    assert figures[f"nyquist_parity_max_abs_error{{{live}}}"] < 1000
    assert figures[f"nyquist_parity_mean_abs_error{{{live}}}"] < 1000
    assert figures[f"nyquist_parity_max_abs_error{{{probed}}}"] < 1e-3


def test_extra_requests_stay_within_their_rate() -> None:
    assert not Allowance(0).spend(1)
    scarce = Allowance(1e-6)
    assert not any(scarce.spend(1) for _ in range(100))


def test_a_window_holds_the_latest_pictures_and_pools_them() -> None:
    generator = np.random.default_rng(0)
    reference, served = generator.normal(size=(2, 30, 10))
    parts = [compare(reference[at : at + 10], served[at : at + 10]) for at in (0, 10, 20)]
    window = TrafficWindow("", 30)
    for part in parts:
        window.add(part)
    whole = compare(reference, served)
    seen = window.seen.parity
    assert seen is not None
    assert seen.relative_error == pytest.approx(whole.relative_error)
    assert replace(seen, mean_abs_error=0, spread=0, agreement=0) == replace(
        whole, mean_abs_error=0, spread=0, agreement=0
    )
    assert seen.mean_abs_error == pytest.approx(whole.mean_abs_error)
    assert seen.agreement == pytest.approx(whole.agreement)
    window.add(parts[0])
    assert window.seen.parity == pooled([parts[1], parts[2], parts[0]])


def test_a_server_that_mirrors_on_does_not_keep_a_companion_from_stopping(
    server: RunningServer, repository: Path, tmp_path: Path
) -> None:
    (tmp_path / MODEL).symlink_to(repository / MODEL)
    companion = start_companion(server.target, tmp_path, (*SLOW_PROBES, "--grace-s", "3600"))
    ended = Event()

    def mirror_on() -> Iterator[pb.MirroredInference]:
        yield pb.MirroredInference(model_name=MODEL)
        ended.wait()

    with grpc.insecure_channel(companion.target) as channel:
        receipt = stubs.ShadowStub(channel).Mirror.future(mirror_on())
        companion.wait_for(lambda: companion.metrics()["nyquist_shadow_unverifiable_total"] == 1)
        assert companion.stop() == 0
        assert receipt.result().received == 1
        ended.set()
