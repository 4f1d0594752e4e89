"""nyquist.v1.Validation and its command line, here and through a companion that runs."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from nyquist.client.client import Client
from nyquist.companion.__main__ import main
from nyquist.companion.measures.shift_consistency import pair_consistency
from nyquist.companion.references.repository import References
from nyquist.companion.watch.shift_trials import ShiftTrials, fitting_protocols
from nyquist.server.wire.pb import validation_pb2 as pb
from nyquist.server.wire.pb import validation_pb2_grpc as stubs
from tests.companion.processes import RunningCompanion, start_companion
from tests.processes import RunningServer

MODEL = "fashion_strided"
COFFEE = "models/nyquist/models/data/photographs/coffee.png"
ALONE = ("--probe-period-s", "600", "--core-share", "1", "--nice", "0", "--drain-s", "0")


@pytest.fixture(scope="module")
def companion(
    server: RunningServer, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningCompanion]:
    only = tmp_path_factory.mktemp("references")
    (only / MODEL).symlink_to(repository / MODEL)
    running = start_companion(server.target, only, ALONE)
    running.wait_for(lambda: running.verdict(MODEL) == "healthy")
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def validation(companion: RunningCompanion) -> Iterator[stubs.ValidationStub]:
    with grpc.insecure_channel(companion.target) as channel:
        yield stubs.ValidationStub(channel)


def subject(**fields: Any) -> pb.Subject:
    return pb.Subject(model_name=MODEL, **fields)


def test_parity_streams_its_progress_and_ends_with_the_report(
    validation: stubs.ValidationStub,
) -> None:
    *progress, last = validation.CheckParity(pb.CheckParityRequest(subject=subject()), timeout=60)
    assert [event.progress.done for event in progress] == list(range(len(progress)))
    assert {event.progress.total for event in progress} == {len(progress)}
    report = last.report
    assert report.pictures == 64
    assert report.holds
    assert 0 < report.mean_abs_error < report.max_abs_error
    assert report.relative_error < report.tolerance == 1e-4
    assert report.graph.model_version == "1"
    assert len(report.graph.sha256) == 64


def test_the_callers_own_pictures_are_taken(validation: stubs.ValidationStub) -> None:
    noise = np.random.default_rng(0).random((5, 1, 48, 48), np.float32)
    own = subject(
        pictures=pb.Pictures(datatype="FP32", shape=noise.shape, raw=noise.tobytes()),
        model_version="1",
    )
    *_, parity = validation.CheckParity(pb.CheckParityRequest(subject=own), timeout=60)
    assert parity.report.pictures == 5
    request = pb.CheckShiftConsistencyRequest(subject=own, protocols=["zero_padded"], pairs=2)
    *_, shifts = validation.CheckShiftConsistency(request, timeout=60)
    assert [one.protocol for one in shifts.report.measured] == ["zero_padded"]
    assert shifts.report.pictures == 5


def test_consistency_is_that_of_check_for_every_protocol_that_fits(
    validation: stubs.ValidationStub,
) -> None:
    request = pb.CheckShiftConsistencyRequest(subject=subject())
    *_, last = validation.CheckShiftConsistency(request, timeout=120)
    measured = {one.protocol: one for one in last.report.measured}
    assert list(measured) == ["circular", "zero_padded", "half_pixel"]
    assert measured["circular"].served == 233 / 256
    for one in measured.values():
        assert abs(one.served - one.reference) < 0.02
        assert one.served_error > 0


def test_latency_is_of_both_paths_at_each_batch_size(validation: stubs.ValidationStub) -> None:
    request = pb.CompareLatencyRequest(subject=subject(), batch_sizes=[1, 8], runs=3)
    *progress, last = validation.CompareLatency(request, timeout=60)
    assert len(progress) == 2 * 6
    assert [one.batch_size for one in last.report.measured] == [1, 8]
    for one in last.report.measured:
        assert 0 < one.served_s <= one.served_p95_s
        assert 0 < one.reference_s <= one.reference_p95_s


def test_a_model_is_described_with_its_field_training_and_verdict(
    validation: stubs.ValidationStub,
) -> None:
    described = validation.DescribeModel(pb.DescribeModelRequest(subject=subject()), timeout=120)
    assert described.options == {"downsampling": "strided"}
    assert described.parameters > 10_000
    assert described.multiply_adds > 1_000_000
    field = described.receptive_field
    assert (field.height, field.width, field.output_stride) == (31, 31, 16)  # four 3x3, stride 2
    assert described.figures["consistency"] == 0.911
    assert described.tolerances["parity"] == 1e-4
    assert described.training["command"].startswith(
        "python -m nyquist.models.train --families strided"
    )
    assert described.verdict == "healthy"


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (pb.Subject(), "INVALID_ARGUMENT", "subject.model_name is empty"),
        (pb.Subject(model_name="nobody"), "NOT_FOUND", "unknown model: 'nobody'"),
        (subject(model_version="9"), "NOT_FOUND", "9"),
        (
            subject(pictures=pb.Pictures()),
            "INVALID_ARGUMENT",
            "the model takes FP32 (N, 1, 48, 48)",
        ),
        (
            subject(pictures=pb.Pictures(datatype="FP32", shape=[2, 1, 48, 48], raw=b"1234")),
            "INVALID_ARGUMENT",
            "pictures have 4 bytes, their shape 18432",
        ),
    ],
    ids=["no name", "unknown", "no version", "no pictures", "too few bytes"],
)
def test_what_cannot_be_checked_is_told_with_its_status(
    validation: stubs.ValidationStub, request_: pb.Subject, code: str, words: str
) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        list(validation.CheckParity(pb.CheckParityRequest(subject=request_), timeout=30))
    assert refused.value.code().name == code
    assert words in str(refused.value.details())


def test_a_model_without_a_reference_is_reported_as_that_and_described_not_at_all(
    validation: stubs.ValidationStub,
) -> None:
    blur = pb.Subject(model_name="fashion_blur")
    (event,) = validation.CheckParity(pb.CheckParityRequest(subject=blur), timeout=30)
    assert event.report.graph.no_reference
    assert not event.report.holds
    with pytest.raises(grpc.RpcError, match="no reference of 'fashion_blur'") as refused:
        validation.DescribeModel(pb.DescribeModelRequest(subject=blur), timeout=30)
    assert refused.value.code().name == "FAILED_PRECONDITION"


def test_wrong_numbers_are_told_the_right_ones(validation: stubs.ValidationStub) -> None:
    shifts = pb.CheckShiftConsistencyRequest(subject=subject(), protocols=["sideways"])
    with pytest.raises(grpc.RpcError, match="choose from circular, zero_padded, half_pixel"):
        list(validation.CheckShiftConsistency(shifts, timeout=30))
    large = pb.CompareLatencyRequest(subject=subject(), batch_sizes=[65])
    with pytest.raises(grpc.RpcError, match="batch_sizes must be from 1 to 64, got 65"):
        list(validation.CompareLatency(large, timeout=30))
    many = pb.CheckShiftConsistencyRequest(subject=subject(), pairs=1000)
    with pytest.raises(grpc.RpcError, match="pairs must be from 1 to 64, got 1000"):
        list(validation.CheckShiftConsistency(many, timeout=30))


def test_calls_take_turns_and_a_caller_who_leaves_ends_its_own_alone(
    validation: stubs.ValidationStub,
) -> None:
    long = pb.CheckShiftConsistencyRequest(subject=subject(), pairs=64)
    left = validation.CheckShiftConsistency(long, timeout=60)
    next(left)
    short = pb.CompareLatencyRequest(subject=subject(), batch_sizes=[1], runs=1)
    assert list(validation.CompareLatency(short, timeout=30))[-1].HasField("report")
    left.cancel()
    others = [validation.CheckShiftConsistency(long, timeout=60) for _ in range(8)]
    for other in others:
        next(other)
    with pytest.raises(grpc.RpcError, match="8 checks are running, as many as may"):
        list(validation.CompareLatency(short, timeout=30))
    for other in others:
        other.cancel()


def test_trials_one_by_one_give_what_all_at_once_do(client: Client, repository: Path) -> None:
    model = client.describe(MODEL)
    known = References(repository).get(MODEL, 1, model.sha256)
    assert known.reference is not None
    pictures = known.pictures[:6]
    for protocol in fitting_protocols(known, pictures).values():
        trials = ShiftTrials(pictures, protocol)
        while trials.left:
            assert trials.consistency is None
            trials.make(known.reference.predict, 5)
        assert trials.consistency == pair_consistency(known.reference.predict, pictures, protocol)


@pytest.mark.parametrize("where", ["here", "through the companion"])
def test_the_command_line_gives_the_same_either_way(
    server: RunningServer,
    companion: RunningCompanion,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    where: str,
) -> None:
    way = ["--target", server.target, "--model", MODEL]
    way += ["--repository", str(repository)] if where == "here" else []
    way += ["--companion", companion.target] if where != "here" else []
    assert main(["check", *way, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["misses"] == []
    assert row["parity"]["pictures"] == 64
    assert row["consistency"]["measured"][0]["served"] == 233 / 256
    assert main(["check", *way]) == 0
    assert "91.0% ± " in capsys.readouterr().out
    assert main(["consistency", *way, "--protocol", "circular", "--pairs", "1"]) in (0, 1)
    assert "circular" in capsys.readouterr().out
    assert main(["latency", *way, "--runs", "2", "--batch-size", "1", "3", "--json"]) == 0
    (times,) = json.loads(capsys.readouterr().out)
    assert [one["batch_size"] for one in times["measured"]] == [1, 3]


def test_a_description_is_a_table_or_json(
    companion: RunningCompanion, capsys: pytest.CaptureFixture[str]
) -> None:
    way = ["describe", "--companion", companion.target, "--model", MODEL]
    assert main(way) == 0
    assert "31x31 px at stages.3.2, stride 16" in capsys.readouterr().out
    assert main([*way, "--json"]) == 0
    (described,) = json.loads(capsys.readouterr().out)
    assert described["multiply_adds"] > 1_000_000
    assert described["verdict"] == "healthy"


def test_own_pictures_and_mistakes_on_the_command_line(
    server: RunningServer,
    companion: RunningCompanion,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    way = ["--target", server.target, "--repository", str(repository), "--model", MODEL]
    assert main(["check", *way, "--pictures", COFFEE, COFFEE, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["parity"]["pictures"] == 2
    assert main(["consistency", *way, "--protocol", "sideways"]) == 2
    assert "no protocol 'sideways'" in capsys.readouterr().err
    assert main(["check", "--companion", companion.target, "--model", "nobody"]) == 2
    assert "NOT_FOUND" in capsys.readouterr().err
    assert main(["check", "--companion", "127.0.0.1:1"]) == 2
    assert "127.0.0.1:1: UNAVAILABLE" in capsys.readouterr().err
