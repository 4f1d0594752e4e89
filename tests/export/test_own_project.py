"""A build within a project of one's own, whose folders have the names of Nyquist's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nyquist.companion.page.kit import report_folder
from nyquist.companion.references.network import load_reference
from nyquist.server.artifact.manifest import read_manifest

NETWORKS = """
import models
import server
from export import NAME
from torch import nn

def make():
    assert (models.WHOSE, server.WHOSE, NAME) == ("mine", "mine", "mine")
    return nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3))

def broken():
    raise RuntimeError("the oven is cold")
"""
BOTH = """
defaults: {input: 1x16x16}
models:
- {name: cold, arch: "mynets.net:broken"}
- {name: own, arch: "mynets.net:make"}
"""


OWN = ("--arch", "mynets.net:make", "--name", "own", "--input", "1x16x16")


def python(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def build(folder: Path, *arguments: str) -> Any:
    """Build in a folder; return what the build says in JSON."""
    ended = python(folder, "-m", "nyquist.export.build", *arguments, "--json")
    assert ended.returncode in (0, 1), ended.stdout + ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with packages and a module that are called like folders of Nyquist."""
    folder = tmp_path_factory.mktemp("project")
    files = {
        "models/__init__.py": "WHOSE = 'mine'",
        "server.py": "WHOSE = 'mine'",
        "export/__init__.py": "NAME = 'mine'",
        "mynets/__init__.py": "",
        "mynets/net.py": NETWORKS,
        "both.yaml": BOTH,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def built(project: Path) -> Path:
    """Return the repository of the project, with one model of its own."""
    document = build(project, *OWN)
    assert [one["name"] for one in document["built"]] == ["own"], document
    return project / "model_repository"


def test_a_network_of_ones_own_is_built_beside_folders_of_the_same_names(built: Path) -> None:
    assert (built / "own" / "1" / "model.onnx").is_file()
    assert (report_folder(built) / "own.html").is_file()


def test_a_network_of_ones_own_is_kept_whole_and_runs_without_its_code(
    project: Path, built: Path
) -> None:
    manifest = read_manifest(built / "own", 1)
    assert not [path for path in manifest.files if path.endswith("reference.safetensors")]
    assert load_reference(built / "own", manifest).predict(
        np.zeros((3, 1, 16, 16), np.float32)
    ).shape == (3, 3)
    assert "mynets" not in sys.modules

    shutil.copy(built / "own" / "1" / "reference.pt2", project / "net.pt2")
    elsewhere = ("--program", "net.pt2", "--name", "own", "--input", "1x16x16")
    document = build(project, *elsewhere, "--output", "programs")
    assert [one["name"] for one in document["built"]] == ["own"], document
    program = read_manifest(project / "programs" / "own", 1)
    assert program.architecture.name == "net.pt2"
    assert program.origin.command == ("--program", "net.pt2", *elsewhere[2:])
    assert program.files["1/reference.pt2"] == manifest.files["1/reference.pt2"]
    assert program.figures.multiply_adds == manifest.figures.multiply_adds
    assert build(project, *elsewhere, "--output", "programs", "--dry-run")["unchanged"] == ["own"]


def test_nyquist_is_imported_beside_models_of_ones_own(project: Path) -> None:
    program = "import models, nyquist.models; print(models.WHOSE, nyquist.models.__name__)"
    assert python(project, "-c", program).stdout.split() == ["mine", "nyquist.models"]


def test_pages_are_drawn_again_without_building(project: Path, built: Path) -> None:
    page = report_folder(built) / "own.html"
    drawn = page.read_text()
    page.write_text("as an older template drew it")
    document = build(project, *OWN)
    assert (document["built"], document["unchanged"]) == ([], ["own"])
    assert page.read_text() == drawn


def test_a_page_that_reads_as_it_should_is_not_written_again(project: Path, built: Path) -> None:
    page = report_folder(built) / "own.html"
    before = page.stat()
    build(project, *OWN)
    assert page.stat() == before


def test_a_change_in_what_a_network_imports_is_built(project: Path, built: Path) -> None:
    shutil.copytree(project, built.parent / "changed", ignore=shutil.ignore_patterns("changed"))
    changed = built.parent / "changed"
    assert build(changed, *OWN, "--dry-run") == {"build": {}, "unchanged": ["own"]}
    (changed / "server.py").write_text("WHOSE = 'mine'; LAYERS = 3")
    assert build(changed, *OWN, "--dry-run")["build"] == {"own": "inputs changed"}


def test_a_model_that_fails_does_not_keep_the_others_from_being_built(project: Path) -> None:
    document = build(project, "--config", "both.yaml", "--output", "both", "--jobs", "1")
    assert document["failed"] == {"cold": ["RuntimeError: the oven is cold"]}
    assert [one["name"] for one in document["built"]] == ["own"]
