"""What a model is: its receptive field and cost, and what training and build measured."""

import copy
import hashlib
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import nn

from nyquist.companion.references.network import load_network
from nyquist.models.analysis.module_graph import module_graph
from nyquist.models.analysis.receptive_field import last_map, layer_fields
from nyquist.models.spec import Stabilisation
from nyquist.models.zoo import WEIGHTS
from nyquist.server.artifact.manifest import Manifest
from nyquist.server.wire.pb import validation_pb2 as pb

TRAINING_FILE = WEIGHTS / "fashion.json"


def describe(folder: Path, manifest: Manifest) -> bytes:
    """Return a serialised ModelDescription, without the graph that is served and the verdict.

    Args:
        folder: of the model.
        manifest: of the version.

    Raises:
        ArtifactError: the reference cannot be read.
    """
    network = load_network(folder, manifest)
    architecture = manifest.architecture
    described = pb.ModelDescription(
        architecture=architecture.name,
        options={name: str(value) for name, value in architecture.options.items()},
        precision=manifest.precision,
        opset=manifest.opset,
        parameters=manifest.figures.parameters,
        multiply_adds=manifest.figures.multiply_adds,
        figures=_numbers(manifest.figures.model_dump()),
        tolerances=_numbers(manifest.tolerances.model_dump()),
        training=training(manifest.origin.weights_sha256),
        built_with=manifest.origin.built_with,
    )
    field = _field(network, picture_shape(manifest))
    if field is not None:
        described.receptive_field.CopyFrom(field)
    return described.SerializeToString()


def describe_apart(folder: Path, manifest: Manifest) -> bytes:
    """Do the same in a process of its own, for seconds.

    Tracing a network replaces parts of PyTorch for the whole process, and other threads compute.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(describe, folder, manifest).result()


def picture_shape(manifest: Manifest) -> tuple[int, int, int]:
    """Return what the network itself takes for one picture: channels, height, width."""
    least, _ = manifest.input.bounds
    hwc = manifest.preprocessing.layout == "HWC"
    channels, height, width = (least[2], least[0], least[1]) if hwc else least
    height, width = manifest.preprocessing.resize or (height, width)
    stabilisation = manifest.stabilisation
    if stabilisation is not None:
        margin = Stabilisation(**dict(stabilisation)).margin
        height, width = height - margin, width - margin
    return channels, height, width


def training(weights_sha256: str | None) -> dict[str, str]:
    """Return how weights of the zoo were trained; nothing of others."""
    for family, entry in json.loads(TRAINING_FILE.read_text()).items():
        weights = (WEIGHTS / f"fashion_{family}.safetensors").read_bytes()
        if hashlib.sha256(weights).hexdigest() == weights_sha256:
            figures = {name: str(value) for name, value in entry["figures"].items()}
            return {"command": entry["command"], **figures}
    return {}


def _field(
    network: nn.Module, shape: tuple[int, int, int]
) -> pb.ModelDescription.ReceptiveField | None:
    """Return the field of the last map; None where the network has operators unknown here."""
    try:
        graph = module_graph(copy.deepcopy(network), torch.zeros(1, *shape))
        name = graph.nodes[last_map(graph)].layer.name
    except ValueError:
        return None
    line = next(line for line in layer_fields(graph) if line.name == name)
    return pb.ModelDescription.ReceptiveField(
        layer=name,
        height=line.field.rows.size,
        width=line.field.columns.size,
        output_stride=line.field.rows.jump,
        drift=line.drift[0],
        aligned=line.field.aligned,
        whole=line.field.rows.whole,
    )


def _numbers(values: dict[str, float | None]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if value is not None}
