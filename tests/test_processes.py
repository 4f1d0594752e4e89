"""What starts the processes of the suite: one that does not become ready must not hang it."""

import sys

import pytest

from tests.processes import start_until

SAYS = "import sys, time; print({line!r}, file=sys.stderr, flush=True); time.sleep({seconds})"


def command(line: str, seconds: float) -> list[str]:
    return [sys.executable, "-c", SAYS.format(line=line, seconds=seconds)]


def test_a_process_that_hangs_is_killed_and_its_log_told() -> None:
    with pytest.raises(AssertionError, match="did not become ready:\nstill loading"):
        start_until(command("still loading", 3600), "ready on", timeout_s=5)


def test_a_process_that_ends_is_not_waited_for() -> None:
    with pytest.raises(AssertionError, match="no such option"):
        start_until(command("no such option", 0), "ready on", timeout_s=3600)


def test_what_a_ready_process_says_is_read_on() -> None:
    process, found, log, reader = start_until(command("ready on 7", 0), r"ready on (\d)")
    assert found[1] == "7"
    assert process.wait(timeout=60) == 0
    reader.join(timeout=60)
    assert log == ["ready on 7\n"]
