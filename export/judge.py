"""Measure a graph against its network, and say what it misses.

parity -> accuracy -> shift consistency -> Figures -> judgement
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from companion.parity import Predict, measure_parity
from companion.reference import Reference
from companion.shift_consistency import circular_consistency, evaluate
from models.analysis.cost import cost
from models.preprocessing import PreprocessedNetwork
from models.samples import UNLABELLED, Samples
from models.spec import Limits, ModelSpec
from server.engine import Engine, Execution
from server.manifest import Figures
from server.tensors import DTYPES

PARITY_BATCHES = (1, 3, 8)
FRESH_SEED = 20_260_101
EVALUATION_BATCH = 64


def open_graph(graph: bytes, max_batch_size: int) -> Predict:
    """Open an ONNX file in onnxruntime on the CPU, and return its logits as a function."""
    engine = Engine(graph, Execution(provider="cpu"), max_batch_size)
    return lambda pictures: engine.run(pictures)["logits"]


def measure(spec: ModelSpec, network: nn.Module, graph: bytes, samples: Samples) -> Figures:
    """Measure a graph on the samples and on fresh noise.

    Args:
        spec: of the model.
        network: takes float32 (B, C, H, W), gives logits.
        graph: the ONNX file.
        samples: real pictures.
    """
    served = open_graph(graph, spec.max_batch_size)
    reference = Reference(PreprocessedNetwork(network, spec.preprocessing))
    pictures, labels = samples.images.numpy(), samples.labels.numpy()
    axes = spec.preprocessing.shift_axes
    batch = min(EVALUATION_BATCH, spec.max_batch_size)
    parity = measure_parity(reference.predict, served, parity_inputs(spec, pictures))
    logits, torch_logits = (evaluate(f, pictures, batch) for f in (served, reference.predict))
    consistency = circular_consistency(served, pictures, axes, batch=batch)
    torch_consistency = circular_consistency(reference.predict, pictures, axes, batch=batch)
    return Figures(
        parameters=reference.parameters,
        multiply_adds=cost(network, spec.input).multiply_adds,
        parity=parity.relative_error,
        max_abs_error=parity.max_abs_error,
        mean_abs_error=parity.mean_abs_error,
        agreement=parity.agreement,
        batch_invariant=True,
        index_margin=None,
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


def accuracy(logits: NDArray[Any], labels: NDArray[np.int64]) -> float | None:
    """Return the share of right answers, 0..1; None without labelled pictures."""
    labelled = labels != UNLABELLED
    if not labelled.any():
        return None
    return float((logits.argmax(axis=1) == labels)[labelled].mean())


def confidence(logits: NDArray[Any], labels: NDArray[np.int64]) -> float | None:
    """Return the least probability of the right label, 0..1; None without labelled pictures."""
    labelled = np.flatnonzero(labels != UNLABELLED)
    if not len(labelled):
        return None
    probabilities = torch.from_numpy(logits).softmax(dim=1).numpy()
    return float(probabilities[labelled, labels[labelled]].min())


def misses(figures: Figures, limits: Limits) -> list[str]:
    """Say in words which limits the figures miss; empty if none."""
    found = []
    if not figures.parity <= limits.parity:
        found.append(
            f"parity: outputs differ by {figures.parity:.2g} of their spread, "
            f"at most {limits.parity:.2g} is allowed"
        )
    for name in ("agreement", "consistency", "accuracy", "confidence"):
        value, least = getattr(figures, name), getattr(limits, name)
        if value is not None and value < least:
            found.append(f"{name} {value:.4f}, at least {least:.4f} is required")
    for name in ("consistency", "accuracy"):
        value, of_torch = getattr(figures, name), getattr(figures, f"torch_{name}")
        most = getattr(limits, f"{name}_drop")
        if value is not None and of_torch - value > most:
            found.append(
                f"{name} {value:.4f} in onnxruntime and {of_torch:.4f} in PyTorch, "
                f"a drop of at most {most:.4f} is allowed"
            )
    return found
