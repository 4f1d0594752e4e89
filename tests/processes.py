"""The project's own commands as real processes."""

import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO

ROOT = Path(__file__).parent.parent
START_TIMEOUT_S = 120.0


@dataclass
class RunningServer:
    """A server process that is ready.

    Attributes:
        process: to signal and to wait for.
        port: of gRPC; 0 where it listens at a socket's file.
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


def start_until(
    command: Sequence[str], ready: str, timeout_s: float = START_TIMEOUT_S
) -> tuple[subprocess.Popen[str], re.Match[str], list[str], Thread]:
    """Start a process and read its log, on and on, in a thread.

    Args:
        command: with its arguments.
        ready: a pattern that the log has once the process is ready.
        timeout_s: that it has to become so; it is killed if it does not.

    Returns:
        the process, what matched, the lines so far, and the thread that adds to them.

    Raises:
        AssertionError: it ended before it was ready, or was not ready in time.
    """
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    log: list[str] = []
    found: Queue[re.Match[str] | None] = Queue()
    reader = Thread(target=_read, args=(process.stderr, log, ready, found), daemon=True)
    reader.start()
    with suppress(Empty):
        if match := found.get(timeout=timeout_s):
            return process, match, log, reader
    process.kill()
    process.wait()
    reader.join()
    raise AssertionError(f"{command[1:3]} did not become ready:\n{''.join(log)}")


def _read(
    stream: IO[str], log: list[str], ready: str, found: "Queue[re.Match[str] | None]"
) -> None:
    with stream:
        for line in stream:
            log.append(line)
            if match := re.search(ready, "".join(log), re.DOTALL):
                found.put(match)
                break
        log.extend(stream)
    found.put(None)


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
    repository: Path | str, options: Sequence[str] = ("--drain-s", "0"), code: str = ""
) -> RunningServer:
    """Start a server on free ports and wait until it says that it is ready.

    `code` runs in its place, for a server with a fault.
    """
    process, found, log, reader = start_until(
        [
            *(sys.executable, *(("-c", code) if code else ("-m", "nyquist.server"))),
            *("--repository", str(repository), "--port", "0", "--metrics-port", "0"),
            *options,
        ],
        r"ready: [^\n]* gRPC on \S+?(?::(\d+))?, metrics on http://\S+:(\d+)/",
    )
    return RunningServer(process, int(found[1] or 0), int(found[2]), log, reader)
