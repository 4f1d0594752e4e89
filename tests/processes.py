"""The project's own commands as real processes."""

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import IO

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 60.0


@dataclass
class RunningServer:
    """A server process that is ready.

    Attributes:
        process: to signal and to wait for.
        port: of gRPC.
        metrics_port: of its metrics.
        log: lines that it has written so far.
        reader: reads on, or the server would block on a full pipe.
    """

    process: subprocess.Popen[str]
    port: int
    metrics_port: int
    log: list[str]
    reader: Thread

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> int:
        """End it if it still runs, and return its exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(timeout=60)
        self.reader.join()
        return status


def read_to_end(stream: IO[str], log: list[str]) -> None:
    """Collect the lines of a stream until it ends, and close it."""
    with stream:
        log.extend(stream)


def run(*command: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run one of the project's modules, with its arguments, to its end."""
    return subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def start_server(
    repository: Path, options: Sequence[str] = ("--drain-s", "0"), code: str = ""
) -> RunningServer:
    """Start a server on free ports and wait until it says that it is ready.

    `code` runs in its place, for a server with a fault.
    """
    process = subprocess.Popen(
        [
            *(sys.executable, *(("-c", code) if code else ("-m", "nyquist.server"))),
            *("--repository", str(repository), "--port", "0", "--metrics-port", "0"),
            *options,
        ],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    log: list[str] = []
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"ready: .* gRPC on \S+:(\d+), metrics on http://\S+:(\d+)/", line):
            reader = Thread(target=read_to_end, args=(process.stderr, log), daemon=True)
            reader.start()
            return RunningServer(process, int(found[1]), int(found[2]), log, reader)
    raise AssertionError(f"the server did not become ready:\n{''.join(log)}")
