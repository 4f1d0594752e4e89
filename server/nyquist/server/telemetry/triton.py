"""Triton's metrics by Triton's names, for its dashboards and autoscalers.

Statistics, queue depth -> families, made when they are asked for: a request pays nothing
"""

from collections.abc import Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric, UnknownMetricFamily
from prometheus_client.registry import Collector

from nyquist.server.telemetry import names
from nyquist.server.telemetry.histograms import LightGauge
from nyquist.server.telemetry.model_statistics import Statistics
from nyquist.server.wire.pb import inference_pb2 as pb

MODEL = ("model", "version")
COUNTS = {
    names.TRITON_SUCCESS: "Requests answered.",
    names.TRITON_PICTURES: "Pictures computed.",
    names.TRITON_RUNS: "Runs of the model.",
}
DURATIONS = {
    names.TRITON_REQUEST_DURATION: "Time of answered requests, in microseconds.",
    names.TRITON_QUEUE_DURATION: "Time that requests waited, in microseconds.",
    names.TRITON_INPUT_DURATION: "Time to gather batches, in microseconds.",
    names.TRITON_INFER_DURATION: "Time of the runs, in microseconds.",
    names.TRITON_OUTPUT_DURATION: "Time to encode answers, in microseconds.",
}


class TritonCollector(Collector):
    """Reads the statistics of all loaded versions at each scrape.

    The counters are of unknown type here: theirs have no _total, which the Prometheus client would
    add. Where they are written out as text they are called what they are.

    Args:
        statistics: by model and version; may change meanwhile.
        queue_depth: of each of them.
    """

    def __init__(
        self, statistics: Mapping[tuple[str, str], Statistics], queue_depth: LightGauge
    ) -> None:
        self._statistics, self._queue_depth = statistics, queue_depth

    def collect(self) -> Iterator[Metric]:
        """Return the families as they stand."""
        families = {
            name: UnknownMetricFamily(name, text, labels=MODEL)
            for name, text in (COUNTS | DURATIONS).items()
        }
        failure = UnknownMetricFamily(
            names.TRITON_FAILURE, "Requests not answered.", labels=(*MODEL, "reason")
        )
        for labels, statistics in list(self._statistics.items()):
            for name, value in _values(statistics.message(*labels)).items():
                families[name].add_metric(labels, value)
            for reason, count in statistics.failures().items():
                failure.add_metric((*labels, reason), count)
        yield from families.values()
        yield failure
        yield self._pending()

    def _pending(self) -> Metric:
        pending = GaugeMetricFamily(
            names.TRITON_PENDING, "Requests that wait to be run.", labels=MODEL
        )
        for family in self._queue_depth.collect():
            for sample in family.samples:
                pending.add_metric([sample.labels[name] for name in MODEL], sample.value)
        return pending


def _values(counted: pb.ModelStatistics) -> dict[str, float]:
    stages = counted.inference_stats
    counts = (stages.success.count, counted.inference_count, counted.execution_count)
    durations = (
        stages.success,
        stages.queue,
        stages.compute_input,
        stages.compute_infer,
        stages.compute_output,
    )
    times_us = (duration.ns // 1000 for duration in durations)
    return dict(zip((*COUNTS, *DURATIONS), (*counts, *times_us), strict=True))
