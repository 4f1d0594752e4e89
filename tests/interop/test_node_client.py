"""A client in Node, made from nothing but proto/ with the packages that everybody uses for it."""

import fcntl
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from nyquist.models.samples import photograph_samples
from tests.processes import ROOT, RunningServer

NODE = Path(__file__).parent / "node"
ESPRESSO = 967


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder with the client's node_modules, installed when its list is new or has changed."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm")
    folder = ROOT / ".venvs" / "node"
    listed, ready = (NODE / "package-lock.json").read_text(), folder / "ready"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / ".node.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may want it
        if not ready.is_file() or ready.read_text() != listed:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(NODE / name, folder)
            install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(install, cwd=folder, check=True, timeout=300)
            ready.write_text(listed)
    return folder


def test_a_node_client_made_from_the_protos_finds_the_espresso_in_a_jpeg(
    packages: Path, server: RunningServer, tmp_path: Path
) -> None:
    jpeg = tmp_path / "coffee.jpg"
    Image.fromarray(photograph_samples().images[3].numpy()).save(jpeg, quality=95)
    call = [str(ROOT / "proto"), server.target, "efficientnet_lite0", str(jpeg)]
    node = shutil.which("node")
    assert node is not None
    ended = subprocess.run(
        [node, str(NODE / "classify.js"), *call],
        cwd=packages,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    logit, index, label = ended.stdout.strip().split(":")
    assert (int(index), label) == (ESPRESSO, "espresso")
    assert float(logit) > 0
