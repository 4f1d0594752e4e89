"""How much a server answers and how fast, of its metrics: before, now -> requests a second, p99."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from itertools import pairwise
from math import inf
from time import monotonic
from typing import TypeAlias

from prometheus_client.parser import text_string_to_metric_families

BUCKETS = "nyquist_request_duration_seconds_bucket"
TIMEOUT_S = 5.0
SHARE = 0.99

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
    """

    at_s: float
    buckets: Mapping[Version, Buckets]


@dataclass(frozen=True)
class Load:
    """What a version answered in a time.

    Attributes:
        requests: that it answered.
        rate: of them a second; None where the time has no beginning.
        p99_s: 99 of 100 took no longer, interpolated within a bucket; None where there were none.
    """

    requests: int
    rate: float | None
    p99_s: float | None


def read(host: str, port: int) -> Reading:
    """Read the metrics of a server of ours; never through a proxy.

    Raises:
        ValueError: there are none; the message says where.
    """
    where = f"the metrics at {host}:{port}"
    connection = HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics", headers={"Accept": "text/plain"})
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
    for version, edge, count in _samples(text):
        buckets = found.setdefault(version, {})
        buckets[edge] = buckets.get(edge, 0.0) + count  # of every source
    return Reading(monotonic(), found)


def _samples(text: str) -> Iterator[tuple[Version, float, float]]:
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == BUCKETS:
                labels = sample.labels
                yield (labels["model"], labels["version"]), float(labels["le"]), sample.value


def load(version: Version, now: Reading, before: Reading | None = None) -> Load | None:
    """Return what a version answered since an earlier reading, or since it was loaded."""
    counted = now.buckets.get(version)
    if counted is None:
        return None
    earlier = before.buckets.get(version, {}) if before else {}
    if earlier.get(inf, 0.0) > counted[inf]:
        earlier = {}  # it was loaded again
    gained = {edge: counted[edge] - earlier.get(edge, 0.0) for edge in sorted(counted)}
    requests = int(gained[inf])
    rate = requests / (now.at_s - before.at_s) if before else None
    return Load(requests, rate, quantile(SHARE, gained))


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
