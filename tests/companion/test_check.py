"""nyquist check, against a live server."""

import io
import json
import re
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from nyquist.companion.__main__ import main
from nyquist.companion.page.kit.wording import built
from nyquist.companion.service.validation import batches
from nyquist.companion.tables import consistency_table
from nyquist.server.artifact.built import circular_of, one_pixel_of
from nyquist.server.artifact.layout import model_folders
from nyquist.server.artifact.manifest import REFERENCE_FILE, read_manifest
from nyquist.server.wire.pb import validation_pb2 as pb
from tests.foreign import make_net, put_model
from tests.processes import RunningServer, start_server


def test_every_model_of_a_sound_server_holds_its_tolerances(
    server: RunningServer, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", "--target", server.target, "--repository", str(repository)]
    assert main(command) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if " ok" in line]
    assert len(rows) == len(model_folders(repository))
    for name, _provider, parity, same, _of, pictures, *_rest in rows:
        assert float(parity) <= 1e-4, name
        assert same == pictures, name
    for name in ("fashion_strided", "fashion_blur"):
        manifest = read_manifest(repository / name, 1)
        one_pixel = one_pixel_of(manifest)
        assert one_pixel
        quoted = f"{built(one_pixel)} {built(circular_of(manifest))}"
        (line,) = (row.split() for row in out.splitlines() if name in row and "±" in row)
        assert " ".join(line).startswith(f"{name} {quoted} ")  # beside what is seen now
        assert line[7] == "500"
        assert line[-1] == "64"
    assert "now: circular, over the reference pictures of the artifact" in out


def test_what_is_not_served_and_what_the_build_found_of_batches_are_told(
    server: RunningServer, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("absent", "fashion_strided"):
        shutil.copytree(repository / "fashion_strided", tmp_path / name)
    manifest = read_manifest(tmp_path / "fashion_strided", 1)
    figures = manifest.figures.model_copy(update={"batch_error": 3e-7})
    moved = manifest.model_copy(update={"figures": figures}).to_json()
    (tmp_path / "fashion_strided" / "1" / "manifest.json").write_text(moved)
    command = ["check", "--target", server.target, "--repository", str(tmp_path)]
    assert main(command) == 2
    told = capsys.readouterr()
    assert f"absent of {tmp_path}: not served at {server.target}, which serves fashion_strided" in (
        " ".join(told.err.split())
    )
    assert "fashion_strided: an answer moves with its batch by up to 3.0e-07 of the" in told.out
    shutil.rmtree(tmp_path / "fashion_strided")
    assert main(command) == 2
    assert "which serves none of it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("pictures", "served", "reference"),
    [(5, "20 of 20", "18 of 20"), (64, "100% ≥ 94.3%", "90.0% ± 1.2")],
)
def test_a_table_of_consistency_counts_what_is_few_and_bounds_what_never_flipped(
    pictures: int, served: str, reference: str
) -> None:
    report = pb.ConsistencyReport(pictures=pictures, pairs=4)
    report.measured.add(protocol="circular", served=1.0, reference=0.9, reference_error=0.012)
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(consistency_table([report]))
    line = next(line for line in console.export_text().splitlines() if "circular" in line)
    assert " ".join(line.split()) == f"circular {pictures} {served} {reference}"


def perturbed(repository: Path, name: str, folder: Path) -> Path:
    """Copy a model and add a little to one weight of its reference, with the right checksum."""
    shutil.copytree(repository / name, folder / name)
    path = folder / name / "1" / REFERENCE_FILE
    weights = load_file(path)
    weights["classifier.bias"][3] += 1e-3
    save_file(weights, path)
    return refreshed(folder / name, f"1/{REFERENCE_FILE}")


def refreshed(folder: Path, file: str) -> Path:
    manifest = folder / "1" / "manifest.json"
    content = json.loads(manifest.read_text())
    content["files"][file] = sha256((folder / file).read_bytes()).hexdigest()
    manifest.write_text(json.dumps(content))
    return folder


