"""nyquist companion: a real companion beside a real server, whose models change."""

import json
import shutil
import signal
from collections.abc import Iterator
from math import inf
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import cast

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from nyquist.client.client import Client
from nyquist.companion.__main__ import main
from nyquist.companion.references.repository import References, Unverifiable
from nyquist.companion.references.subjects import Subjects
from nyquist.companion.watch.history import History
from nyquist.companion.watch.limits import Limits
from nyquist.companion.watch.metrics import Metrics
from nyquist.companion.watch.pace import Pace
from nyquist.companion.watch.probe import Prober
from nyquist.companion.watch.record import Record
from nyquist.companion.watch.rollouts import Rollouts
from nyquist.companion.watch.shift_trials import CIRCULAR
from nyquist.companion.watch.verdict import Verdict
from nyquist.server.artifact.manifest import REFERENCE_FILE
from tests.artifacts import add_version, copy_model, damage, set_config
from tests.companion.page_records import new_record
from tests.companion.processes import FAST, PERIOD_S, RunningCompanion, start_companion
from tests.impostors import perturb_weight, pose_as, replace_network
from tests.processes import RunningServer, start_server

POLLING = ("--poll-s", "0.1", "--drain-s", "0")
SOUND, PERTURBED, STRIDED, VERSIONED, DAMAGED = (
    *("fashion_avg_pool", "fashion_max_pool", "fashion_strided", "fashion_blur"),
    "fashion_polyphase",
)
FLICKERING = "fashion_max_blur"
STATUS = health_pb2.HealthCheckResponse


