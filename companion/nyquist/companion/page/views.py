"""What the pages say, as values: a model, its traffic, and pictures that were answered differently.

record, metrics -> ModelView, DisagreementView -> templates
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from nyquist.companion.measures.shift_consistency import DEFAULT_PAIRS, Consistency
from nyquist.companion.page import trends
from nyquist.companion.page.charts import Chart
from nyquist.companion.page.kit.pictures import picture_uri
from nyquist.companion.page.kit.wording import share, so_far
from nyquist.companion.watch import names
from nyquist.companion.watch.record import BACKENDS, PROBE, Disagreement, Key, ModelState, Point
from nyquist.companion.watch.shift_trials import CIRCULAR
from nyquist.companion.watch.verdict import Verdict
from nyquist.server.artifact.built import pairs_of

TOP = 3
"""Classes of each path that are shown of a disagreement."""

COUNTED = {
    names.SHADOW_RECEIVED: "received",
    names.SHADOW_DROPPED: "dropped",
    names.SHADOW_CHECKED: "checked",
    names.SHADOW_OUTLIERS: "outliers",
}
"""Fields of Traffic, by the counter that each stands for."""


@dataclass(frozen=True)
class Traffic:
    """Live inferences of a version: received, dropped, compared, and bounded as outliers."""

    received: int = 0
    dropped: int = 0
    checked: int = 0
    outliers: int = 0


@dataclass(frozen=True)
class Held:
    """A figure beside its tolerance.

    Attributes:
        value: the figure; None before it is known.
        limit: its tolerance; None where no manifest says one.
        held: whether it keeps to it; None if one of the two is not known.
    """

    value: float | None
    limit: float | None
    held: bool | None


@dataclass(frozen=True)
class Latency:
    """Median times of a batch on both paths, in milliseconds; None before the first probe."""

    batch_size: int
    served_ms: float | None
    torch_ms: float | None


@dataclass(frozen=True)
class ModelView:
    """One version of a model.

    Attributes:
        state: as recorded.
        history: its probes, the oldest first.
        traffic: of live inferences.
    """

    state: ModelState
    history: Sequence[Point]
    traffic: Traffic

    @property
    def parity(self) -> Held:
        """The largest relative error of the latest probe."""
        manifest, parity = self.state.manifest, self.state.probe.parity
        limit = manifest.tolerances.parity if manifest else None
        value = parity.relative_error if parity else None
        held = value <= limit if value is not None and limit is not None else None
        return Held(value, limit, held)

    @property
    def parities(self) -> tuple[float | None, ...]:
        """The largest relative error of the latest probes of this graph, the oldest first."""
        latest = self.history[-trends.RECENT :]
        probes = [one.parity for one in latest if one.sha256 == self.state.sha256]
        errors = [one.relative_error if one else None for one in probes]
        return tuple(one if one is not None and isfinite(one) else None for one in errors)

    @property
    def consistency(self) -> Held:
        """The share of circular shifts that leave the answer as it was."""
        manifest, circular = self.state.manifest, self.state.probe.consistency.get(CIRCULAR)
        limit = manifest.tolerances.consistency if manifest else None
        value = circular.share if circular else None
        held = value >= limit if value is not None and limit is not None else None
        return Held(value, limit, held)

    def words_of(self, one: Consistency, pairs: int) -> str:
        """Write a share over pictures of which each had so many pairs."""
        manifest = self.state.manifest
        each = pairs_of(manifest, pairs) if manifest else pairs
        return share(one.share, one.standard_error, one.pictures, each)

    def probed_share(self, protocol: str) -> str | None:
        """Write what probes know of a protocol: several pairs of each reference picture."""
        one = self.state.probe.consistency.get(protocol)
        return self.words_of(one, DEFAULT_PAIRS) if one else None

    def share_so_far(self, protocol: str) -> tuple[str, str] | None:
        """Write what the trials of a protocol say that were made, and how sure that is.

        None before the first.
        """
        made = self.state.probe.progress[protocol]
        if made.consistency is None:
            return None
        manifest, known = self.state.manifest, made.consistency
        yes_or_no = bool(pairs_of(manifest, 1)) if manifest else True
        return so_far(known.share, known.pictures, made.trials, yes_or_no=yes_or_no)

    def live_share(self, protocol: str) -> str | None:
        """Write what live traffic shows of a protocol: each picture is moved once."""
        seen = self.state.shadow
        one = seen.consistency.get(protocol) if seen else None
        return f"{self.words_of(one, 1)}, {one.pictures} pictures" if one else None

    @property
    def latency(self) -> tuple[Latency, ...]:
        """The usual times, by batch size; batch 1 alone before the first probe."""
        return tuple(
            Latency(size, *(trends.usual_ms(self.history, path, size) for path in BACKENDS))
            for size in trends.batch_sizes(self.history) or (1,)
        )

    @property
    def charts(self) -> tuple[Chart, ...]:
        """Parity, consistency and latency over time; without a reference the last two."""
        if self.state.manifest:
            return trends.trends(self.history, self.state.manifest.tolerances)
        alone = bool(self.history) and self.history[-1].parity is None
        return trends.trends(self.history, None) if alone else ()

    @property
    def protocols(self) -> tuple[str, ...]:
        """Of the shifts that probes or live traffic know about."""
        seen = (self.state.probe, self.state.shadow)
        known = {name for one in seen if one for name in one.consistency}
        return tuple(sorted(known | set(self.state.probe.progress)))


@dataclass(frozen=True)
class ClassView:
    """One class of a disagreement: its logit on both sides and how far they lie apart."""

    label: str
    served: float
    reference: float
    difference: float


@dataclass(frozen=True)
class DisagreementView:
    """One picture that was answered differently.

    Attributes:
        of: as recorded.
        picture: data URI; empty where it is a caller's, and not shown.
        size: width and height of the picture as served, in pixels.
        served: answer of the served graph.
        reference: answer of PyTorch.
        classes: the first of both sides and the one that lies furthest apart.
        furthest: that one.
    """

    of: Disagreement
    picture: str
    size: tuple[int, int]
    served: str
    reference: str
    classes: tuple[ClassView, ...]
    furthest: ClassView

    @property
    def same_answer(self) -> bool:
        """Whether only the logits differ."""
        return self.served == self.reference


def look_at(disagreement: Disagreement, *, callers_pictures: bool) -> DisagreementView:
    """Return what there is to say about a disagreement.

    Args:
        disagreement: of a probe or of live traffic.
        callers_pictures: whether a picture of live traffic is shown.
    """
    shows = callers_pictures or disagreement.source == PROBE
    served, reference = (
        values.astype(np.float64) for values in (disagreement.served, disagreement.reference)
    )
    with np.errstate(invalid="ignore"):  # an infinity less an infinity is a NaN
        difference = served - reference
    apart = int(np.nan_to_num(np.abs(difference), nan=np.inf).argmax())
    shown = dict.fromkeys([*leaders(reference), *leaders(served), apart])

    def class_view(index: int) -> ClassView:
        return ClassView(
            label_of(disagreement, index),
            float(served[index]),
            float(reference[index]),
            float(difference[index]),
        )

    height_width = (
        disagreement.picture.shape[1:]
        if disagreement.layout == "CHW"
        else (disagreement.picture.shape[:2])
    )
    return DisagreementView(
        of=disagreement,
        picture=picture_uri(disagreement.picture, disagreement.layout) if shows else "",
        size=(height_width[1], height_width[0]),
        served=disagreement.head.words(served, disagreement.labels),
        reference=disagreement.head.words(reference, disagreement.labels),
        classes=tuple(class_view(index) for index in shown),
        furthest=class_view(apart),
    )


def leaders(logits: NDArray[Any]) -> list[int]:
    """Return the classes with the highest logits, the highest first."""
    return [int(index) for index in np.argsort(-logits, kind="stable")[:TOP]]


def label_of(disagreement: Disagreement, index: int) -> str:
    """Return the name of a class, or its number where it has none."""
    return disagreement.labels[index] if disagreement.labels else f"class {index}"


def traffic(registry: CollectorRegistry) -> dict[Key, Traffic]:
    """Return what the metrics count of live traffic, by version."""
    counts: dict[Key, dict[str, int]] = {}
    for family in registry.restricted_registry(COUNTED).collect():
        for sample in family.samples:
            if field := COUNTED.get(sample.name):
                key = (sample.labels["model"], sample.labels["version"])
                counts.setdefault(key, {})[field] = int(sample.value)
    return {key: Traffic(**fields) for key, fields in counts.items()}


def worst_first(views: Sequence[ModelView]) -> list[ModelView]:
    """Return the models in the order in which they need a look."""
    order = list(Verdict)
    return sorted(views, key=lambda view: -order.index(view.state.verdict))
