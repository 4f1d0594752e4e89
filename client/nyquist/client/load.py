"""How much a server answers and how fast, of its metrics: before, now -> requests a second, p99."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from math import inf
from time import monotonic
from typing import TypeAlias
from urllib.parse import urlencode

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

BUCKETS = "nyquist_request_duration_seconds_bucket"
REJECTED = "nyquist_rejected_total"
WAITING = "nyquist_queue_depth"
QUERY = urlencode([("name[]", name) for name in (BUCKETS, REJECTED, WAITING)])
"""All that is asked for, of a server that has thousands of series."""

TIMEOUT_S = 5.0

Version: TypeAlias = tuple[str, str]
"""Name of a model, and its version."""

Buckets: TypeAlias = Mapping[float, float]
"""Answers that took at most so long, by seconds; the last is of infinity, and counts all."""


@dataclass(frozen=True)
class Reading:
    """The answers of every version, counted at one moment.

    Attributes:
        at_s: of it, on monotonic.
        buckets: of each version.
        rejected: requests of each that got no answer.
        waiting: requests of each that wait, now.
    """

    at_s: float
    buckets: Mapping[Version, Buckets]
    rejected: Mapping[Version, float] = field(default_factory=dict)
    waiting: Mapping[Version, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """What a version answered in a time.

    Attributes:
        requests: that it answered.
        rate: of them a second; None where the time has no beginning.
        rejected: a second, requests that got no answer; None likewise.
        p50_s: half took no longer, interpolated within a bucket; None where there were none.
        p99_s: 99 of 100 likewise.
    """

    requests: int
    rate: float | None
    rejected: float | None
    p50_s: float | None
    p99_s: float | None


def read(host: str, port: int, source: str = "") -> Reading:
    """Read the metrics of a server of ours; never through a proxy.

    Args:
        host: of its metrics.
        port: likewise.
        source: of the requests that are counted; empty for all.

    Raises:
        ValueError: there are none; the message says where.
    """
    where = f"the metrics at {host}:{port}"
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", f"/metrics?{QUERY}", headers={"Accept": "text/plain"})
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except HTTPException as error:
        raise ValueError(f"{where} cannot be read: no HTTP is spoken there") from error
    except OSError as error:
        raise ValueError(f"{where} cannot be read: {error.strerror or error}") from error
    finally:
        connection.close()
    if answer.status != 200:
        raise ValueError(f"{where} cannot be read: {answer.status} {answer.reason}")
    found: dict[Version, dict[float, float]] = {}
    rejected: dict[Version, float] = {}
    waiting: dict[Version, float] = {}
    for sample in _samples(text, source):
        version = sample.labels["model"], sample.labels["version"]
        if sample.name == BUCKETS:
            buckets, edge = found.setdefault(version, {}), float(sample.labels["le"])
            buckets[edge] = buckets.get(edge, 0.0) + sample.value
        else:
            counts = rejected if sample.name == REJECTED else waiting
            counts[version] = counts.get(version, 0.0) + sample.value
    return Reading(monotonic(), found, rejected, waiting)


def _samples(text: str, source: str) -> Iterator[Sample]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            of = sample.labels.get("source", source)
            if sample.name in (BUCKETS, REJECTED, WAITING) and (not source or of == source):
                yield sample


def load(version: Version, now: Reading, before: Reading | None = None) -> Load | None:
    """Return what a version answered since an earlier reading, or since it was loaded."""
    counted = now.buckets.get(version)
    if counted is None:
        return None
    earlier = before.buckets.get(version, {}) if before else {}
    rejected = now.rejected.get(version, 0.0)
    rejected_before = before.rejected.get(version, 0.0) if before else 0.0
    if earlier.get(inf, 0.0) > counted[inf] or rejected_before > rejected:
        earlier, rejected_before = {}, 0.0  # it was loaded again
    gained = {edge: counted[edge] - earlier.get(edge, 0.0) for edge in sorted(counted)}
    requests = int(gained[inf])
    span_s = now.at_s - before.at_s if before else None
    return Load(
        requests=requests,
        rate=requests / span_s if span_s else None,
        rejected=(rejected - rejected_before) / span_s if span_s else None,
        p50_s=quantile(0.5, gained),
        p99_s=quantile(0.99, gained),
    )


def quantile(share: float, buckets: Buckets) -> float | None:
    """Return what a share of the answers took at most, as PromQL's histogram_quantile has it.

    What lies beyond the last finite edge is called as long as that.
    """
    wanted = share * buckets[inf]
    if not wanted:
        return None
    for (lower, below), (upper, up_to) in pairwise([(0.0, 0.0), *buckets.items()]):
        if up_to >= wanted:
            part = (wanted - below) / (up_to - below)
            return lower if upper == inf else lower + part * (upper - lower)
    return None
