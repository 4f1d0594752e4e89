"""Models that are not what their reference is: what a companion is there to find.

Each changes the graph of one version in place, with the manifest's checksum of it, and leaves the
pictures and the tolerances alone. A server that polls takes them up.
"""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import onnx
from onnx import numpy_helper

from nyquist.server.artifact.manifest import MANIFEST_FILE, MODEL_FILE, REFERENCE_FILE


def perturb_weight(folder: Path, share: float = 0.05, version: int = 1) -> str:
    """Change one weight of the last layer by a share of the layer's largest.

    Returns:
        the sha256 of the new graph.
    """
    graph = onnx.load(folder / str(version) / MODEL_FILE)
    initializers = {tensor.name: tensor for tensor in graph.graph.initializer}
    last = next(node for node in reversed(graph.graph.node) if node.op_type == "Gemm")
    tensor = initializers[last.input[1]]
    weights = numpy_helper.to_array(tensor).copy()
    weights.flat[0] += share * abs(weights).max()
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    return replace_graph(folder, graph.SerializeToString(), version)


def pose_as(folder: Path, other: Path, version: int = 1) -> str:
    """Serve another model's graph under the name of the one in `folder`.

    Returns:
        the sha256 of that graph.
    """
    return replace_graph(folder, (other / str(version) / MODEL_FILE).read_bytes(), version)


def replace_graph(folder: Path, graph: bytes, version: int = 1) -> str:
    """Put a graph in the place of a version's, whole, and its checksum into the manifest.

    Returns:
        the checksum.
    """
    digest = sha256(graph).hexdigest()
    manifest = folder / str(version) / MANIFEST_FILE
    content = json.loads(manifest.read_text())
    content["files"][f"{version}/{MODEL_FILE}"] = digest
    for path, fresh in (
        (folder / str(version) / MODEL_FILE, graph),
        (manifest, json.dumps(content).encode()),
    ):
        beside = path.with_name(f".{path.name}")
        beside.write_bytes(fresh)
        beside.rename(path)
    return digest


def replace_network(folder: Path, other: Path, version: int = 1) -> str:
    """Serve another model under the name of the one in `folder`: its graph and its reference.

    The tolerances stay those of the model that it poses as.

    Returns:
        the sha256 of the graph.
    """
    reference = f"{version}/{REFERENCE_FILE}"
    theirs = json.loads((other / str(version) / MANIFEST_FILE).read_text())
    shutil.copy(other / reference, folder / reference)
    manifest = folder / str(version) / MANIFEST_FILE
    content = json.loads(manifest.read_text())
    content["architecture"] = theirs["architecture"]
    content["files"][reference] = theirs["files"][reference]
    manifest.write_text(json.dumps(content))
    return pose_as(folder, other, version)
