"""kill -9 while artifacts change: a reader always finds one whole version, the old or the new."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from nyquist.server.artifact.layout import complete_versions
from nyquist.server.artifact.manifest import read_manifest
from tests.processes import ROOT

NAME = "fashion_strided"
MOMENTS = 20
PUBLISH_FOREVER = """
import itertools, sys
from pathlib import Path
from nyquist.export.publish import publish, remove_leftovers
from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.artifact.layout import latest_version

source, repository = Path(sys.argv[1]), Path(sys.argv[2])
version = latest_version(source)
manifest = read_manifest(source, version)
files = {path.name: path.read_bytes() for path in (source / str(version)).iterdir()}
del files["manifest.json"]
files["config.pbtxt"] = (source / "config.pbtxt").read_bytes()

def describe(version, digests):
    return manifest.model_copy(update={"version": version, "files": digests})

remove_leftovers(repository)
for turn in itertools.count():
    files["samples.safetensors"] = bytes([turn % 256]) * 200_000
    publish(repository, source.name, files, describe, keep=2)
    print(turn, flush=True)
"""


def is_whole(folder: Path) -> bool:
    """Whether every version has its manifest and every byte that it lists."""
    versions = complete_versions(folder)
    assert versions, "there was a version before"
    assert sorted(str(version) for version in versions) == sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir()
    )
    for version in versions:
        manifest = read_manifest(folder, version)
        for path in manifest.files:
            if path.startswith(f"{version}/"):
                manifest.read_file(folder, path)
    newest = read_manifest(folder, versions[-1])
    return all(newest.read_file(folder, path) for path in ("config.pbtxt", "labels.txt"))


def test_killed_at_twenty_moments_the_artifact_is_always_whole(
    repository: Path, tmp_path: Path
) -> None:
    moments = random.Random(0)  # noqa: S311 # of a test
    published = 0
    for _ in range(MOMENTS):
        process = subprocess.Popen(
            [sys.executable, "-c", PUBLISH_FOREVER, str(repository / NAME), str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()  # one is there; the next ones are being written
        time.sleep(moments.uniform(0, 0.1))
        process.kill()
        output, _ = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        assert is_whole(tmp_path / NAME)
        published += 1 + len(output.split())
    assert published > MOMENTS
