"""Counters and histograms that cost next to nothing to count with, and are put together when asked.

inc, observe -> a number, a list -> collect -> Prometheus

prometheus_client's own take a lock for each number, several of which every request would pay for.
These are written by one thread at a time, which the caller sees to; read by any.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import inf
from time import time
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]
Bucket = tuple[str, float] | tuple[str, float, Exemplar]


class Count:
    """One number that goes up, or up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        """Add one."""
        self.value += 1

    def dec(self) -> None:
        """Take one away."""
        self.value -= 1


class Histogram:
    """One histogram."""

    __slots__ = ("_counts", "_edges", "_exemplars", "_sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges, self._counts, self._sum = edges, [0] * (len(edges) + 1), 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, exemplar: dict[str, str] | None = None) -> None:
        """Count a value in its bucket, which holds its upper edge; keep the last exemplar of it."""
        at = bisect_left(self._edges, value)
        self._counts[at] += 1
        self._sum += value
        if exemplar is not None:
            self._exemplars[at] = Exemplar(exemplar, value, time())

    def buckets(self) -> tuple[list[Bucket], float]:
        """Return each upper edge with the values up to it, and the sum of all."""
        told: list[Bucket] = []
        for at, (edge, total) in enumerate(
            zip((*self._edges, inf), accumulate(list(self._counts)), strict=True)
        ):
            exemplar = self._exemplars.get(at)
            bucket = (_edge(edge), float(total))
            told.append(bucket if exemplar is None else (*bucket, exemplar))
        return told, self._sum


def _edge(value: float) -> str:
    text: str = floatToGoString(value)  # type: ignore[no-untyped-call] # it has no annotations
    return text


Child = TypeVar("Child", Count, Histogram)


class _Family(Collector, Generic[Child]):
    """One metric with its series, each by the values of its labels."""

    def __init__(
        self, name: str, documentation: str, labels: Sequence[str], registry: CollectorRegistry
    ) -> None:
        self._name, self._documentation, self._labels = name, documentation, tuple(labels)
        self._series: dict[Labels, Child] = {}
        registry.register(self)

    def _of(self, values: Labels, fresh: Child) -> Child:
        return self._series.setdefault(values, fresh)

    def describe(self) -> Iterable[Metric]:
        """Return the family, by whose names a scrape may ask for it."""
        return self.collect()

    def remove_by_labels(self, labels: dict[str, str]) -> None:
        """End every series with these labels."""
        for values in list(self._series):
            found = dict(zip(self._labels, values, strict=True))
            if labels.items() <= found.items():
                self._series.pop(values, None)


class LightCounter(_Family[Count]):
    """A counter; its name ends in _total."""

    kind: type[CounterMetricFamily] | type[GaugeMetricFamily] = CounterMetricFamily

    def labels(self, *values: str) -> Count:
        """Return the series of these values, at zero if it is new."""
        return self._of(values, Count())

    def collect(self) -> Iterable[Metric]:
        family = self.kind(self._name, self._documentation, labels=self._labels)
        for values, count in list(self._series.items()):
            family.add_metric(values, count.value)
        return [family]


class LightGauge(LightCounter):
    """The same, up and down."""

    kind = GaugeMetricFamily


class LightHistogram(_Family[Histogram]):
    """A histogram, with exemplars where they are given."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        edges: Sequence[float],
    ) -> None:
        self._edges = tuple(edges)
        super().__init__(name, documentation, labels, registry)

    def labels(self, *values: str) -> Histogram:
        """Return the series of these values, empty if it is new."""
        return self._of(values, Histogram(self._edges))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, spread in list(self._series.items()):
            family.add_metric(values, *spread.buckets())
        return [family]
