"""What a process and its children have used, from the kernel: CPU time and memory."""

import re
import time
from pathlib import Path

CPU_CLOCK = 2
"""The kernel's CPUCLOCK_SCHED: time on a core, user and system, of all threads, in nanoseconds."""


def with_children(pid: int) -> list[int]:
    """Return a process and all that descend from it, parents first."""
    found = [pid]
    for parent in found:
        for path in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found.extend(map(int, path.read_text().split()))
            except OSError:  # the thread has just ended
                continue
    return found


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process and its children that run, ended threads counted.

    The clock is the one that clock_getcpuclockid(3) gives; unlike /proc/PID/stat it counts
    nanoseconds, not ticks of 10 ms.

    Raises:
        ProcessLookupError: there is no such process.
    """
    if not Path(f"/proc/{pid}").exists():
        raise ProcessLookupError(f"no process {pid}")
    return sum(map(_cpu_seconds, with_children(pid)))


def _cpu_seconds(pid: int) -> float:
    try:
        return time.clock_gettime_ns((~pid << 3) | CPU_CLOCK) / 1e9
    except OSError:  # it has just ended
        return 0.0


def peak_resident_bytes(pid: int) -> int:
    """Return the most memory that a process and its children held; shared pages count for each."""
    return sum(map(_peak_resident_bytes, with_children(pid)))


def _peak_resident_bytes(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has just ended
        return 0
    peak = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(peak[1]) * 1024 if peak else 0


def is_paused(pid: int) -> bool:
    """Say whether every thread of a process is stopped by a signal, or gone."""
    return all(map(_is_stopped, Path(f"/proc/{pid}/task").glob("*/stat")))


def _is_stopped(thread: Path) -> bool:
    try:
        fields = thread.read_text().rpartition(")")[2].split()
    except OSError:
        return True
    return fields[0] in "TZX"
