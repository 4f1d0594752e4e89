"""How versions of an artifact come, stay and go; the content is that of a built model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nyquist.export.publish import RepositoryBusy, exchange, locked, publish, remove_leftovers
from nyquist.server.artifact.layout import complete_versions, latest_version
from nyquist.server.artifact.manifest import Manifest, read_manifest
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.serving.loading import load_model

NAME = "fashion_strided"
SHARED = "config.pbtxt"


@pytest.fixture(scope="module")
def built(repository: Path) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest of a model and the files of its version."""
    folder = repository / NAME
    version = latest_version(folder)
    manifest = read_manifest(folder, version)
    files = {path.name: path.read_bytes() for path in (folder / str(version)).iterdir()}
    del files["manifest.json"]
    return manifest, files | {SHARED: (folder / SHARED).read_bytes()}


Publish = Callable[..., int]


@pytest.fixture
def put(built: tuple[Manifest, dict[str, bytes]], tmp_path: Path) -> Publish:
    """Publish the model with some files changed; returns its version."""
    manifest, files = built

    def describe(version: int, digests: dict[str, str]) -> Manifest:
        return manifest.model_copy(update={"version": version, "files": digests})

    def publish_changed(keep: int = 3, **changed: bytes) -> int:
        content = files | {name.replace("_", "."): value for name, value in changed.items()}
        return publish(tmp_path, NAME, content, describe, keep).version

    return publish_changed


def test_the_same_content_again_is_the_same_version(put: Publish, tmp_path: Path) -> None:
    assert [put(), put()] == [1, 1]
    assert complete_versions(tmp_path / NAME) == [1]


def test_changed_content_is_the_next_version_and_both_load(
    put: Publish, built: tuple[Manifest, dict[str, bytes]], tmp_path: Path
) -> None:
    relabelled = built[1]["labels.txt"].replace(b"bag", b"handbag")
    assert [put(), put(labels_txt=relabelled)] == [1, 2]
    folder = tmp_path / NAME
    assert "handbag" in load_model(folder, Execution(provider="cpu")).labels["logits"]
    first = read_manifest(folder, 1)
    assert all(first.read_file(folder, path) for path in first.files if path.startswith("1/"))


def test_only_the_newest_versions_are_kept(put: Publish, tmp_path: Path) -> None:
    for turn in range(5):
        put(keep=2, samples_safetensors=bytes([turn]))
    assert complete_versions(tmp_path / NAME) == [4, 5]
    put(keep=1, samples_safetensors=b"last")
    assert complete_versions(tmp_path / NAME) == [6]


def test_a_version_whose_manifest_is_damaged_is_not_overwritten(
    put: Publish, tmp_path: Path
) -> None:
    put()
    (tmp_path / NAME / "1" / "manifest.json").write_text("{")
    assert put() == 2
    assert (tmp_path / NAME / "1" / "manifest.json").read_text() == "{"


def test_settings_of_an_operator_stay_while_they_fit(put: Publish, tmp_path: Path) -> None:
    put()
    config = tmp_path / NAME / SHARED
    edited = config.read_text().replace("max_queue_size: 1024", "max_queue_size: 7")
    config.write_text(edited)
    put(samples_safetensors=b"changed")
    assert config.read_text() == edited
    config.write_text(edited.replace("dims: 48", "dims: 47", 1))
    put(samples_safetensors=b"changed again")
    assert "max_queue_size: 1024" in config.read_text()


def test_nothing_but_the_model_is_left(put: Publish, tmp_path: Path) -> None:
    put()
    put(samples_safetensors=b"changed")
    assert [entry.name for entry in tmp_path.iterdir()] == [NAME]


def test_two_builds_do_not_write_to_one_repository(tmp_path: Path) -> None:
    busy = pytest.raises(RepositoryBusy, match="another build is writing to")
    with locked(tmp_path), busy, locked(tmp_path):
        pass
    with locked(tmp_path):  # the first has let go
        pass


def test_two_folders_change_places_in_one_step(tmp_path: Path) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    exchange(tmp_path / "first", tmp_path / "second")
    assert [path.name for path in (tmp_path / "first").iterdir()] == ["second"]
    assert [path.name for path in (tmp_path / "second").iterdir()] == ["first"]


def test_what_a_killed_build_left_is_removed_and_models_stay(tmp_path: Path) -> None:
    (tmp_path / ".fashion_blur.abc" / "fashion_blur").mkdir(parents=True)
    (tmp_path / "fashion_blur").mkdir()
    remove_leftovers(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["fashion_blur"]
