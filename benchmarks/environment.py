"""The machine that the figures come from."""

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nyquist.server.runtime.cores import available_cores

ROOT = Path(__file__).parent.parent
PACKAGES = ("nyquist-serving", "onnxruntime", "grpcio", "protobuf", "numpy", "pillow", "ngh2")


def describe() -> dict[str, Any]:
    """Return CPU, kernel, versions, load and commit as they are now."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": _cpu(),
        "cores": available_cores(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": commit(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def commit() -> str:
    """Return the commit, with a plus where files differ from it; unknown without git."""
    try:
        named = _git("rev-parse", "--short=12", "HEAD")
        return named + "+" * bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*words: str) -> str:
    asked = subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True)  # noqa: S603, S607 - git, where there is one
    return asked.stdout.strip()


def _cpu() -> str:
    found = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()
