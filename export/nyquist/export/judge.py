"""Measure a graph against its network, and say what it misses.

parity in every cell -> polyphase margins -> accuracy -> shift consistency -> figures -> misses
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nyquist.companion.measures.parity import Predict, compare
from nyquist.companion.measures.shift_consistency import Consistency, circular_consistency, evaluate
from nyquist.export.graph import margins, sweep
from nyquist.export.graph.drift import GraphValues, NetworkValues, locate
from nyquist.export.graph.exporter_trace import Trace
from nyquist.models.analysis.cost import cost
from nyquist.models.onnx_checks import count_multiply_adds, count_weights
from nyquist.models.onnx_network import OnnxNetwork
from nyquist.models.outputs import OutputsNetwork
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.samples import UNLABELLED, Samples
from nyquist.models.spec import Limits, ModelSpec, Precision
from nyquist.models.stabilised import StabilisedNetwork, plain_pictures
from nyquist.server.artifact.manifest import Figures
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.wire.head import CLASSES, Head

EVALUATION_BATCH = 64
DRIFT_PICTURES = 4
DRIFT_LIMITS: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.3}
"""Relative l2 error of a value between input and output that is more than its precision's rounding;
seen: 6e-5 (ResNet-50), 2e-3, 0.14."""


@dataclass(frozen=True)
class Judgement:
    """What was found of a graph.

    Attributes:
        figures: for its manifest.
        misses: the limits that it misses, in words; empty if it may be published.
    """

    figures: Figures
    misses: tuple[str, ...]


class Candidate:
    """A network with its pictures and its answers: what graphs are judged against.

    Args:
        spec: of the model.
        network: takes float32 (B, C, H, W), gives its answer.
        samples: real pictures, as served.
    """

    def __init__(self, spec: ModelSpec, network: nn.Module, samples: Samples) -> None:
        self.spec, self.network, self.samples = spec, network, samples
        self.pictures: NDArray[Any] = samples.images.numpy()
        self.batch = min(EVALUATION_BATCH, spec.max_batch_size)
        self.preprocessed: nn.Module = PreprocessedNetwork(network, spec.preprocessing).eval()
        if spec.stabilisation is not None:
            layout = spec.preprocessing.layout
            self.preprocessed = StabilisedNetwork(self.preprocessed, spec.stabilisation, layout)
        self._outputs = OutputsNetwork(self.preprocessed, spec.outputs, spec.answers).eval()

    def predict_all(self, pictures: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Compute every output in PyTorch, by name."""
        with torch.inference_mode():
            found = self._outputs(torch.from_numpy(pictures))
        return {name: output.numpy() for name, output in zip(self.spec.outputs, found, strict=True)}

    def predict(self, pictures: NDArray[Any]) -> NDArray[Any]:
        """Compute the answers in PyTorch. (B, *input shape) -> (B, C)."""
        return self.predict_all(pictures)[self.spec.outputs[0]]

    @cached_property
    def plain(self) -> "Candidate":
        """The same network without stabilisation, and the middles of its pictures."""
        if self.spec.stabilisation is None:
            return self
        images = plain_pictures(self.samples.images, self.spec)
        return Candidate(self.spec.plain, self.network, replace(self.samples, images=images))

    @cached_property
    def answers(self) -> NDArray[Any]:
        """Of every sample, (N, C)."""
        return evaluate(self.predict, self.pictures, self.batch)

    @cached_property
    def consistency(self) -> Consistency:
        """Circular shift consistency in PyTorch."""
        return self.consistency_of(self.predict)

    @cached_property
    def margins(self) -> tuple[margins.Margin, ...]:
        """How sure its polyphase layers are of their selections."""
        return margins.measure_margins(self.preprocessed, self.samples.images)

    def consistency_of(self, predict: Predict) -> Consistency:
        """Measure circular shift consistency on the samples."""
        axes = self.spec.preprocessing.shift_axes
        same = self.spec.answers.same
        return circular_consistency(predict, self.pictures, axes, batch=self.batch, same=same)


def open_graph(graph: bytes, max_batch_size: int) -> Predict:
    """Open an ONNX file in onnxruntime on the CPU, and return its first output as a function."""
    engine = Engine(graph, Execution(provider="cpu"), max_batch_size)
    return lambda pictures: next(iter(engine.run(pictures).values()))


def judge(subject: Candidate, graph: bytes, exact: bytes, trace: Trace | None) -> Judgement:
    """Measure a graph on the samples and on pictures that no training has seen.

    int8 graphs are held to parity on the samples alone: beyond the ranges that calibration has
    seen they clip.

    Args:
        subject: the network, its pictures and answers.
        graph: the ONNX file.
        exact: the same in float32; `graph` itself unless it is of another precision.
        trace: of the network's export, to name the layer where parity breaks; None where `exact` is
            an ONNX file's own graph, to be held against itself.
    """
    spec, limits = subject.spec, subject.spec.limits
    found = sweep.sweep(
        subject.predict_all,
        graph,
        subject.pictures,
        spec.max_batch_size,
        spec.preprocessing.layout,
        spec.sizes,
    )
    if spec.precision == "int8":
        found = found.of("samples")
    missed = sweep.misses(found, sweep.Limits(relative_error=limits.parity))
    if missed:
        missed.append(where_it_breaks(subject, graph, exact, trace))
    figures = measure(subject, graph, found)
    missed += margins.misses(subject.margins)
    if spec.answers.kind == "embedding":  # a cosine moves with every rounding
        limits = replace(limits, consistency_drop=max(limits.consistency_drop, limits.parity))
    missed += misses(figures, limits, "PyTorch" if spec.onnx is None else "its file")
    return Judgement(figures, tuple(missed))


