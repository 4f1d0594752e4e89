import io

from rich.console import Console

from benchmarks.capacity import show
from benchmarks.capacity_rows import Row


def test_the_table_has_the_median_error_over_the_rounds_and_the_spread_of_what_was_measured() -> (
    None
):
    rows = [
        Row(
            kind="paced",
            replicas=2,
            balancing="round-robin",
            rate=80.0,
            round=number,
            requests=480,
            answered=79.0,
            measured_ms=(p50, 2 * p50, 3 * p50),
            foreseen_ms=(33.0, 66.0, 90.0),
            explained_ms=(p50, 2 * p50, 3 * p50),
            foreseen_rate=80.0,
            run=1.0,
        )
        for number, p50 in enumerate((30.0, 33.0, 44.0), start=1)
    ]
    told = io.StringIO()
    show(rows, Console(file=told, width=200))
    line = next(one for one in told.getvalue().splitlines() if "paced 2" in one)
    expected = "round-robin 80 79 33.0 (30.0-44.0) +0 % +0 % 99.0 (90.0-132.0) -9 % +0 % 1.00"
    assert " ".join(line.split()[2:]) == expected
