"""What Prometheus sees of the companion. Labels are versions whose reference is known."""

from collections.abc import Iterable, Mapping
from math import isfinite

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from nyquist.companion.measures.parity import Parity
from nyquist.companion.measures.shift_consistency import Consistency
from nyquist.companion.watch import names
from nyquist.companion.watch.candidate import Decision, Rollout
from nyquist.companion.watch.record import Key, Record
from nyquist.companion.watch.rollouts import Rollouts
from nyquist.companion.watch.verdict import Verdict
from nyquist.server.artifact.manifest import Tolerances
from nyquist.server.telemetry.metrics import LATENCY_EDGES_S, MODEL, CallMetrics

PAIR = (*MODEL, "baseline")


class Metrics(CallMetrics):
    """Every collector of the companion."""

    def __init__(self, probe_period_s: float) -> None:
        super().__init__(names.BUILD_INFO)
        self._create_comparisons(self.registry)
        self._create_shadow(self.registry)
        self._create_probes(self.registry, probe_period_s)

    def _create_comparisons(self, registry: CollectorRegistry) -> None:
        source, protocol = (*MODEL, "source"), (*MODEL, "source", "protocol")
        self._max_abs_error = Gauge(
            names.PARITY_MAX_ABS_ERROR,
            "Largest difference of a logit between the served graph and PyTorch.",
            source,
            registry=registry,
        )
        self._mean_abs_error = Gauge(
            names.PARITY_MEAN_ABS_ERROR, "The mean difference.", source, registry=registry
        )
        self._relative_error = Gauge(
            names.PARITY_RELATIVE_ERROR,
            "The largest difference as a share of the spread of PyTorch's logits.",
            source,
            registry=registry,
        )
        self._agreement = Gauge(
            names.PARITY_AGREEMENT,
            "Share of the pictures with the same answer on both sides; of embeddings the cosine.",
            source,
            registry=registry,
        )
        self._parity_tolerance = Gauge(
            names.PARITY_TOLERANCE,
            "The most that the manifest allows as relative error.",
            MODEL,
            registry=registry,
        )
        self._consistency = Gauge(
            names.CONSISTENCY,
            "Share of the shifts that leave the served answer as it was.",
            protocol,
            registry=registry,
        )
        self._consistency_tolerance = Gauge(
            names.CONSISTENCY_TOLERANCE,
            "The least that the manifest requires under circular shifts.",
            MODEL,
            registry=registry,
        )
        self._duration = Histogram(
            names.REFERENCE_DURATION,
            "Time of a batch: the live server as the companion sees it, or PyTorch in its process.",
            (*MODEL, "backend", "batch_size"),
            buckets=LATENCY_EDGES_S,
            registry=registry,
        )

    def _create_shadow(self, registry: CollectorRegistry) -> None:
        self._received = Counter(
            names.SHADOW_RECEIVED,
            "Inferences of live traffic that the server sent.",
            MODEL,
            registry=registry,
        )
        self._dropped = Counter(
            names.SHADOW_DROPPED,
            "Those that were dropped because too many waited.",
            MODEL,
            registry=registry,
        )
        self._checked = Counter(
            names.SHADOW_CHECKED,
            "Those that were compared with PyTorch.",
            MODEL,
            registry=registry,
        )
        self._outliers = Counter(
            names.SHADOW_OUTLIERS,
            "Those of them whose logits or errors were so large that they count as less.",
            MODEL,
            registry=registry,
        )
        self.unverifiable = Counter(
            names.SHADOW_UNVERIFIABLE,
            "Inferences of versions whose reference is not known.",
            registry=registry,
        )

    def _create_probes(self, registry: CollectorRegistry, probe_period_s: float) -> None:
        probes = Counter(
            names.PROBES,
            "Probes of a version of a model; failed are those that the server did not answer.",
            ("outcome",),
            registry=registry,
        )
        self.probes = {outcome: probes.labels(outcome) for outcome in ("ok", "failed")}
        self.server_up = Gauge(
            names.SERVER_UP,
            "Whether the server answered when the last probe began.",
            registry=registry,
        )
        period = Gauge(
            names.PROBE_PERIOD,
            "Time from one probe to the next, as it was set.",
            registry=registry,
        )
        period.set(probe_period_s)
        self._of_models = (
            self._max_abs_error,
            self._mean_abs_error,
            self._relative_error,
            self._agreement,
            self._parity_tolerance,
            self._consistency,
            self._consistency_tolerance,
            self._duration,
            self._received,
            self._dropped,
            self._checked,
            self._outliers,
        )

    def know(self, key: Key, tolerances: Tolerances | None) -> None:
        """Start the series of a version that can be asked."""
        if tolerances:
            self._parity_tolerance.labels(*key).set(tolerances.parity)
            self._consistency_tolerance.labels(*key).set(tolerances.consistency)
        for counter in (self._received, self._dropped, self._checked, self._outliers):
            counter.labels(*key)

    def forget(self, key: Key) -> None:
        """End every series of a version that is not served any more."""
        for collector in self._of_models:
            collector.remove_by_labels(dict(zip(MODEL, key, strict=True)))

    def forget_figures(self, key: Key) -> None:
        """End the figures of a version, which say nothing of the graph that is served now."""
        labels = dict(zip(MODEL, key, strict=True))
        for collector in (
            self._max_abs_error,
            self._mean_abs_error,
            self._relative_error,
            self._agreement,
            self._consistency,
        ):
            collector.remove_by_labels(labels)

    def parity(self, key: Key, source: str, parity: Parity) -> None:
        """Show how far the answers lie apart."""
        self._max_abs_error.labels(*key, source).set(parity.max_abs_error)
        self._mean_abs_error.labels(*key, source).set(parity.mean_abs_error)
        self._relative_error.labels(*key, source).set(parity.relative_error)
        self._agreement.labels(*key, source).set(parity.agreement)

    def consistency(self, key: Key, source: str, shares: Mapping[str, Consistency]) -> None:
        """Show how often the answers stay, by protocol."""
        for protocol, consistency in shares.items():
            self._consistency.labels(*key, source, protocol).set(consistency.share)

    def took(self, key: Key, backend: str, batch_size: int, seconds: float) -> None:
        """Count one call of a path."""
        self._duration.labels(*key, backend, str(batch_size)).observe(seconds)

    def shadow_received(self, key: Key) -> None:
        """Count an inference that the server sent."""
        self._received.labels(*key).inc()

    def shadow_dropped(self, key: Key) -> None:
        """Count one that there was no room for."""
        self._dropped.labels(*key).inc()

    def shadow_checked(self, key: Key) -> None:
        """Count one that was compared."""
        self._checked.labels(*key).inc()

    def shadow_outlier(self, key: Key) -> None:
        """Count one whose errors were bounded."""
        self._outliers.labels(*key).inc()