def where_it_breaks(subject: Candidate, graph: bytes, exact: bytes, trace: Trace | None) -> str:
    """Name the first layer where a graph leaves its network, in a sentence."""
    pictures = subject.samples.spread(DRIFT_PICTURES).images.numpy()
    network = trace if subject.spec.precision == "fp32" else None
    reference = NetworkValues(network, pictures) if network else GraphValues(exact, pictures)
    limit = DRIFT_LIMITS[subject.spec.precision]
    drift = locate(reference, GraphValues(graph, pictures), limit, trace.layers if trace else {})
    return str(drift or "no single layer is off on the samples by more than its rounding")


def measure(subject: Candidate, graph: bytes, found: sweep.Sweep) -> Figures:
    """Return the figures of a graph, given what a sweep found of its parity."""
    served = open_graph(graph, subject.spec.max_batch_size)
    labels = subject.samples.labels.numpy()
    answers = evaluate(served, subject.pictures, subject.batch)
    head = subject.spec.answers
    logits, torch_logits = (
        head.class_logits(each) if head.has_classes else None for each in (answers, subject.answers)
    )
    consistency = subject.consistency_of(served)
    parameters, multiply_adds = _size(subject.network, subject.spec.input)
    runs = subject.spec.stabilisation.runs if subject.spec.stabilisation else 1
    return Figures(
        parameters=parameters,
        multiply_adds=multiply_adds * runs,
        parity=found.relative_error,
        max_abs_error=found.max_abs_error,
        mean_abs_error=float(np.mean([cell.parity.mean_abs_error for cell in found.cells])),
        agreement=agreement(subject.answers, answers, subject.spec.limits, head),
        batch_invariant=found.batch_error == 0,
        batch_error=found.batch_error,
        index_margin=min((margin.least for margin in subject.margins), default=None),
        accuracy=accuracy(logits, labels),
        torch_accuracy=accuracy(torch_logits, labels),
        confidence=confidence(logits, labels),
        labelled=int((labels != UNLABELLED).sum()),
        consistency=consistency.share,
        consistency_error=consistency.standard_error,
        torch_consistency=subject.consistency.share,
        samples=len(subject.samples),
    )


def _size(network: nn.Module, picture: tuple[int, int, int]) -> tuple[int, int]:
    """Return the number of learned values, and of multiply-adds for one picture."""
    if isinstance(network, OnnxNetwork):
        return count_weights(network), count_multiply_adds(network, picture)
    learned = sum(parameter.numel() for parameter in network.parameters())
    return learned, cost(network, picture).multiply_adds


def agreement(
    reference: NDArray[Any], served: NDArray[Any], limits: Limits, head: Head = CLASSES
) -> float:
    """Return the share of pictures with the same answer, 0..1; near-ties count as the same.

    A near-tie is a lead of the reference's highest class, or a distance from the threshold, that
    two answers within the limit of parity can turn around, where that limit is rounding; in other
    precisions every change counts.
    """
    slack = compare(reference, served).spread * min(limits.parity, Limits.parity)
    return float(head.same(reference, served, slack).mean())


def accuracy(logits: NDArray[Any] | None, labels: NDArray[np.int64]) -> float | None:
    """Return the share of right answers, 0..1; None without classes or labelled pictures."""
    labelled = labels != UNLABELLED
    if logits is None or not labelled.any():
        return None
    return float((logits.argmax(axis=1) == labels)[labelled].mean())


def confidence(logits: NDArray[Any] | None, labels: NDArray[np.int64]) -> float | None:
    """Return the least probability of the right label, 0..1; None as with `accuracy`."""
    labelled = np.flatnonzero(labels != UNLABELLED)
    if logits is None or not len(labelled):
        return None
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    return float(probabilities[labelled, labels[labelled]].min())


def misses(figures: Figures, limits: Limits, reference: str = "PyTorch") -> list[str]:
    """Say in words which limits the answers to the samples miss; empty if none."""
    found = []
    for name in ("agreement", "consistency", "accuracy", "confidence"):
        value, least = getattr(figures, name), getattr(limits, name)
        if value is not None and value < least:
            found.append(f"{name} {value:.4f}, at least {least:.4f} is required")
    for name in ("consistency", "accuracy"):
        value, of_torch = getattr(figures, name), getattr(figures, f"torch_{name}")
        most = getattr(limits, f"{name}_drop")
        if value is not None and of_torch - value > most:
            found.append(
                f"{name} {value:.4f} in onnxruntime and {of_torch:.4f} in {reference}, "
                f"a drop of at most {most:.4f} is allowed"
            )
    return found
