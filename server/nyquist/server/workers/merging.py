"""The answers of several workers as one: statistics, index, metrics.

counts and times are added, states and gauges of one thing are not
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client.core import Metric
from prometheus_client.samples import Sample

from nyquist.server.telemetry import names
from nyquist.server.wire.pb import inference_pb2 as pb

LEAST = (names.MODEL_READY, "process_start_time_seconds")
MOST = (
    *(names.BUILD_INFO, names.MODEL_INFO, names.MODEL_FAILED, names.LOAD_DURATION, "python_info"),
    *(names.GPU_UTILIZATION, names.GPU_MEMORY_USED, names.GPU_MEMORY_TOTAL, names.GPU_POWER),
)
"""Gauges of what is the same in every worker; all others are added."""

STAGES = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


def merged_statistics(
    answers: Sequence[pb.ModelStatisticsResponse],
) -> pb.ModelStatisticsResponse:
    """Add the statistics of each version."""
    merged: dict[tuple[str, str], pb.ModelStatistics] = {}
    for one in (model for answer in answers for model in answer.model_stats):
        total = merged.setdefault(
            (one.name, one.version), pb.ModelStatistics(name=one.name, version=one.version)
        )
        total.last_inference = max(total.last_inference, one.last_inference)
        total.inference_count += one.inference_count
        total.execution_count += one.execution_count
        for stage in STAGES:
            _add(getattr(total.inference_stats, stage), getattr(one.inference_stats, stage))
        _add_batches(total, one)
    return pb.ModelStatisticsResponse(model_stats=merged.values())


def _add(total: pb.StatisticDuration, one: pb.StatisticDuration) -> None:
    total.count += one.count
    total.ns += one.ns


def _add_batches(total: pb.ModelStatistics, one: pb.ModelStatistics) -> None:
    batches = {batch.batch_size: batch for batch in total.batch_stats}
    for batch in one.batch_stats:
        if batch.batch_size in batches:
            _add(batches[batch.batch_size].compute_input, batch.compute_input)
            _add(batches[batch.batch_size].compute_infer, batch.compute_infer)
        else:
            total.batch_stats.append(batch)
    total.batch_stats.sort(key=lambda batch: batch.batch_size)


def merged_index(answers: Sequence[pb.RepositoryIndexResponse]) -> pb.RepositoryIndexResponse:
    """Return each line as the worker has it that is not ready, where one is not."""
    merged: dict[tuple[str, str], pb.RepositoryIndexResponse.ModelIndex] = {}
    for line in (model for answer in answers for model in answer.models):
        known = merged.get((line.name, line.version))
        if known is None or known.state == "READY":
            merged[line.name, line.version] = line
    return pb.RepositoryIndexResponse(models=(merged[key] for key in sorted(merged)))


def merged_metrics(scrapes: Iterable[Iterable[Metric]]) -> list[Metric]:
    """Return every family once, with the samples of all scrapes put together by their labels."""
    families: dict[str, Metric] = {}
    samples: dict[str, dict[object, Sample]] = {}
    for family in (one for scrape in scrapes for one in scrape):
        kept = families.setdefault(
            family.name, Metric(family.name, family.documentation, family.type)
        )
        found = samples.setdefault(kept.name, {})
        for sample in family.samples:
            key = (sample.name, *sorted(sample.labels.items()))
            found[key] = _joined(family.name, found.get(key), sample)
    for name, family in families.items():
        family.samples = list(samples[name].values())
    return list(families.values())


def _joined(name: str, known: Sample | None, sample: Sample) -> Sample:
    if known is None:
        return sample
    if name in LEAST:
        return min(known, sample, key=lambda one: one.value)
    if name in MOST:
        return max(known, sample, key=lambda one: one.value)
    return sample._replace(
        value=known.value + sample.value, exemplar=sample.exemplar or known.exemplar
    )


def what_stays(scrape: Iterable[Metric]) -> list[Metric]:
    """Return what is still counted of a worker that has ended: what only ever goes up.

    A total that fell would be taken for one that had begun anew.
    """
    return [family for family in scrape if family.type in ("counter", "histogram", "unknown")]


def models_of(scrape: Iterable[Metric]) -> set[tuple[str, str]]:
    """Return the versions of models that have series, by name and version."""
    return {
        (sample.labels["model"], sample.labels["version"])
        for family in scrape
        for sample in family.samples
        if {"model", "version"} <= sample.labels.keys()
    }


def of_models(scrape: Iterable[Metric], wanted: Callable[[tuple[str, str]], bool]) -> list[Metric]:
    """Return a scrape without the series of versions that are not wanted."""
    kept = []
    for family in scrape:
        one = Metric(family.name, family.documentation, family.type)
        one.samples = [
            sample
            for sample in family.samples
            if "version" not in sample.labels
            or "model" not in sample.labels
            or wanted((sample.labels["model"], sample.labels["version"]))
        ]
        kept.append(one)
    return kept


def lacking(readiness: Iterable[Mapping[str, bool]]) -> set[str]:
    """Return what is not ready in all workers."""
    return {name for one in readiness for name, ready in one.items() if not ready}
