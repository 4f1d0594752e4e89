"""What the report says of one model, measured where the model was built.

network, onnxruntime, samples -> cost -> effort -> parity, shifts, fields, gradients -> ModelReport
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from math import ceil, floor, inf
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nyquist.companion.measures.parity import Predict, Same, same_highest
from nyquist.companion.measures.shift_consistency import evaluate
from nyquist.companion.references.network import Reference
from nyquist.export.report import record
from nyquist.export.report.effort import Effort, effort_for
from nyquist.export.report.image import heat_uri
from nyquist.export.report.moves import REACH, Scenes, measure_moves
from nyquist.export.report.record import ModelReport, Unmeasured
from nyquist.export.report.shifting import ShiftedNetwork, measure_shifts
from nyquist.models.analysis import cost as costs
from nyquist.models.analysis.aliasing import stride_aliasing
from nyquist.models.analysis.analysed import AnalysedNetwork
from nyquist.models.analysis.effective_field import effective_field
from nyquist.models.analysis.gradient_monitor import own_answer_gradients
from nyquist.models.analysis.module_graph import last_map_module, module_graph
from nyquist.models.analysis.receptive_field import LayerField, layer_fields, receptive_fields
from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.samples import Samples, read_scenes
from nyquist.models.spec import ModelSpec
from nyquist.models.stabilised import plain_pictures
from nyquist.server.wire.errors import NyquistError

EVALUATION_BATCH = 16
BINS_A_DECADE = 4
NOISE_SEED = 20_260_102

UNMEASURABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NyquistError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What torch and the analyses raise on a network of which they do not know what they need.

A page that lacks a part is better than a build that lacks a model; the reason is on the page.
"""

Part = TypeVar("Part")


def collect(
    spec: ModelSpec,
    network: nn.Module,
    preprocessed: nn.Module,
    served: Predict,
    samples: Samples,
    graph_sha256: str,
    *,
    wider: Tensor | None = None,
    plain: Predict | None = None,
) -> ModelReport:
    """Measure one model for its page; what cannot be measured is named there with its reason.

    Args:
        spec: of the model; its name, labels, preprocessing and largest batch are read.
        network: takes float32 (B, C, H, W), gives logits; left in evaluation mode.
        preprocessed: the same behind its preprocessing: takes pictures as they are served.
        served: the graph in onnxruntime, logits of served pictures.
        samples: pictures as they are served, of one size.
        graph_sha256: of the model.onnx that `served` runs.
        wider: pictures larger than the input, for random crops, laid out as the samples.
        plain: of a stabilised model the graph without stabilisation, likewise.
    """
    network.eval()
    prepare = PreprocessedNetwork(nn.Identity(), spec.preprocessing)
    middles = replace(samples, images=plain_pictures(samples.images, spec))
    channels, height, width = prepare(middles.images[:1]).shape[1:]
    cost = _part(lambda: measure_cost(network, (channels, height, width)))
    effort = effort_for(inf if isinstance(cost, Unmeasured) else cost.multiply_adds)
    chosen = samples.spread(effort.pictures)
    batch = min(EVALUATION_BATCH, spec.max_batch_size)
    reference = Reference(preprocessed).predict
    subject = ShiftedNetwork(
        served=served,
        reference=reference,
        samples=chosen,
        layout=spec.preprocessing.layout,
        axes=spec.preprocessing.shift_axes,
        names=spec.labels,
        head=spec.answers,
        batch=batch,
        effort=effort,
    )
    prepared = prepare(middles.spread(effort.analysed).images)
    analysed = AnalysedNetwork(spec.name, network, prepared)
    return ModelReport(
        name=spec.name,
        graph_sha256=graph_sha256,
        parity=_part(
            lambda: measure_parity(
                reference, served, chosen.images.numpy(), batch, spec.answers.same
            )
        ),
        shifts=_part(lambda: measure_shifts(subject, wider)),
        field=_part(lambda: measure_field(analysed, effort.analysed)),
        gradients=_part(lambda: measure_gradients(analysed)),
        spectra=_part(lambda: measure_spectra(analysed)),
        cost=cost,
        moves=None if plain is None else _part(lambda: _moves(spec, plain, served, effort)),
        latency=Unmeasured(reason="it is measured when all models of a build are there"),
    )


def _moves(spec: ModelSpec, plain: Predict, stable: Predict, effort: Effort) -> record.Moves:
    """Compare a stabilised model with the plain one. Raises ValueError for answers of no class."""
    if not spec.answers.has_classes:
        raise ValueError(
            f"answers are compared by their highest class, and the head is {spec.head}"
        )
    pictures = read_scenes(spec, REACH)
    chosen = torch.linspace(0, len(pictures) - 1, min(effort.pictures, len(pictures))).long()

    def logits(predict: Predict) -> Predict:
        return lambda given: spec.answers.class_logits(predict(given))

    return measure_moves(
        Scenes(
            pictures=pictures[chosen].numpy(),
            owners=np.arange(len(chosen)),
            plain=logits(plain),
            stable=logits(stable),
            middle=lambda frames: plain_pictures(torch.from_numpy(frames), spec).numpy(),
            layout=spec.preprocessing.layout,
            batch=min(EVALUATION_BATCH, spec.max_batch_size),
            places=effort.places,
        )
    )


def _part(measure: Callable[[], Part]) -> Part | Unmeasured:
    try:
        return measure()
    except UNMEASURABLE as error:
        first_line = str(error).strip().partition("\n")[0]
        return Unmeasured(reason=f"{type(error).__name__}: {first_line}")


