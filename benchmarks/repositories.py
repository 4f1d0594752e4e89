"""Folders for servers to serve: one model alone, or many copies; and the models themselves."""

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

from benchmarks.model import MeasuredModel
from nyquist.server.artifact.manifest import CONFIG_FILE, MANIFEST_FILE

ROOT = Path(__file__).parent.parent
BUILT = ROOT / "model_repository"
OWN = ROOT / "benchmark_repository"
RECIPES = Path(__file__).parent / "models.yaml"


def find(name: str) -> MeasuredModel:
    """Return a model by its name; those of models.yaml are built when they are first wanted.

    Raises:
        ValueError: there is no such model.
        subprocess.CalledProcessError: the build failed; it has said why.
    """
    for repository in (BUILT, OWN):
        if (repository / name / CONFIG_FILE).is_file():
            return MeasuredModel(repository / name)
    if name not in _own_names():
        known = sorted(
            {*_own_names(), *(path.parent.name for path in BUILT.glob("*/config.pbtxt"))}
        )
        raise ValueError(f"no model {name!r}; choose from {', '.join(known)}, or build it first")
    build(["--config", str(RECIPES), "--only", name], OWN)
    return MeasuredModel(OWN / name)


def build(options: list[str], output: Path) -> float:
    """Build models in a process of its own and return its seconds."""
    began = monotonic()
    command = [sys.executable, str(ROOT / "export" / "build.py"), *options, "--output", str(output)]
    with subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr) as process:  # noqa: S603 - our own command
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # it ends its workers, which a kill would leave
            raise
    if status:
        raise subprocess.CalledProcessError(status, command)
    return monotonic() - began


def _own_names() -> list[str]:
    command = [sys.executable, str(ROOT / "export" / "build.py"), "--config", str(RECIPES)]
    listed = subprocess.run([*command, "--list"], cwd=ROOT, check=True, capture_output=True)  # noqa: S603 - our own command
    return listed.stdout.decode().split()


def alone(subject: MeasuredModel, target: Path) -> Path:
    """Make a repository with a link to one model."""
    target.mkdir(parents=True)
    (target / subject.name).symlink_to(subject.folder.resolve())
    return target


def copies(subject: MeasuredModel, count: int, target: Path) -> Path:
    """Make a repository of one model and count - 1 copies of it under other names."""
    alone(subject, target)
    for number in range(1, count):
        _copy(subject, target / f"{subject.name}_{number:03}")
    return target


def _copy(subject: MeasuredModel, folder: Path) -> None:
    shutil.copytree(subject.folder, folder)
    config = folder / CONFIG_FILE
    text = config.read_text().replace(f'"{subject.name}"', f'"{folder.name}"', 1)
    manifest = folder / str(subject.manifest.version) / MANIFEST_FILE
    content = json.loads(manifest.read_text())
    content["name"] = folder.name
    content["files"][CONFIG_FILE] = hashlib.sha256(text.encode()).hexdigest()
    config.write_text(text)
    manifest.write_text(json.dumps(content))
