import json

from benchmarks import guard


def test_a_request_makes_the_server_do_no_more_than_the_baseline_allows() -> None:
    baseline = json.loads(guard.BASELINE.read_text())
    grown = guard.compare(guard.count(), baseline)
    assert not grown, "\n".join([*grown, "if this is meant: python -m benchmarks.guard --renew"])


def test_a_figure_that_grows_by_more_than_a_tenth_is_named_with_both_values() -> None:
    baseline = {"lines": 1000, "protobuf calls": 0}
    assert guard.compare({"lines": 1100, "protobuf calls": 0}, baseline) == []
    assert guard.compare({"lines": 1101, "protobuf calls": 1}, baseline) == [
        "lines: 1,101 a request, baseline 1,000, at most 1,100 are allowed",
        "protobuf calls: 1 a request, baseline 0, at most 0 are allowed",
    ]
