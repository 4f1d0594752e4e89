"""What the light metrics show is what prometheus_client's own would."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nyquist.server.telemetry.histograms import LightCounter, LightGauge, LightHistogram

EDGES = (0.25, 0.5, 1.0)
values = st.floats(0, 3) | st.sampled_from(EDGES)
labels = st.tuples(st.sampled_from("ab"), st.sampled_from("12"))


def shown(registry: CollectorRegistry) -> list[str]:
    lines = generate_latest(registry).decode().splitlines()
    return sorted(line for line in lines if "_created" not in line)


@given(st.lists(st.tuples(labels, values)), st.sampled_from(("", "a")))
def test_a_scrape_reads_the_same(seen: list[tuple[tuple[str, str], float]], gone: str) -> None:
    names = ("model", "version")
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    pairs: list[tuple[Any, Any]] = [
        (
            Counter("c_total", "C.", names, registry=theirs),
            LightCounter("c_total", "C.", names, ours),
        ),
        (Gauge("g", "G.", names, registry=theirs), LightGauge("g", "G.", names, ours)),
        (
            Histogram("h", "H.", names, buckets=EDGES, registry=theirs),
            LightHistogram("h", "H.", names, ours, EDGES),
        ),
    ]
    for series, value in seen:
        for counter, gauge, histogram in zip(*pairs, strict=True):
            counter.labels(*series).inc()
            gauge.labels(*series).inc()
            if value > 1:
                gauge.labels(*series).dec()
            histogram.labels(*series).observe(value)
    if gone:
        for both in pairs:
            for metric in both:
                metric.remove_by_labels({"model": gone})
    assert shown(ours) == shown(theirs)


def test_a_bucket_shows_the_last_exemplar_that_it_was_given_and_the_others_none() -> None:
    registry = CollectorRegistry()
    series = LightHistogram("h", "H.", (), registry, EDGES).labels()
    series.observe(0.3, {"trace_id": "earlier"})
    series.observe(0.4, {"trace_id": "later"})
    series.observe(0.45)
    series.observe(2.0)
    shown_by_edge = {
        sample.labels["le"]: sample.exemplar
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "h_bucket"
    }
    found = shown_by_edge.pop("0.5")
    assert found is not None
    assert (found.labels, found.value) == ({"trace_id": "later"}, 0.4)
    assert shown_by_edge == {"0.25": None, "1.0": None, "+Inf": None}
