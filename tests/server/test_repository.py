import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc
import pytest

from nyquist.server.artifact.layout import latest_version, model_folders, read_config_file
from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.artifact.versions import mark_of
from nyquist.server.runtime.calibration import Sessions
from nyquist.server.runtime.session_plan import CPU, Execution
from nyquist.server.serving.loading import load_model
from nyquist.server.wire.errors import ArtifactError
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.processes import run, start_server

ON_CPU = Execution(provider="cpu")
NAME = "fashion_strided"


@pytest.fixture
def copy(repository: Path, tmp_path: Path) -> Path:
    """A repository of one model, to be damaged."""
    shutil.copytree(repository / NAME, tmp_path / NAME)
    return tmp_path


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "1" / "manifest.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_a_sound_model_loads_with_its_labels_and_limits(copy: Path) -> None:
    loaded = load_model(copy / NAME, ON_CPU)
    assert loaded.described.name == NAME
    assert len(loaded.labels["logits"]) == 10
    assert loaded.limits.max_batch_size == 64
    assert loaded.limits.levels[0].max_size == 1024


class Warmed:
    """A session on the CPU that notes how many pictures it was warmed with."""

    provider, threads = CPU, 1

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def warm(self, picture: Any, size: int = 1) -> None:
        del picture
        self.sizes.append(size)


@pytest.mark.parametrize(
    ("keeps_busy", "warmed"), [(0.0, [[], [4]]), (2.0, [[], [4]]), (1.9, [[], []])]
)
def test_sessions_are_warmed_with_what_they_will_run_unless_they_may_never_be_needed(
    repository: Path, monkeypatch: pytest.MonkeyPatch, keeps_busy: float, warmed: list[list[int]]
) -> None:
    """The first has been tried out with the best batch already."""
    engines: Any = [Warmed(), Warmed()]
    found = Sessions(engines, keeps_busy=keeps_busy)
    monkeypatch.setattr("nyquist.server.serving.loading.open_engines", lambda *_, **__: found)
    monkeypatch.setattr("nyquist.server.serving.loading.best_batch_size", lambda *_: 4)
    limits = load_model(repository / NAME, ON_CPU).limits
    assert (limits.best_size, limits.keeps_busy) == (4, keeps_busy)
    assert [engine.sizes for engine in engines] == warmed


@pytest.mark.parametrize("file", ["1/model.onnx", "1/labels.txt"])
def test_a_changed_byte_is_found_before_the_model_is_opened(copy: Path, file: str) -> None:
    path = copy / NAME / file
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="its manifest says"):
        load_model(copy / NAME, ON_CPU)


@pytest.mark.parametrize("file", ["1/model.onnx", "config.pbtxt", "1/labels.txt"])
def test_a_missing_file_is_named(copy: Path, file: str) -> None:
    (copy / NAME / file).unlink()
    with pytest.raises(ArtifactError, match=f"{file} cannot be read"):
        load_model(copy / NAME, ON_CPU)


