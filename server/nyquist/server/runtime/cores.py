"""How many cores this process may use."""

import os
from pathlib import Path

TOPOLOGY = Path("/sys/devices/system/cpu")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores(topology: Path = TOPOLOGY, quota: Path = QUOTA) -> int:
    """Return the physical cores that the process may run on, as its container's quota bounds them.

    Two hardware threads of a core count as one: they share the units that convolutions need.
    """
    allowed = os.sched_getaffinity(0)
    cores = len({_siblings(topology / f"cpu{number}", number) for number in allowed})
    return max(1, min(cores, _quota(quota)))


def _siblings(cpu: Path, number: int) -> str:
    try:
        return (cpu / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(number)


def _quota(path: Path) -> int:
    """Read cgroup v2's "MICROSECONDS|max PERIOD"; half a core counts as one."""
    try:
        allowed, period = path.read_text().split()
    except (OSError, ValueError):
        return os.cpu_count() or 1
    if allowed == "max":
        return os.cpu_count() or 1
    return -(-int(allowed) // int(period))
