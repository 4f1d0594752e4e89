"""A broken graph is not published: every gate that it misses is told, and the layer to look at."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from nyquist.export.derive import derive
from nyquist.export.errors import PrecisionError
from nyquist.export.graph.export import Exported as Built
from nyquist.export.judge import Candidate, agreement, judge, misses
from nyquist.models.loading import load_network
from nyquist.models.samples import fashion_samples
from nyquist.models.spec import Limits, ModelSpec, Precision
from nyquist.models.zoo import specs
from nyquist.server.artifact.manifest import Figures
from tests.export.exporting import Exported, rewritten

SAMPLES = 100


def subject(precision: Precision = "fp32", **limits: float) -> Candidate:
    spec: ModelSpec = specs()["fashion_max_pool"]
    spec = replace(spec, precision=precision, limits=replace(spec.limits, **limits))
    return Candidate(spec, load_network(spec), fashion_samples().spread(SAMPLES))


def told(graph: bytes, exported: Exported, of: Candidate) -> str:
    return "\n".join(judge(of, graph, exported.graph, exported.trace).misses)


def test_a_sound_graph_misses_nothing_and_its_figures_are_measured(fashion: Exported) -> None:
    judgement = judge(subject(), fashion.graph, fashion.graph, fashion.trace)
    assert judgement.misses == ()
    figures = judgement.figures
    assert 0 < figures.parity < 1e-5
    assert 0 < figures.mean_abs_error < figures.max_abs_error < 1e-4
    assert (figures.batch_invariant, figures.agreement, figures.index_margin) == (True, 1.0, None)
    assert figures.accuracy == figures.torch_accuracy
    assert (figures.samples, figures.labelled) == (SAMPLES, SAMPLES)


def test_a_transposed_weight_is_caught_and_its_layer_named(fashion: Exported) -> None:
    broken = rewritten(fashion.graph, "network.stages.2.0.weight", lambda w: w.swapaxes(2, 3))
    found = told(broken, fashion, subject())
    assert "differs by up to" in found
    assert "parity first breaks in network.stages.2.0 + network.stages.2.1" in found
    assert "agreement 0." in found
    assert "in onnxruntime and" in found  # accuracy or consistency has dropped


def test_a_wrong_epsilon_is_caught_and_its_layer_named(
    fashion: Exported, wrong_epsilon: Exported
) -> None:
    found = told(wrong_epsilon.graph, fashion, subject())
    assert "differs by up to" in found
    assert "parity first breaks in network.stages.1.0 + network.stages.1.1" in found


def test_a_weight_that_float16_does_not_hold_is_named(loud: Exported) -> None:
    with pytest.raises(PrecisionError, match=r"weight 'network.stages.1.0.*' reaches 9\d{4}"):
        derive(subject("fp16"), Built(loud.graph, loud.trace, b""))


def test_an_activation_that_float16_does_not_hold_is_named(fashion: Exported) -> None:
    loudness = 2**13
    graph = rewritten(fashion.graph, "network.stages.1.0.weight", lambda w: w * loudness)
    graph = rewritten(graph, "network.stages.1.0.weight_bias", lambda b: b * loudness)
    graph = rewritten(graph, "network.stages.2.0.weight", lambda w: w / loudness)
    of = subject("fp16", parity=0.1)
    found = derive(of, Built(graph, fashion.trace, b"")).judgement.misses
    assert any("activation" in miss and "float16 ends at 65504" in miss for miss in found)


def test_float16_without_an_overflow_passes(fashion: Exported) -> None:
    of = subject("fp16", parity=0.1, agreement=0.98, consistency_drop=0.01, accuracy_drop=0.01)
    derived = derive(of, Built(fashion.graph, fashion.trace, b""))
    assert derived.judgement.misses == ()
    weights = onnx.load_from_string(derived.graph).graph.initializer
    assert any(numpy_helper.to_array(weight).dtype == np.float16 for weight in weights)


def test_int8_says_its_recipe_and_how_much_of_the_work_is_in_int8(fashion: Exported) -> None:
    wide = {"parity": 2.0, "agreement": 0.85, "accuracy_drop": 0.05, "consistency_drop": 0.05}
    derived = derive(subject("int8", **wide), Built(fashion.graph, fashion.trace, b""))
    assert derived.judgement.misses == ()
    assert derived.recipe.startswith("conv, gemm")
    assert 0.5 < derived.judgement.figures.int8_share <= 1
    assert any(
        node.op_type == "QuantizeLinear" for node in onnx.load_from_string(derived.graph).graph.node
    )


def test_near_ties_do_not_count_as_disagreement() -> None:
    reference = np.array([[1.0, 1.0 - 1e-6, 0.0], [1.0, 0.0, 0.5]])
    assert agreement(reference, reference[:, [1, 0, 2]], Limits()) == 0.5
    assert agreement(reference, np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.5]]), Limits()) == 1.0


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"accuracy": 0.7}, "accuracy 0.7000, at least 0.8000 is required"),
        ({"accuracy": 0.85}, "accuracy 0.8500 in onnxruntime and 0.9000 in PyTorch"),
        ({"consistency": 0.9}, "consistency 0.9000 in onnxruntime and 0.9500 in PyTorch"),
        ({"confidence": 0.1}, "confidence 0.1000, at least 0.2000 is required"),
        ({"agreement": 0.99}, "agreement 0.9900, at least 1.0000 is required"),
    ],
)
def test_each_limit_that_is_missed_is_said(changed: dict[str, float], said: str) -> None:
    sound = Figures(
        parameters=1,
        multiply_adds=1,
        parity=0.0,
        max_abs_error=0.0,
        mean_abs_error=0.0,
        agreement=1.0,
        batch_invariant=True,
        index_margin=None,
        accuracy=0.9,
        torch_accuracy=0.9,
        confidence=0.5,
        labelled=10,
        consistency=0.95,
        consistency_error=0.0,
        torch_consistency=0.95,
        samples=10,
    )
    limits = Limits(accuracy=0.8, confidence=0.2, consistency=0.8)
    assert misses(sound, limits) == []
    found = misses(sound.model_copy(update=changed), limits)
    assert any(miss.startswith(said) for miss in found), found
