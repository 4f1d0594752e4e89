"""Measure a graph against its network, and say what it misses.

parity -> accuracy -> shift consistency -> Figures -> judgement
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from companion.parity import Predict, measure_parity
from companion.reference import Reference
from companion.shift_consistency import circular_consistency, evaluate
from export.graph import OUTPUT
from models.samples import UNLABELLED, Samples
from models.zoo import ModelSpec
from server.engine import Engine, Execution
from server.manifest import Figures, Tolerances
from server.tensors import DTYPES

PARITY_BATCHES = (1, 3, 8)
FRESH_SEED = 20_260_101
EVALUATION_BATCH = 64


def open_graph(graph: bytes, max_batch_size: int) -> Predict:
    """Open an ONNX file in onnxruntime on the CPU, and return its logits as a function."""
    engine = Engine(graph, Execution(provider="cpu"), max_batch_size)
    return lambda pictures: engine.run(pictures)[OUTPUT]


def measure(spec: ModelSpec, reference: Reference, served: Predict, samples: Samples) -> Figures:
    """Measure a graph on the samples and on fresh noise.

    Args:
        spec: of the model.
        reference: the network in PyTorch.
        served: the same network in onnxruntime.
        samples: real pictures.
    """
    pictures = samples.images.numpy()
    axes = spec.preprocessing.shift_axes
    batch = min(EVALUATION_BATCH, spec.max_batch_size)
    parity = measure_parity(reference.predict, served, parity_inputs(spec, pictures))
    logits, torch_logits = (evaluate(f, pictures, batch) for f in (served, reference.predict))
    consistency = circular_consistency(served, pictures, axes, batch=batch)
    torch_consistency = circular_consistency(reference.predict, pictures, axes, batch=batch)
    labels = samples.labels.numpy()
    return Figures(
        parameters=reference.parameters,
        parity=parity.max_abs_error,
        agreement=parity.agreement,
        accuracy=accuracy(logits, labels),
        torch_accuracy=accuracy(torch_logits, labels),
        confidence=confidence(logits, labels),
        labelled=int((labels != UNLABELLED).sum()),
        consistency=consistency.share,
        consistency_error=consistency.standard_error,
        torch_consistency=torch_consistency.share,
        samples=len(samples),
    )


def parity_inputs(spec: ModelSpec, pictures: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield batches of 1, 3 and 8: real pictures, then noise that no training has seen."""
    generator = np.random.default_rng(FRESH_SEED)
    for size in PARITY_BATCHES:
        chosen = generator.integers(0, len(pictures), size)
        yield pictures[chosen]
        noise = generator.random((size, *spec.shape), dtype=np.float32)
        if spec.datatype == "UINT8":
            noise = noise * 255
        yield noise.astype(DTYPES[spec.datatype])


def accuracy(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Return the share of right answers among the labelled pictures, 0..1."""
    labelled = labels != UNLABELLED
    return float((logits.argmax(axis=1) == labels)[labelled].mean())


def confidence(logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """Return the least probability that the right label has on a labelled picture, 0..1."""
    labelled = np.flatnonzero(labels != UNLABELLED)
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    return float(probabilities[labelled, labels[labelled]].min())


def misses(figures: Figures, tolerances: Tolerances) -> list[str]:
    """Say in words which tolerances the figures miss; empty if none."""
    found = []
    if not figures.parity <= tolerances.parity:
        found.append(f"parity {figures.parity:.2g}, at most {tolerances.parity:.2g} is allowed")
    for name in ("consistency", "accuracy", "confidence"):
        value, least = getattr(figures, name), getattr(tolerances, name)
        if value < least:
            found.append(f"{name} {value:.4f}, at least {least:.4f} is required")
    return found