def test_one_perturbed_weight_is_a_miss_and_exit_status_1(
    server: RunningServer, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    perturbed(repository, "fashion_avg_pool", tmp_path)
    assert main(["check", "--target", server.target, "--repository", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert re.search(
        r"fashion_avg_pool: parity: answers differ by 0.00\d+ of their .*\(0.001\), at most 0.0001",
        out,
    )


def test_a_strided_network_under_the_name_of_a_blurred_one_misses_its_consistency(
    repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reference and its promise are blur's; the served graph is that of strided."""
    shutil.copytree(repository / "fashion_blur", tmp_path / "served" / "fashion_blur")
    graph = "1/model.onnx"
    target = tmp_path / "served" / "fashion_blur"
    shutil.copy(repository / "fashion_strided" / graph, target / graph)
    refreshed(target, graph)
    impostor = start_server(tmp_path / "served")
    command = ["check", "--target", impostor.target, "--repository", str(repository)]
    assert main([*command, "--model", "fashion_blur"]) == 1
    assert impostor.stop() == 0
    out = capsys.readouterr().out
    assert "fashion_blur: parity" in out
    assert "fashion_blur: shift consistency is" in out


def test_a_model_of_batch_1_and_without_a_reference_is_moved_one_picture_at_a_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put_model(tmp_path / "served", "single", make_net(batch=1), "max_batch_size: 0")
    lone = start_server(tmp_path / "served")
    command = ["check", "--target", lone.target, "--repository", str(tmp_path / "none")]
    assert main([*command, "--model", "single"]) == 0
    out = capsys.readouterr().out
    assert lone.stop() == 0
    assert re.search(r"single +CPU +- +- +[0-9.]+ +- +no reference", out)


def test_pictures_are_normalised_here_as_the_build_would_in_the_graph(
    server: RunningServer, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """fashion_blur takes 0..1; told that it takes something else, it gets something else."""
    command = ["check", "--target", server.target, "--model", "fashion_blur", "--repository"]
    assert main([*command, str(repository), "--mean", "0", "--std", "1"]) == 0
    assert main([*command, str(repository), "--mean", "0.5", "--std", "0.25"]) == 1
    assert "fashion_blur: parity" in capsys.readouterr().out
    assert main([*command, str(tmp_path / "none"), "--mean", "123.7"]) == 2
    assert "of 0..255 it is 0.4851" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "fashion_blurr"], "no model 'fashion_blurr' at 127.0.0.1"),
        (["--model", "fashion_blurr"], "did you mean fashion_blur?"),
        (["--model", "fashion_blur", "--layout", "HWC"], "--layout needs --input CxHxW"),
        (["--input", "224x224"], "--input is written CxHxW, such as 3x224x224, got '224x224'"),
        (["--repository", "/nowhere"], "there is no model repository at /nowhere"),
        (
            ["--target", "127.0.0.1:1"],
            "127.0.0.1:1: UNAVAILABLE: nobody listens there; is a server",
        ),
        (["--target", "http://localhost:8001/"], "HOST:PORT without http://, localhost:8001, got"),
        (["--target", "localhost"], "HOST:PORT, such as localhost:8001, got 'localhost'"),
    ],
)
def test_what_cannot_be_checked_is_exit_status_2(
    server: RunningServer,
    repository: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    command = ["check", "--target", server.target, "--repository", str(repository), *options]
    assert main(command) == 2
    assert message in capsys.readouterr().err


def test_the_port_of_the_metrics_is_told_from_that_of_grpc(
    server: RunningServer, repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = f"127.0.0.1:{server.metrics_port}"
    assert main(["check", "--target", metrics, "--repository", str(repository)]) == 2
    assert "what listens there does not speak gRPC" in capsys.readouterr().err


def test_target_and_repository_are_those_of_the_environment_where_no_flag_says_others(
    server: RunningServer,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NYQUIST_COMPANION_TARGET", server.target)
    monkeypatch.setenv("NYQUIST_COMPANION_REPOSITORY", str(repository))
    assert main(["latency", "--model", "fashion_blur", "--runs", "1", "--batch-size", "1"]) == 0
    assert main(["latency", "--target", "127.0.0.1:1"]) == 2
    assert "127.0.0.1:1: UNAVAILABLE" in capsys.readouterr().err


def test_every_picture_is_in_one_batch_and_the_sizes_alternate() -> None:
    parts = list(batches(np.arange(14)))
    assert [len(part) for part in parts] == [1, 3, 8, 1, 1]
    assert np.concatenate(parts).tolist() == list(range(14))