class StandingCollector(Collector):
    """Shows what the record says of each version, when it is asked: the two cannot differ.

    Args:
        record: that has the verdicts.
    """

    def __init__(self, record: Record) -> None:
        self._record = record

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the verdict on each version that is served, and how far its probes have come."""
        verdicts = GaugeMetricFamily(
            names.VERDICT,
            "1 for the verdict that holds, 0 for the others.",
            labels=(*MODEL, "verdict"),
        )
        probed = GaugeMetricFamily(
            names.LAST_PROBE, "When a version was last probed, in Unix time.", labels=MODEL
        )
        progress = GaugeMetricFamily(
            names.CONSISTENCY_PROGRESS,
            "Share of the trials of shifts that were made; the figure is shown once it is 1.",
            labels=(*MODEL, "protocol"),
        )
        for state in self._record.models():
            probed.add_metric(state.key, state.probed_s)
            for one in Verdict:
                verdicts.add_metric((*state.key, one.value), float(one is state.verdict))
            made = {name: one.trials / one.all_trials for name, one in state.probe.progress.items()}
            for protocol, share in (dict.fromkeys(state.probe.consistency, 1.0) | made).items():
                progress.add_metric((*state.key, protocol), share)
        return verdicts, probed, progress


class RolloutCollector(Collector):
    """Shows how candidates stand, when it is asked; `version` is the candidate.

    Args:
        rollouts: that have the decisions.
    """

    def __init__(self, rollouts: Rollouts) -> None:
        self._rollouts = rollouts

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Yield the series of every candidate that is served beside its baseline."""
        decisions = GaugeMetricFamily(
            names.ROLLOUT_DECISION,
            "1 for the decision about a candidate that holds, 0 for the others.",
            labels=(*PAIR, "decision"),
        )
        pictures = GaugeMetricFamily(
            names.ROLLOUT_PICTURES, "Pictures of live traffic that both answered.", labels=PAIR
        )
        figures = GaugeMetricFamily(
            names.ROLLOUT_FIGURE,
            "How a candidate differs: the mean so far, and the bounds of what it may still be.",
            labels=(*PAIR, "figure", "bound"),
        )
        limits = GaugeMetricFamily(
            names.ROLLOUT_LIMIT, "The most of it that is fine.", labels=(*PAIR, "figure")
        )
        latency = GaugeMetricFamily(
            names.ROLLOUT_LATENCY,
            "Median time of the latest requests to either version.",
            labels=(*PAIR, "of"),
        )
        for rollout in self._rollouts.rollouts():
            if not rollout.over:
                pair = _labels(rollout)
                pictures.add_metric(pair, rollout.pictures)
                for one in Decision:
                    decisions.add_metric((*pair, one.value), float(one is rollout.decision))
                _add_figures(rollout, figures, limits)
                for of, seconds in (
                    ("baseline", rollout.baseline_s),
                    ("candidate", rollout.candidate_s),
                ):
                    if seconds is not None:
                        latency.add_metric((*pair, of), seconds)
        return decisions, pictures, figures, limits, latency


def _add_figures(rollout: Rollout, figures: GaugeMetricFamily, limits: GaugeMetricFamily) -> None:
    pair = _labels(rollout)
    for figure in rollout.figures:
        limits.add_metric((*pair, figure.name), figure.most)
        for bound in ("mean", "low", "high"):
            value = getattr(figure, bound)
            if value is not None and isfinite(value):
                figures.add_metric((*pair, figure.name, bound), value)


def _labels(rollout: Rollout) -> tuple[str, str, str]:
    return rollout.pair.model, rollout.pair.candidate, rollout.pair.baseline
