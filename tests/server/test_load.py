import pytest

from nyquist.client.load import Reading, load, quantile

INF = float("inf")
MODEL = ("m", "1")
FIRST = {0.1: 10.0, 0.2: 20.0, INF: 20.0}


def test_the_share_lies_where_the_line_of_its_bucket_has_it() -> None:
    assert quantile(0.5, {0.1: 50.0, 0.2: 100.0, INF: 100.0}) == pytest.approx(0.1)
    assert quantile(0.75, {0.1: 50.0, 0.2: 100.0, INF: 100.0}) == pytest.approx(0.15)
    assert quantile(0.25, {0.1: 50.0, 0.2: 100.0, INF: 100.0}) == pytest.approx(0.05)


def test_what_took_longer_than_the_last_edge_is_called_as_long_as_that() -> None:
    assert quantile(0.99, {0.1: 1.0, INF: 100.0}) == pytest.approx(0.1)


def test_nothing_has_no_quantile() -> None:
    assert quantile(0.99, {0.1: 0.0, INF: 0.0}) is None


def test_a_load_is_of_the_time_between_two_readings() -> None:
    later = Reading(12.0, {MODEL: {0.1: 10.0, 0.2: 60.0, INF: 60.0}})
    found = load(MODEL, later, Reading(10.0, {MODEL: FIRST}))
    assert found is not None
    assert (found.requests, found.rate) == (40, 20.0)
    assert found.p99_s == pytest.approx(0.1 + 0.1 * 0.99)


def test_without_an_earlier_one_it_is_of_all_and_has_no_rate() -> None:
    found = load(MODEL, Reading(10.0, {MODEL: FIRST}))
    assert found is not None
    assert (found.requests, found.rate) == (20, None)


def test_a_version_that_was_loaded_again_begins_anew() -> None:
    found = load(
        MODEL, Reading(11.0, {MODEL: FIRST}), Reading(10.0, {MODEL: {0.1: 90.0, INF: 99.0}})
    )
    assert found is not None
    assert found.requests == 20


def test_a_version_without_series_has_no_load() -> None:
    assert load(("other", "1"), Reading(10.0, {MODEL: FIRST})) is None
