"""Build one model.

spec -> network -> weights -> export -> measure -> judge -> publish
"""

import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from safetensors.torch import save
from torch import nn

from export.artifact import DEFAULT_KEEP, model_config, publish
from export.graph import OPSET, Exported, export_graph
from export.inputs import inputs_sha256, package_versions, weights_sha256
from export.judge import measure, misses
from export.outcome import Built, GateMissed
from models.network import load_network
from models.outputs import OutputsNetwork
from models.preprocessing import PreprocessedNetwork
from models.samples import Samples, read_samples
from models.spec import INPUT, ModelSpec, Output
from server import manifest as artifact
from server.manifest import (
    Architecture,
    Figures,
    Manifest,
    Origin,
    Preprocessing,
    Tensor,
    Tolerances,
)

KEPT_SAMPLES = 64


def build_model(
    spec: ModelSpec,
    repository: Path,
    on_station: Callable[[str], None],
    *,
    keep: int = DEFAULT_KEEP,
    debug: bool = False,
) -> Built:
    """Build one model and put it into the repository.

    Args:
        spec: what to build.
        repository: where to.
        on_station: told the name of each station when it begins.
        keep: most versions that stay.
        debug: also write the graph with the names of modules and source lines.

    Raises:
        ExceptionGroup: of GateMissed, one for each limit that is missed.
        ExportError: the exporter did not do as asked.
        ValueError: the checkpoint, the samples or the options do not fit the network.
        OSError: a file cannot be read, or the artifact not be written.
    """
    start = perf_counter()
    on_station("weights")
    network = load_network(spec)
    samples = read_samples(spec, spec.samples)
    served_network = PreprocessedNetwork(network, spec.preprocessing).eval()
    on_station("export")
    exported = export_spec(spec, served_network, samples)
    on_station("measure")
    figures = measure(spec, network, exported.graph, samples)
    if missed := misses(figures, spec.limits):
        raise ExceptionGroup(f"{spec.name} is not published", [GateMissed(one) for one in missed])
    on_station("publish")
    files = version_files(spec, network, exported, samples, debug=debug)
    manifest = publish(
        repository,
        spec.name,
        files,
        lambda version, digests: describe(spec, network, figures, version, digests),
        keep,
    )
    return Built(manifest, len(exported.graph), perf_counter() - start)


def export_spec(spec: ModelSpec, served_network: nn.Module, samples: Samples) -> Exported:
    """Export the network of a spec with its outputs, its dynamic axes and the facts of it."""
    example = samples.images[:2]
    spans = {}
    if spec.sizes:
        rows, columns = zip(*spec.served_sizes, strict=True)
        down, across = spec.preprocessing.shift_axes
        spans = {down: (min(rows), max(rows)), across: (min(columns), max(columns))}
    network = OutputsNetwork(served_network, spec.outputs).eval()
    return export_graph(network, example, spec.outputs, spans, graph_facts(spec))


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
        "nyquist.version": package_versions()["nyquist"],
    }


def version_files(
    spec: ModelSpec, network: nn.Module, exported: Exported, samples: Samples, *, debug: bool
) -> dict[str, bytes]:
    """Return every file of a version but its manifest, by name."""
    weights = {name: value.contiguous() for name, value in network.state_dict().items()}
    kept = samples.spread(KEPT_SAMPLES)
    files = {
        artifact.CONFIG_FILE: model_config(spec, output_tensors(spec, network)).encode(),
        artifact.LABELS_FILE: "".join(f"{label}\n" for label in spec.labels).encode(),
        artifact.MODEL_FILE: exported.graph,
        artifact.REFERENCE_FILE: save(weights),
        artifact.SAMPLES_FILE: save({"images": kept.images, "labels": kept.labels}),
    }
    return files | ({artifact.DEBUG_FILE: exported.debug} if debug else {})


def output_tensors(spec: ModelSpec, network: nn.Module) -> tuple[Tensor, ...]:
    """Describe the outputs of a graph; their sizes are those of the network's last linear layer."""
    heads = [module for module in network.modules() if isinstance(module, nn.Linear)]
    sizes: dict[Output, int] = {
        "logits": heads[-1].out_features,
        "probabilities": heads[-1].out_features,
        "features": heads[-1].in_features,
    }
    return tuple(Tensor(name=name, datatype="FP32", shape=(sizes[name],)) for name in spec.outputs)


def describe(
    spec: ModelSpec, network: nn.Module, figures: Figures, version: int, digests: dict[str, str]
) -> Manifest:
    """Return the manifest of a version."""
    sizes = spec.served_sizes
    rows, columns = zip(*sizes, strict=True)
    bounds = {
        "least": spec.picture_shape((min(rows), min(columns))),
        "most": spec.picture_shape((max(rows), max(columns))),
    }
    return Manifest(
        name=spec.name,
        version=version,
        input=Tensor(
            name=INPUT,
            datatype=spec.datatype,
            shape=spec.shape,
            **(bounds if spec.sizes else {}),
        ),
        outputs=output_tensors(spec, network),
        preprocessing=describe_preprocessing(spec),
        opset=OPSET,
        precision=spec.precision,
        architecture=Architecture(name=spec.architecture, options=dict(spec.options)),
        tolerances=Tolerances(**vars(spec.limits)),
        figures=figures,
        origin=Origin(
            command=(),
            inputs_sha256=inputs_sha256(spec),
            weights_sha256=weights_sha256(spec),
            built_with=package_versions(),
        ),
        files=digests,
    )


def describe_preprocessing(spec: ModelSpec) -> Preprocessing:
    """Return what the graph does to a picture first, as a manifest says it."""
    return Preprocessing(**vars(spec.preprocessing))
