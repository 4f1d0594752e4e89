"""A companion as a real process, and what it shows."""

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

from tests.processes import start_until

PERIOD_S = 1.5
FAST = (
    *("--probe-period-s", str(PERIOD_S), "--core-share", "1"),
    *("--nice", "0", "--drain-s", "0"),
)
PATIENCE_S = 120.0


@dataclass
class RunningCompanion:
    """A companion process that is ready.

    Attributes:
        process: to signal and to wait for.
        port: of gRPC.
        http_port: of HTTP.
        log: lines that it has written so far.
        reader: reads on, or the companion would block on a full pipe.
    """

    process: subprocess.Popen[str]
    port: int
    http_port: int
    log: list[str]
    reader: Thread

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def get(self, path: str) -> str:
        """Return what HTTP answers."""
        address = f"http://127.0.0.1:{self.http_port}{path}"
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.read().decode()

    def metrics(self) -> dict[str, float]:
        """Return every series by its name and labels, as they are written."""
        lines = [line for line in self.get("/metrics").splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def verdict(self, model: str, version: int = 1) -> str:
        """Return the verdict that the metrics show; empty where they show none."""
        found = re.findall(
            rf'nyquist_verdict{{model="{model}",verdict="(\w+)",version="{version}"}} 1\.0',
            self.get("/metrics"),
        )
        return found[0] if found else ""

    def wait_for(self, what: Callable[[], bool]) -> None:
        """Wait until something holds."""
        start = time.monotonic()
        while not what():
            if time.monotonic() - start > PATIENCE_S:
                raise AssertionError(f"it never came about; the log:\n{''.join(self.log)}")
            time.sleep(0.02)

    def stop(self) -> int:
        """End it if it still runs, and return its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(timeout=60)
        self.reader.join()
        return status


def start_companion(
    target: str, repository: Path, options: Sequence[str] = FAST
) -> RunningCompanion:
    """Start a companion on free ports and wait until it says that it is ready."""
    process, found, log, reader = start_until(
        [
            *(sys.executable, "-m", "nyquist.companion", "serve"),
            *("--target", target, "--repository", str(repository)),
            *("--port", "0", "--http-port", "0"),
            *options,
        ],
        r"ready: [^\n]* gRPC on \S+:(\d+), HTTP on http://\S+:(\d+)/",
    )
    return RunningCompanion(process, int(found[1]), int(found[2]), log, reader)