def measure_parity(
    reference: Predict,
    served: Predict,
    pictures: NDArray[Any],
    batch: int,
    same: Same = same_highest,
) -> record.Parity:
    """Compare every logit, of real pictures and of as many of noise with their range."""
    generator = np.random.default_rng(NOISE_SEED)
    low, high = float(pictures.min()), float(pictures.max())
    noise = (low + (high - low) * generator.random(pictures.shape)).astype(pictures.dtype)
    inputs = np.concatenate([pictures, noise])
    ours, theirs = (evaluate(predict, inputs, batch) for predict in (reference, served))
    return compare_logits(ours, theirs, len(pictures), same)


def compare_logits(
    ours: NDArray[Any], theirs: NDArray[Any], pictures: int, same: Same = same_highest
) -> record.Parity:
    """Count differences of logits, both (N, C), in bins of a quarter of a decade.

    Args:
        ours: of PyTorch.
        theirs: of onnxruntime.
        pictures: how many of the first rows are of real pictures; the rest are of noise.
        same: of two answers, what the agreement is the mean of.
    """
    differences = np.abs(ours.astype(np.float64) - theirs).ravel()
    finite = differences[np.isfinite(differences)]
    above = finite[finite > 0]
    edges = _decades(above)
    counts, _ = np.histogram(above, bins=edges) if len(edges) > 1 else (np.array([], int), edges)
    bounded = len(finite) == len(differences)
    return record.Parity(
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        equal=len(finite) - len(above),
        unbounded=len(differences) - len(finite),
        largest=float(finite.max()) if bounded else None,
        mean=float(finite.mean()) if bounded else None,
        spread=float(ours.std()),
        agreement=float(same(ours, theirs).mean()),
        pictures=pictures,
        noise=len(ours) - pictures,
    )


def _decades(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges, a quarter of a decade apart, around values above 0; none around none."""
    if not len(values):
        return np.array([])
    first = floor(np.log10(values.min()) * BINS_A_DECADE)
    last = ceil(np.log10(values.max()) * BINS_A_DECADE) + 1
    edges: NDArray[np.float64] = 10.0 ** (np.arange(first, last + 1) / BINS_A_DECADE)
    return edges


def measure_field(subject: AnalysedNetwork, count: int) -> record.ReceptiveField:
    """Measure the theoretical and the effective field of the middle of the last map.

    Args:
        subject: the network, and pictures for it.
        count: inputs of noise like the pictures.

    Raises:
        ValueError: an operator is not known, or no map has more than one position.
    """
    graph = module_graph(subject.network, subject.pictures[:1])
    layer = last_map_module(subject.network, graph)
    field = receptive_fields(graph)[graph.index(layer)]
    seen = effective_field(subject.network, subject.noise(count), layer)
    row, column = seen.position
    return record.ReceptiveField(
        layer=layer,
        position=seen.position,
        picture=(subject.pictures.shape[2], subject.pictures.shape[3]),
        box=(
            field.rows.start + row * field.rows.jump,
            field.columns.start + column * field.columns.jump,
            field.rows.size,
            field.columns.size,
        ),
        whole=field.rows.whole,
        heat_png=heat_uri(seen.weights),
        side=seen.mass_square(),
        centroid=seen.centroid,
        deviation=seen.spread,
        inputs=seen.inputs,
        lines=tuple(_field_lines(layer_fields(graph))),
    )


def _field_lines(lines: tuple[LayerField, ...]) -> Iterator[record.FieldLine]:
    """Yield the lines whose field differs in size or jump from the one before."""
    before = None
    for line in lines:
        rows, columns = line.field.rows, line.field.columns
        sizes = (rows.size, columns.size, rows.jump, columns.jump)
        if sizes != before:
            yield record.FieldLine(
                layer=line.name,
                op=line.op,
                grid=line.grid,
                size=(rows.size, columns.size),
                jump=(rows.jump, columns.jump),
                drift=line.drift,
                aligned=line.field.aligned,
                whole=rows.whole,
            )
        before = sizes


def measure_gradients(subject: AnalysedNetwork) -> record.Gradients:
    """Send the cross entropy of the network's own answers back through it."""
    modules = dict(subject.network.named_modules())
    return record.Gradients(
        lines=tuple(
            record.GradientLine(
                layer=line.name,
                kind=line.kind,
                magnitude=line.mean_magnitude,
                deviation=line.deviation,
                zeros=line.sparsity,
                strides=_strides(modules[line.name]),
            )
            for line in own_answer_gradients(subject.network, subject.pictures)
        ),
        pictures=len(subject.pictures),
    )


def _strides(module: nn.Module) -> bool:
    stride = getattr(module, "stride", 1)
    return max(stride) > 1 if isinstance(stride, tuple) else stride > 1


def measure_spectra(subject: AnalysedNetwork) -> record.Spectra:
    """Measure the energy above the limit at every stride."""
    modules = dict(subject.network.named_modules())
    lines = []
    for line in stride_aliasing(subject.network, subject.pictures):
        module = modules.get(line.name)
        lines.append(
            record.StrideLine(
                layer=line.name,
                kind=line.kind,
                stride=line.stride,
                entering=line.entering,
                sampled=line.sampled,
                taps=module.taps if isinstance(module, BlurPool2d) else None,
            )
        )
    return record.Spectra(lines=tuple(lines), pictures=len(subject.pictures))


def measure_cost(network: nn.Module, shape: tuple[int, int, int]) -> record.Cost:
    """Count parameters and multiply-adds for one picture, (C, H, W)."""
    counted = costs.cost(network, shape)
    return record.Cost(
        parameters=counted.parameters,
        multiply_adds=counted.multiply_adds,
        lines=tuple(
            record.CostLine(
                layer=layer.name,
                kind=layer.kind,
                parameters=layer.parameters,
                multiply_adds=layer.multiply_adds,
            )
            for layer in counted.layers
        ),
    )