def relink(folder: Path, file: str, target: Path) -> None:
    """Move a file of a model to another place, and leave a link to it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    (folder / file).rename(target)
    (folder / file).symlink_to(target)


def test_a_folder_with_the_links_of_a_mounted_config_map_loads(copy: Path) -> None:
    """Kubernetes mounts files as links through ..data, which it exchanges as a whole."""
    folder = copy / NAME / "1"
    folder.rename(copy / NAME / "..2026_11_28")
    folder.mkdir()
    (folder.parent / "..data").symlink_to("..2026_11_28")
    for file in (folder.parent / "..data").iterdir():
        (folder / file.name).symlink_to(Path("..", "..data", file.name))
    assert load_model(copy / NAME, ON_CPU).described.version == 1


def test_a_backup_of_hard_links_leaves_a_repository_as_it_was(copy: Path) -> None:
    shutil.copytree(copy / NAME, copy / "backup", copy_function=os.link)
    assert load_model(copy / NAME, ON_CPU).described.version == 1


@pytest.mark.parametrize(
    "file", ["1/model.onnx", "1/labels.txt", "1/manifest.json", "config.pbtxt"]
)
def test_a_link_that_ends_outside_the_repository_is_refused_unless_its_end_is_allowed(
    copy: Path, tmp_path_factory: pytest.TempPathFactory, file: str
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    relink(copy / NAME, file, outside / "blobs" / "content")
    with pytest.raises(ArtifactError, match=f"{file} leads to {outside}.* --link-folder"):
        load_model(copy / NAME, ON_CPU)
    allowed = read_config_file(copy / NAME, [outside])
    assert load_model(copy / NAME, ON_CPU, config_file=allowed).described.version == 1


def test_a_folder_that_is_a_link_leads_out_of_the_repository_as_little_as_a_file(
    copy: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    relink(copy / NAME, "1", outside / "1")
    with pytest.raises(ArtifactError, match="which is outside"):
        load_model(copy / NAME, ON_CPU)


def test_a_name_that_begins_like_the_repository_is_not_inside_it(copy: Path) -> None:
    beside = copy.with_name(f"{copy.name}_beside")
    relink(copy / NAME, "1/model.onnx", beside / "model.onnx")
    with pytest.raises(ArtifactError, match="which is outside"):
        load_model(copy / NAME, ON_CPU)


def test_a_pipe_is_no_file_and_does_not_hang_the_load(copy: Path) -> None:
    path = copy / NAME / "1" / "model.onnx"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ArtifactError, match=r"model\.onnx is no file"):
        load_model(copy / NAME, ON_CPU)


def test_a_link_in_a_circle_is_named(copy: Path) -> None:
    path = copy / NAME / "1" / "model.onnx"
    path.unlink()
    path.symlink_to(path)
    with pytest.raises(ArtifactError, match="cannot be read: Too many levels of symbolic links"):
        load_model(copy / NAME, ON_CPU)


def test_a_link_that_is_led_elsewhere_leaves_another_mark(copy: Path) -> None:
    """Or polling would miss a ConfigMap that has changed."""
    path, other = copy / NAME / "config.pbtxt", copy / "other.pbtxt"
    relink(copy / NAME, "config.pbtxt", copy / "..data" / "config.pbtxt")
    before = mark_of(copy / NAME)
    other.write_bytes(path.read_bytes())
    other.rename(copy / "..data" / "config.pbtxt")
    assert mark_of(copy / NAME) != before


def test_an_edited_configuration_is_taken_and_said(
    copy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = copy / NAME / "config.pbtxt"
    path.write_text(path.read_text().replace("max_queue_size: 1024", "max_queue_size: 7"))
    with caplog.at_level("INFO"):
        assert load_model(copy / NAME, ON_CPU).limits.levels[0].max_size == 7
    assert "config.pbtxt was edited since version 1 was built" in caplog.text


def test_a_configuration_of_other_tensors_is_refused(copy: Path) -> None:
    path = copy / NAME / "config.pbtxt"
    path.write_text(path.read_text().replace("dims: 48", "dims: 47", 1))
    with pytest.raises(ArtifactError, match=r"describes .*\(1, 47, 48\).* its manifest"):
        load_model(copy / NAME, ON_CPU)


def test_a_setting_that_cannot_be_honoured_is_told_with_its_file(copy: Path) -> None:
    path = copy / NAME / "config.pbtxt"
    wrong = 'parameters { key: "intra_op_threads" value { string_value: "2" } }'
    path.write_text(path.read_text() + wrong)
    with pytest.raises(ArtifactError, match=f"^{path}: parameters has 'intra_op_threads'"):
        load_model(copy / NAME, ON_CPU)


def test_a_version_without_its_manifest_is_not_there_yet(copy: Path) -> None:
    shutil.copytree(copy / NAME / "1", copy / NAME / "2")
    (copy / NAME / "2" / "manifest.json").unlink()
    assert latest_version(copy / NAME) == 1
    (copy / NAME / "1" / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match="no complete version"):
        latest_version(copy / NAME)


def test_the_highest_version_is_the_latest_and_other_folders_are_none(copy: Path) -> None:
    for name in ("10", "9", "x", "-3", "²"):
        shutil.copytree(copy / NAME / "1", copy / NAME / name)
    assert latest_version(copy / NAME) == 10


def test_a_manifest_in_the_wrong_place_is_refused(copy: Path) -> None:
    (copy / NAME).rename(copy / "impostor")
    with pytest.raises(ArtifactError, match="describes 'fashion_strided' version 1, its place"):
        read_manifest(copy / "impostor", 1)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "1/../../x", "a//b", "", "1/.x"])
def test_a_manifest_that_names_a_path_outside_its_folder_is_refused(copy: Path, path: str) -> None:
    edit_manifest(copy / NAME, lambda content: content["files"].update({path: "0" * 64}))
    with pytest.raises(ArtifactError, match="no plain relative path"):
        read_manifest(copy / NAME, 1)


def test_a_manifest_of_another_format_says_which_field_is_wrong(copy: Path) -> None:
    edit_manifest(copy / NAME, lambda content: content["input"].update(datatype="FP8"))
    with pytest.raises(ArtifactError, match=r"input.datatype: Input should be 'FP32'"):
        read_manifest(copy / NAME, 1)


def test_labels_that_do_not_fit_the_classes_are_refused(copy: Path) -> None:
    path = copy / NAME / "1" / "labels.txt"
    path.write_text(path.read_text() + "hat\n")
    digest = sha256(path.read_bytes()).hexdigest()
    edit_manifest(copy / NAME, lambda content: content["files"].update({"1/labels.txt": digest}))
    with pytest.raises(ArtifactError, match="11 labels for 10 classes"):
        load_model(copy / NAME, ON_CPU)


def test_only_folders_with_a_configuration_are_models(copy: Path) -> None:
    (copy / "report").mkdir()
    shutil.copytree(copy / NAME, copy / ".half_written")
    assert [folder.name for folder in model_folders(copy)] == [NAME]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder into which every user may look."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        for entry in folder.iterdir():
            entry.chmod(0o700)


@contextmanager
def somebody() -> Iterator[int]:
    """Be a user who may not look anywhere, as root may; gives the user's number."""
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        yield os.geteuid()
    finally:
        os.seteuid(user)


