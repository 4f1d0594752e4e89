"""Packages of npm, where a test needs some: installed beside the environments of third parties."""

import fcntl
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