@pytest.fixture(scope="module")
def models(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository whose models the tests change, each one of its own."""
    folder = tmp_path_factory.mktemp("models")
    for name in (SOUND, PERTURBED, VERSIONED, DAMAGED, FLICKERING):
        copy_model(repository, folder, name)
    return folder


@pytest.fixture(scope="module")
def changing(models: Path) -> Iterator[RunningServer]:
    running = start_server(models, POLLING)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def companion(changing: RunningServer, models: Path) -> Iterator[RunningCompanion]:
    running = start_companion(changing.target, models)
    yield running
    assert running.stop() == 0


def health(companion: RunningCompanion, service: str) -> int:
    with grpc.insecure_channel(companion.target) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=10).status


def listed(companion: RunningCompanion) -> dict[str, int]:
    """Return the health of everything that the companion lists."""
    with grpc.insecure_channel(companion.target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).List(
            health_pb2.HealthListRequest(), timeout=10
        )
    return {name: one.status for name, one in answer.statuses.items()}


def parity(companion: RunningCompanion, model: str, figure: str) -> float:
    labels = f'model="{model}",source="probe",version="1"'
    return companion.metrics()[f"nyquist_parity_{figure}{{{labels}}}"]


def consistency(companion: RunningCompanion, model: str, protocol: str) -> float | None:
    labels = f'model="{model}",protocol="{protocol}",source="probe",version="1"'
    return companion.metrics().get(f"nyquist_shift_consistency_ratio{{{labels}}}")


def test_reflection_describes_every_service_of_the_companion(companion: RunningCompanion) -> None:
    with grpc.insecure_channel(companion.target) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        pool, names = DescriptorPool(database), set(database.get_services())
        assert {"nyquist.v1.Shadow", "nyquist.v1.Validation", "grpc.health.v1.Health"} <= names
        for name in names:
            assert pool.FindServiceByName(name).methods


def test_nothing_is_called_healthy_before_its_figures_are_known(
    companion: RunningCompanion, models: Path
) -> None:
    def all_are_known() -> bool:
        told = json.loads(companion.get("/api/models"))["models"]
        for one in told:
            if one["verdict"] == "healthy":
                assert one["parity"]["held"]
                assert one["consistency"]["held"]
        return [one["verdict"] for one in told] == ["healthy"] * len(list(models.iterdir()))

    companion.wait_for(all_are_known)
    first: dict[str, str] = {}
    for row in json.loads(companion.get("/api/verdicts.json")):
        first.setdefault(row["model"], row["verdict"])
        if row["verdict"] == "measuring":
            assert row["reason"] == "parity: measuring; circular shifts: 0 of 7 rounds"
    assert first == dict.fromkeys((path.name for path in models.iterdir()), "measuring")


def test_every_model_has_a_first_answer_before_any_has_a_whole_one(
    changing: RunningServer, models: Path
) -> None:
    record, stopped = new_record(), Event()
    with Client(changing.target) as client:
        subjects = Subjects(client, References(models), models=(FLICKERING, SOUND))
        watched = (subjects, Metrics(PERIOD_S), record, Rollouts(Limits(), History()))
        prober = Prober(*watched, Pace(1, stopped), stopped)
        prober.probe()
        for state in record.models():
            assert state.verdict is Verdict.MEASURING
            assert state.reason == "circular shifts: 1 of 7 rounds"
            assert state.probe.parity
            assert state.probe.parity.pictures == 1
        prober.try_shifts(1, 0.0)  # it is due: one call
        assert made(record) == {SOUND: 8, FLICKERING: 4}, "the cheaper network comes first"
        prober.try_shifts(1, inf)
        assert [state.verdict for state in record.models()] == [Verdict.HEALTHY] * 2
        assert made(record) == {}
        prober.probe()
        parities = [state.probe.parity for state in record.models()]
        assert [parity.pictures for parity in parities if parity] == [12, 12]


def made(record: Record) -> dict[str, int]:
    """Return the trials of circular shifts that are made, of models that are not known yet."""
    return {
        state.name: state.probe.progress[CIRCULAR].trials
        for state in record.models()
        if state.probe.progress
    }


def test_a_sound_model_is_healthy_and_all_its_figures_are_shown(
    companion: RunningCompanion,
) -> None:
    companion.wait_for(lambda: consistency(companion, SOUND, "half_pixel") is not None)
    assert companion.verdict(SOUND) == "healthy"
    assert parity(companion, SOUND, "relative_error") < 1e-4
    assert parity(companion, SOUND, "agreement_ratio") == 1
    assert consistency(companion, SOUND, "circular") == 238 / 256  # as nyquist check
    assert consistency(companion, SOUND, "zero_padded") is not None
    metrics = companion.metrics()
    for backend in ("onnxruntime", "torch"):
        for size in (1, 3, 8):
            labels = f'backend="{backend}",batch_size="{size}",model="{SOUND}",version="1"'
            assert metrics[f"nyquist_reference_duration_seconds_count{{{labels}}}"] > 0
    assert metrics["nyquist_companion_server_up"] == 1
    assert companion.get("/healthz") == "ok\n"
    assert SOUND in companion.get("/")
    assert SOUND in companion.get("/lab/models")
    companion.wait_for(lambda: health(companion, SOUND) == STATUS.SERVING)


def probes(companion: RunningCompanion) -> float:
    return companion.metrics()['nyquist_companion_probes_total{outcome="ok"}']


def test_a_perturbed_weight_is_failing_within_two_rounds_and_good_again_after_three_probes(
    changing: RunningServer, companion: RunningCompanion, models: Path, repository: Path
) -> None:
    companion.wait_for(lambda: companion.verdict(PERTURBED) == "healthy")
    digest = perturb_weight(models / PERTURBED)
    with Client(changing.target) as client:
        companion.wait_for(lambda: client.describe(PERTURBED).sha256 == digest)
    before = probes(companion)
    companion.wait_for(lambda: companion.verdict(PERTURBED) == "failing")
    assert probes(companion) - before <= 3 * len(listed(companion)), "each model twice, and again"
    assert parity(companion, PERTURBED, "relative_error") > 1e-4
    assert any("is failing: parity: answers differ" in line for line in companion.log)
    companion.wait_for(lambda: health(companion, PERTURBED) == STATUS.NOT_SERVING)
    assert listed(companion)[PERTURBED] == STATUS.NOT_SERVING
    assert listed(companion)[""] == STATUS.SERVING
    pose_as(models / PERTURBED, repository / PERTURBED)
    companion.wait_for(lambda: companion.verdict(PERTURBED) == "healthy")


def test_a_strided_network_under_a_blurred_ones_name_degrades_and_then_fails(
    companion: RunningCompanion, models: Path, repository: Path
) -> None:
    companion.wait_for(lambda: (consistency(companion, FLICKERING, "circular") or 0) > 0.94)
    replace_network(models / FLICKERING, repository / STRIDED)
    companion.wait_for(lambda: companion.verdict(FLICKERING) == "degraded")
    companion.wait_for(lambda: companion.verdict(FLICKERING) == "failing")
    assert (consistency(companion, FLICKERING, "circular") or 1) < 0.94
    assert parity(companion, FLICKERING, "relative_error") < 1e-4
    assert "shift consistency is 91.02%, at least 94.00% is required" in companion.get("/")


def test_every_served_version_is_judged_and_its_series_end_with_it(
    companion: RunningCompanion, models: Path
) -> None:
    set_config(models / VERSIONED, "version_policy { all {} }")
    added = add_version(models / VERSIONED, 2)
    companion.wait_for(lambda: companion.verdict(VERSIONED, 2) == "healthy")
    assert companion.verdict(VERSIONED, 1) == "healthy"
    shutil.rmtree(added)
    companion.wait_for(lambda: companion.verdict(VERSIONED, 2) == "")
    assert not any(f'model="{VERSIONED}",' in name and 'version="2"' in name
                   for name in companion.metrics())  # fmt: skip


def test_a_damaged_reference_is_unverifiable_until_it_is_repaired(
    companion: RunningCompanion, models: Path
) -> None:
    companion.wait_for(lambda: companion.verdict(DAMAGED) == "healthy")
    reference = models / DAMAGED / "1" / REFERENCE_FILE
    sound = damage(reference)
    content = (models / DAMAGED / "1" / "manifest.json").read_text()
    (models / DAMAGED / "1" / "manifest.json").write_text(content.replace("0.0001", "0.0002"))
    companion.wait_for(lambda: companion.verdict(DAMAGED) == "unverifiable")
    companion.wait_for(lambda: health(companion, DAMAGED) == STATUS.UNKNOWN)
    reference.write_bytes(sound)
    companion.wait_for(lambda: companion.verdict(DAMAGED) == "healthy")


def test_a_reference_is_of_one_graph_of_one_version(repository: Path) -> None:
    references = References(repository)
    with pytest.raises(Unverifiable, match=r"with sha256 00, the reference is of [0-9a-f]{64}"):
        references.get(SOUND, 1, "00")
    with pytest.raises(
        Unverifiable, match=r"no reference of 'fashion_avg_pool' version 2, only of 1"
    ):
        references.get(SOUND, 2, "00")
    with pytest.raises(Unverifiable, match=r"no reference of 'nobody' version 1, only of none"):
        references.get("nobody", 1, "00")


def test_a_reference_that_cannot_be_used_says_why(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / SOUND, tmp_path / SOUND)
    (tmp_path / SOUND / "1" / REFERENCE_FILE).write_bytes(b"")
    with pytest.raises(Unverifiable, match=rf"cannot be used: .*{REFERENCE_FILE}") as refused:
        References(tmp_path).get(SOUND, 1, None)
    assert str(tmp_path) not in str(refused.value)


def test_a_repository_without_models_is_told_until_there_are_some(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    subjects = Subjects(cast("Client", SimpleNamespace(ready=lambda: True)), References(tmp_path))
    record, stopped = Record("server", 1, 1, 1), Event()
    prober = Prober(
        subjects,
        Metrics(PERIOD_S),
        record,
        Rollouts(Limits(), History()),
        Pace(1, stopped),
        stopped,
    )
    for _ in range(2):
        prober.probe()
    told = [line for line in caplog.messages if "nothing can be probed" in line]
    assert told == ["nothing can be probed: the repository holds no model yet"] * 2


def test_a_server_that_is_away_is_told_once(models: Path) -> None:
    alone = start_companion("127.0.0.1:1", models, (*FAST, "--drain-s", "600"))
    try:
        failed = 'nyquist_companion_probes_total{outcome="failed"}'
        alone.wait_for(lambda: alone.metrics()[failed] >= 3)
        assert alone.metrics()["nyquist_companion_server_up"] == 0
        assert alone.verdict(SOUND) == ""
    finally:
        alone.process.terminate()
        alone.wait_for(lambda: any("draining for 600 s" in line for line in alone.log))
        assert listed(alone) == {"": STATUS.NOT_SERVING}
        alone.process.send_signal(signal.SIGINT)  # the second ends it where it stands
        assert alone.process.wait(timeout=60) == 128 + signal.SIGINT
        alone.stop()
    assert sum("is away: UNAVAILABLE" in line for line in alone.log) == 1


def test_a_wrong_option_is_named_and_a_taken_port_too(
    companion: RunningCompanion, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--core-share", "2"]) == 2
    assert "core_share: Input should be less than or equal to 1, got '2'" in capfd.readouterr().err
    assert main(["serve", "--nice", "0", "--port", str(companion.port)]) == 2
    assert "Address already in use; choose another with --port" in capfd.readouterr().err
