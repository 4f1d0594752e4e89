"""Build one model.

spec -> network with weights -> export -> precision -> judge -> publish
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import onnx
from safetensors.torch import save
from torch import Tensor, nn

from nyquist.export.derive import Derived, derive
from nyquist.export.errors import GateMissed
from nyquist.export.graph.export import OPSET, Exported, add_facts, export_graph
from nyquist.export.graph.onnx_source import answer_only, take_onnx
from nyquist.export.inputs import inputs_sha256, package_versions, weights_sha256
from nyquist.export.judge import Candidate, open_graph
from nyquist.export.outcome import DEFAULT_KEEP, Built
from nyquist.export.publish import model_config, publish
from nyquist.export.recipe.command import command_of
from nyquist.export.report.measurement import collect
from nyquist.export.report.moves import REACH
from nyquist.export.report.record import ModelReport
from nyquist.models.loading import class_count, feature_count, network_with_notes, settled
from nyquist.models.onnx_checks import place_of
from nyquist.models.onnx_file import opset_of
from nyquist.models.onnx_network import OnnxNetwork
from nyquist.models.outputs import OutputsNetwork, several_of
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.programs import write_program
from nyquist.models.samples import read_samples, read_scenes, wider_photographs
from nyquist.models.spec import INPUT, ModelSpec, Output, Size
from nyquist.models.stabilised import plain_pictures
from nyquist.server.artifact import manifest as artifact
from nyquist.server.artifact.manifest import (
    Architecture,
    Manifest,
    Origin,
    Preprocessing,
    Stabilisation,
    Tolerances,
)
from nyquist.server.wire.signature import TensorSpec

KEPT_SAMPLES = 64
SEEN_SAMPLES = 8
"""Whose answers tell what a network ends in."""


def build_model(
    spec: ModelSpec,
    repository: Path,
    on_station: Callable[[str], None],
    *,
    keep: int = DEFAULT_KEEP,
    debug: bool = False,
    report: bool = False,
) -> Built:
    """Build one model and put it into the repository.

    Args:
        spec: what to build.
        repository: where to.
        on_station: told the name of each station when it begins.
        keep: most versions that stay.
        debug: also write the graph with the names of modules and source lines.
        report: also measure what the model's page shows.

    Raises:
        ExceptionGroup: of GateMissed, one for each limit that is missed.
        ExportError: the exporter did not do as asked.
        ValueError: the checkpoint, the samples or the options do not fit the network.
        OSError: a file cannot be read, or the artifact not be written.
    """
    start = perf_counter()
    on_station("weights")
    network, notes = network_with_notes(spec)
    samples = read_samples(spec, spec.samples)
    prepare = PreprocessedNetwork(nn.Identity(), spec.preprocessing)
    seen = prepare(plain_pictures(samples.spread(SEEN_SAMPLES).images, spec))
    answering, told = settled(spec, network, seen)
    subject = Candidate(answering, network, samples)
    on_station("export")
    exported = export_spec(subject.plain)
    reference = reference_file(subject.plain)
    on_station("judge")
    derived = derive(subject, exported)
    if derived.judgement.misses:
        reasons = [GateMissed(one) for one in derived.judgement.misses]
        raise ExceptionGroup(f"{spec.name} is not published", reasons)
    on_station("publish")
    graph = add_facts(derived.graph, graph_facts(answering))
    files = version_files(subject, graph, exported.debug if debug else None) | reference
    manifest = publish(
        repository,
        spec.name,
        files,
        lambda version, digests: describe(subject, spec, derived, version, digests),
        keep,
    )
    if report:
        on_station("report")
        measure_page(subject, graph, derived.plain).write(repository)
    told = (*notes, *told, *found_notes(manifest), *exported.costs)
    return Built(manifest, len(graph), perf_counter() - start, told)


def found_notes(manifest: Manifest) -> Iterator[str]:
    """Yield what is to be told of an artifact beside its figures."""
    if manifest.reference == artifact.NO_PYTORCH:
        yield f"held against an {artifact.NO_PYTORCH}"
    if error := manifest.figures.batch_error:
        yield f"an answer moves with its batch by up to {error:.1e} of the spread: rounding"


def measure_page(subject: Candidate, graph: bytes, plain: bytes) -> ModelReport:
    """Measure what the page of a model shows; `plain` is the graph without stabilisation."""
    return collect(
        subject.spec,
        subject.network,
        subject.preprocessed,
        open_graph(graph, subject.spec.max_batch_size),
        subject.samples,
        hashlib.sha256(graph).hexdigest(),
        wider=_wider(subject.spec),
        plain=open_graph(plain, subject.spec.max_batch_size)
        if subject.spec.stabilisation
        else None,
    )


def _wider(spec: ModelSpec) -> Tensor | None:
    """Return pictures larger than those that are served, to take crops of, where there are any."""
    if spec.stabilisation is not None and spec.samples != "fashion":  # whose ground is continued
        return read_scenes(spec, REACH)
    return wider_photographs(spec)


def export_spec(subject: Candidate) -> Exported:
    """Export the network of a spec with its outputs and its dynamic axes."""
    spec, network = subject.spec, subject.network
    if isinstance(network, OnnxNetwork):
        shapes = {each.name: each.shape for each in output_tensors(spec, network)}
        return take_onnx(network.content, spec, shapes)
    spans = open_axes(spec, spec.preprocessing.shift_axes) if spec.sizes else {}
    exported = OutputsNetwork(subject.preprocessed, spec.outputs, spec.answers).eval()
    return export_graph(exported, subject.samples.images[:2], spec.outputs, spans)


def open_axes(spec: ModelSpec, axes: tuple[int, int]) -> dict[int, Size]:
    """Return the least and greatest size of these two axes of a batch, height and width."""
    rows, columns = zip(*spec.served_sizes, strict=True)
    down, across = axes
    return {down: (min(rows), max(rows)), across: (min(columns), max(columns))}


def reference_file(subject: Candidate) -> dict[str, bytes]:
    """Return what the companion makes the network of: weights of ours, anyone else's whole.

    Raises:
        ExportError: torch.export cannot take it as a program.
    """
    spec, network = subject.spec, subject.network
    if isinstance(network, OnnxNetwork):
        picks = dict(spec.picks)
        if "logits" not in picks:
            return {artifact.ONNX_FILE: network.content}
        place = place_of(network.outputs, picks["logits"])
        return {artifact.ONNX_FILE: answer_only(network.content, place)}
    if spec.program is not None and not spec.picks:
        return {artifact.PROGRAM_FILE: spec.program.read_bytes()}
    if ":" not in spec.architecture and spec.program is None:
        weights = {name: value.contiguous() for name, value in network.state_dict().items()}
        return {artifact.REFERENCE_FILE: save(weights)}
    prepare = PreprocessedNetwork(nn.Identity(), spec.preprocessing)
    pictures = prepare(subject.samples.images[:2])
    spans = open_axes(spec, (2, 3)) if spec.sizes and not spec.preprocessing.resize else {}
    return {artifact.PROGRAM_FILE: write_program(network, pictures, spans)}


def graph_facts(spec: ModelSpec) -> dict[str, str]:
    """Return what a graph says of itself, for a file that lost its manifest."""
    preprocessing = describe_preprocessing(spec).model_dump_json(exclude_defaults=True)
    return {
        "nyquist.name": spec.name,
        "nyquist.architecture": spec.architecture,
        "nyquist.options": json.dumps(dict(spec.options), sort_keys=True),
        "nyquist.precision": spec.precision,
        "nyquist.preprocessing": preprocessing,
        "nyquist.labels": json.dumps(spec.labels, ensure_ascii=False),
        "nyquist.version": package_versions()["nyquist-serving"],
    }


def version_files(subject: Candidate, graph: bytes, debug: bytes | None) -> dict[str, bytes]:
    """Return every file of a version but its manifest and reference, by name."""
    spec, network = subject.spec, subject.network
    kept = subject.samples.spread(KEPT_SAMPLES)
    files = {
        artifact.CONFIG_FILE: model_config(spec, output_tensors(spec, network)).encode(),
        artifact.LABELS_FILE: "".join(f"{label}\n" for label in served_labels(spec)).encode(),
        artifact.MODEL_FILE: graph,
        artifact.SAMPLES_FILE: save({"images": kept.images, "labels": kept.labels}),
    }
    return files if debug is None else files | {artifact.DEBUG_FILE: debug}


def served_labels(spec: ModelSpec) -> tuple[str, ...]:
    """Return the name of each number that is served: of a binary head that of class 1 alone."""
    return spec.labels[-1:] if spec.head == "binary" else spec.labels


def output_tensors(spec: ModelSpec, network: nn.Module) -> tuple[TensorSpec, ...]:
    """Describe the outputs of a graph, as the network gives them for a picture."""
    classes = class_count(spec, network)
    answers = ("logits", "probabilities", "embedding")
    shapes: dict[Output, tuple[int, ...]] = dict.fromkeys(answers, (classes,))
    shapes |= {name: tuple(each.shape[1:]) for name, each in several_of(network).others.items()}
    if "features" in spec.outputs:
        shapes["features"] = (feature_count(spec, network),)
    return tuple(
        TensorSpec(name=name, datatype="FP32", shape=shapes[name]) for name in spec.outputs
    )


def describe(
    subject: Candidate, asked: ModelSpec, derived: Derived, version: int, digests: dict[str, str]
) -> Manifest:
    """Return the manifest of a version, whose origin is the spec that was asked for."""
    spec = subject.spec
    sizes = spec.served_sizes
    rows, columns = zip(*sizes, strict=True)
    bounds = {
        "least": spec.picture_shape((min(rows), min(columns))),
        "most": spec.picture_shape((max(rows), max(columns))),
    }
    return Manifest(
        name=spec.name,
        version=version,
        input=TensorSpec(
            name=INPUT,
            datatype=spec.datatype,
            shape=spec.shape,
            **(bounds if spec.sizes else {}),
        ),
        outputs=output_tensors(spec, subject.network),
        preprocessing=describe_preprocessing(spec),
        stabilisation=describe_stabilisation(spec),
        head=spec.answers,
        picture=spec.picture,
        opset=OPSET if spec.onnx is None else opset_of(onnx.load_from_string(derived.graph)),
        precision=spec.precision,
        recipe=derived.recipe,
        architecture=Architecture(name=spec.architecture, options=dict(spec.options)),
        tolerances=Tolerances(**vars(spec.limits)),
        figures=derived.judgement.figures,
        origin=Origin(
            command=command_of(asked),
            inputs_sha256=inputs_sha256(asked),
            weights_sha256=weights_sha256(asked),
            built_with=package_versions(),
        ),
        reference=artifact.PYTORCH if spec.onnx is None else artifact.NO_PYTORCH,
        files=digests,
    )


def describe_stabilisation(spec: ModelSpec) -> Stabilisation | None:
    """Return what the graph does before that, likewise."""
    given = spec.stabilisation
    if given is None:
        return None
    corners = given.corners if given.kind == "average" else ()
    return Stabilisation(kind=given.kind, period=given.period, boxes=given.boxes, corners=corners)


def describe_preprocessing(spec: ModelSpec) -> Preprocessing:
    """Return what the graph does to a picture first, as a manifest says it."""
    return Preprocessing(**vars(spec.preprocessing))
