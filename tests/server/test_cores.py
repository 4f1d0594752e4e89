import os
from pathlib import Path

import pytest

from nyquist.server.runtime.cores import available_cores

ALLOWED = sorted(os.sched_getaffinity(0))


def topology(folder: Path, siblings: str) -> Path:
    for number in ALLOWED:
        path = folder / f"cpu{number}" / "topology"
        path.mkdir(parents=True)
        (path / "thread_siblings_list").write_text(siblings.format(number=number))
    return folder


def quota(folder: Path, text: str) -> Path:
    path = folder / "cpu.max"
    path.write_text(text)
    return path


def test_without_a_word_from_the_system_every_allowed_cpu_is_a_core(tmp_path: Path) -> None:
    assert available_cores(tmp_path / "none", tmp_path / "none") == len(ALLOWED)


def test_two_hardware_threads_are_one_core(tmp_path: Path) -> None:
    all_one = topology(tmp_path, "0-99")
    assert available_cores(all_one, tmp_path / "none") == 1


def test_each_physical_core_counts(tmp_path: Path) -> None:
    separate = topology(tmp_path, "{number}\n")
    assert available_cores(separate, tmp_path / "none") == len(ALLOWED)


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("100000 100000", 1),
        ("50000 100000", 1),
        ("10000000 100000", len(ALLOWED)),
        ("max 100000", len(ALLOWED)),
        ("", len(ALLOWED)),
    ],
)
def test_the_quota_of_a_container_bounds_the_cores(tmp_path: Path, text: str, cores: int) -> None:
    assert available_cores(tmp_path / "none", quota(tmp_path, text)) == cores
