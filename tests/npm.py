"""Node's packages, installed beside the environments of others, and the scripts that use them."""

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.processes import ROOT


def installed(listed_in: Path) -> Path:
    """The folder with its node_modules, installed when its list is new or has changed."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("there is no npm")
    folder = ROOT / ".venvs" / listed_in.name
    listed, ready = (listed_in / "package-lock.json").read_text(), folder / "ready"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f".{listed_in.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another worker may want it
        if not ready.is_file() or ready.read_text() != listed:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(listed_in / name, folder)
            install = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
            subprocess.run(install, cwd=folder, check=True, timeout=300)
            ready.write_text(listed)
    return folder


def printed(script: Path, packages: Path, *arguments: str) -> list[str]:
    """Run a script to its end, and return the lines that it prints."""
    node = shutil.which("node")
    assert node is not None
    ended = subprocess.run(
        [node, str(script), *arguments],
        cwd=packages,
        env=os.environ | {"NODE_PATH": str(packages / "node_modules")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()
