"""What an installation without extras holds and says: the wheel beside its base dependencies."""

import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement

from tests.processes import ROOT

DATA = (
    "nyquist/models/data/imagenet_labels.txt",
    "nyquist/models/data/fashion_sample.npz",
    "nyquist/models/data/photographs/coffee.png",
    "nyquist/models/weights/fashion_blur.safetensors",
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=120)
    (built,) = folder.glob("nyquist_serving-*.whl")
    return built


def base_distributions(requirements: list[str], known: set[str]) -> set[str]:
    """Return the names of all that these requirements bring, without extras of theirs."""
    for requirement in map(Requirement, requirements):
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and requirement.name not in known:
            known.add(requirement.name)
            base_distributions(distribution(requirement.name).requires or [], known)
    return known


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment that holds the wheel and its base dependencies alone."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, symlinks=True)
    (packages,) = home.glob("lib/python*/site-packages")
    with ZipFile(wheel) as archive:
        archive.extractall(packages)
    (metadata,) = packages.glob("*.dist-info/METADATA")
    lines = metadata.read_text(encoding="utf-8").splitlines()
    needed = [line.removeprefix("Requires-Dist: ") for line in lines if "Requires-Dist" in line]
    for name in base_distributions(needed, set()):
        found = distribution(name)
        for top in {file.parts[0] for file in found.files or () if file.parts[0] != ".."}:
            there, source = packages / top, Path(str(found.locate_file(top)))
            if top != "__pycache__" and not there.exists():
                there.symlink_to(source)
    return home / "bin" / "python"


def run(python: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-I", "-m", "nyquist", *words],
        cwd=python.parent, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_the_wheel_holds_code_data_and_pages_under_one_name(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.partition("/")[0] for name in names} == {
        "nyquist",
        "nyquist_serving-0.1.0.dist-info",
    }
    assert "nyquist/__init__.py" not in names
    assert not set(DATA) - set(names)
    for kind in (".html", ".css"):
        shipped = {
            path.relative_to(ROOT / room).as_posix()
            for room in ("companion", "export")
            for path in (ROOT / room / "nyquist").rglob(f"*{kind}")
        }
        assert shipped
        assert not shipped - set(names)


@pytest.mark.parametrize(
    "word",
    [
        *("build", "diff", "models", "analyse", "serve", "check-repository", "status", "classify"),
        *("check", "companion", "version", "completion"),
    ],
)
def test_help_needs_no_extra(installed: Path, word: str) -> None:
    answer = run(installed, word, "--help")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith(f"usage: nyquist {word} ")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["build"], "[export] to build models, with [cpu] or [gpu]"),
        (["diff", "m", "1", "2"], "[export] to compare versions of a model"),
        (["analyse", "outputs"], "[export] to analyse networks"),
        (["serve"], "[cpu] or nyquist-serving[gpu] to serve models"),
        (["check-repository"], "[cpu] or nyquist-serving[gpu] to check a repository"),
        (["check"], "[companion] to compare a server with PyTorch"),
        (["companion"], "[companion] to run the companion"),
    ],
)
def test_a_missing_extra_is_one_line(installed: Path, words: list[str], line: str) -> None:
    answer = run(installed, *words)
    assert answer.returncode == 2
    assert answer.stderr == f"nyquist: install nyquist-serving{line}\n"


def test_what_needs_no_extra_runs_without(installed: Path) -> None:
    assert "resnet50" in run(installed, "models").stdout
    assert run(installed, "version").stdout.split()[-2:] == ["extras", "none"]
    assert "nyquist" in run(installed, "completion", "bash").stdout
    unheard = run(installed, "status", "--target", "127.0.0.1:1")
    assert unheard.returncode == 1
    assert unheard.stderr.startswith("nyquist status: error: 127.0.0.1:1: UNAVAILABLE")