def test_a_folder_that_may_not_be_looked_into_is_passed_over_and_named_once(
    open_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The root of a volume has lost+found, for its root user alone: it goes without saying."""
    for name in ("lost+found", "closed"):
        (open_folder / name).mkdir(mode=0)
    (open_folder / "net").mkdir()
    (open_folder / "net" / "config.pbtxt").touch()
    with somebody() as user:
        for _ in range(2):
            assert [folder.name for folder in model_folders(open_folder)] == ["net"]
    said = f"{open_folder / 'closed'} may not be read by user {user}: it is passed over"
    assert caplog.messages == [said]


def test_a_repository_that_may_not_be_read_is_refused_in_a_line(open_folder: Path) -> None:
    (open_folder / "closed").mkdir(mode=0)
    with somebody() as user, pytest.raises(ArtifactError, match=f"may not be read by user {user}$"):
        model_folders(open_folder / "closed")


@pytest.mark.parametrize(
    ("options", "awaited"),
    [
        ([], "waiting for calls that load"),
        (["--load", ""], "waiting for calls that load"),
        (["--poll-s", "60"], "waiting for a look every 60 s"),
        (["--host", "0.0.0.0"], "start again once it has models, or with --poll-s 10"),  # noqa: S104 - where strangers may call, and none load
    ],
)
def test_a_server_with_nothing_to_load_starts_is_ready_and_says_how_models_come(
    copy: Path, repository: Path, options: list[str], awaited: str
) -> None:
    if options[:1] != ["--load"]:
        shutil.rmtree(copy / NAME)
    server = start_server(copy, ["--drain-s", "0", *options])
    with grpc.insecure_channel(server.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
        if "calls" in awaited:
            shutil.copytree(repository / NAME, copy / NAME, dirs_exist_ok=True)
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=NAME))
            assert stub.ModelReady(pb.ModelReadyRequest(name=NAME)).ready
    assert server.stop() == 0
    log = "".join(server.log)
    assert f"nothing of {copy} is served yet: " in log
    assert awaited in log


def test_one_damaged_model_does_not_stop_the_others(repository: Path, copy: Path) -> None:
    shutil.copytree(repository / "fashion_blur", copy / "fashion_blur")
    (copy / NAME / "1" / "model.onnx").write_bytes(b"damaged")
    server = start_server(copy, ("--drain-s", "0", "--no-strict-readiness"))
    with grpc.insecure_channel(server.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert server.stop() == 0
    log = "".join(server.log)
    assert "model fashion_strided is not served" in log
    assert "1 of 2 models are not served: fashion_strided; ready without them" in log
    assert "loaded fashion_blur version 1" in log


def test_a_repository_without_a_sound_model_does_not_start(copy: Path) -> None:
    (copy / NAME / "1" / "model.onnx").write_bytes(b"damaged")
    ended = run("nyquist.server", "--repository", str(copy), "--port", "0", "--metrics-port", "0")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("nyquist serve: error: no model of ")
