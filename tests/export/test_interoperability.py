"""What others make of the built repository: the standard's own evaluator, and Triton's schema."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf import text_format
from onnx.reference import ReferenceEvaluator

from nyquist.models.samples import read_samples
from nyquist.models.zoo import specs
from nyquist.server.artifact.layout import latest_version
from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.wire.pb import model_config_pb2 as pb


@pytest.mark.parametrize("name", sorted(specs()))
def test_the_standards_own_evaluator_computes_the_same(repository: Path, name: str) -> None:
    graph = repository / name / str(latest_version(repository / name)) / "model.onnx"
    spec = specs()[name]
    picture = read_samples(spec, spec.samples).images[3:4].numpy()
    (output,) = ReferenceEvaluator(onnx.load(str(graph))).run(None, {"image": picture})
    logits = np.asarray(output, np.float32)
    served = Engine(graph.read_bytes(), Execution(provider="cpu"), 1).run(picture)["logits"]
    assert np.abs(logits - served.astype(np.float32)).max() / np.std(logits) <= spec.limits.parity


@pytest.mark.parametrize("name", sorted(specs()))
def test_the_configuration_says_what_the_graph_and_the_manifest_say(
    repository: Path, name: str
) -> None:
    folder = repository / name
    config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
    manifest = read_manifest(folder, latest_version(folder))
    graph = onnx.load(str(folder / str(manifest.version) / "model.onnx")).graph
    assert (config.name, config.platform) == (name, "onnxruntime_onnx")
    found = [(tensor.name, tuple(tensor.dims)) for tensor in config.input]
    found += [(tensor.name, tuple(tensor.dims)) for tensor in config.output]
    expected = [(tensor.name, tensor.shape) for tensor in (manifest.input, *manifest.outputs)]
    inside = [
        (value.name, tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:]))
        for value in (*graph.input, *graph.output)
    ]
    assert found == expected == inside
    assert config.output
    assert all((folder / output.label_filename).is_file() for output in config.output)
