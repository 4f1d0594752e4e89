"""A manifest may be anyone's: what it may not make the companion do."""

import json
import shutil
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

from nyquist.companion.references.network import load_reference, load_samples
from nyquist.server.artifact.manifest import MANIFEST_FILE, REFERENCE_FILE, read_manifest
from nyquist.server.wire.errors import ArtifactError

NAME = "fashion_strided"
MODULE = "someone_elses_network"
CODE = """\
from pathlib import Path
from nyquist.models.networks.architectures import create
Path(__file__).with_name("was run").touch()
def build(**options):
    return create("compact", downsampling="strided")
"""


@pytest.fixture
def folder(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a model, beside a module that leaves a trace when it is imported."""
    (newest,) = sorted((repository / NAME).glob("[0-9]*"))[-1:]
    shutil.copytree(newest, tmp_path / NAME / newest.name)
    for file in ("config.pbtxt", "labels.txt"):
        shutil.copy(repository / NAME / file, tmp_path / NAME / file)
    (tmp_path / f"{MODULE}.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return tmp_path / NAME


def version_of(folder: Path) -> int:
    return int(next(folder.glob("[0-9]*")).name)


def rewrite(folder: Path, **fields: Any) -> None:
    """Change fields of the manifest, and set the checksum of the weights right."""
    version = version_of(folder)
    path = folder / str(version) / MANIFEST_FILE
    content = json.loads(path.read_text()) | fields
    weights = f"{version}/{REFERENCE_FILE}"
    content["files"][weights] = sha256((folder / weights).read_bytes()).hexdigest()
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name", [f"{MODULE}:build", f"{MODULE}:", f":{MODULE}", f"{MODULE}:build:x", MODULE]
)
def test_no_module_that_a_manifest_names_is_imported(folder: Path, name: str) -> None:
    rewrite(folder, architecture={"name": name, "options": {}})
    manifest = read_manifest(folder, version_of(folder))

    told = "has no reference.pt2: build it again" if ":" in name else "unknown architecture"
    with pytest.raises(ArtifactError, match=told):
        load_reference(folder, manifest)

    assert MODULE not in sys.modules
    assert not (folder.parent / "was run").exists()


class Trap:
    """An object that writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_weights_that_are_a_pickle_are_refused_and_not_unpickled(
    folder: Path, tmp_path: Path
) -> None:
    torch.save(
        {"bias": Trap(tmp_path / "sprung")}, folder / str(version_of(folder)) / REFERENCE_FILE
    )
    rewrite(folder)

    with pytest.raises(ArtifactError, match="damaged"):
        load_reference(folder, read_manifest(folder, version_of(folder)))

    assert not (tmp_path / "sprung").exists()


def test_samples_that_are_cut_short_are_refused(folder: Path) -> None:
    version = version_of(folder)
    path = folder / str(version) / "samples.safetensors"
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(ArtifactError, match="has sha256"):
        load_samples(folder, read_manifest(folder, version))
