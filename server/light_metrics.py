"""Counters and histograms that cost next to nothing to count with, and are put together when asked.

inc, observe -> a number, a list -> collect -> Prometheus

prometheus_client's own take a lock for each number, several of which every request would pay for.
These are written by one thread at a time, which the caller sees to; read by any.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from math import inf
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]


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


class Spread:
    """One histogram."""

    __slots__ = ("_counts", "_edges", "_sum")

    def __init__(self, edges: Sequence[float]) -> None:
        self._edges, self._counts, self._sum = edges, [0] * (len(edges) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count a value in its bucket, which holds its upper edge."""
        self._counts[bisect_left(self._edges, value)] += 1
        self._sum += value

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Return each upper edge with the values up to it, and the sum of all."""
        counts, total, told = list(self._counts), 0, []
        for edge, count in zip((*self._edges, inf), counts, strict=True):
            total += count
            told.append((floatToGoString(edge), float(total)))
        return told, self._sum


Child = TypeVar("Child", Count, Spread)


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


class LightHistogram(_Family[Spread]):
    """A histogram without exemplars."""

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

    def labels(self, *values: str) -> Spread:
        """Return the series of these values, empty if it is new."""
        return self._of(values, Spread(self._edges))

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labels)
        for values, spread in list(self._series.items()):
            family.add_metric(values, *spread.buckets())
        return [family]
