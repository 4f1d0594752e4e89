import json

import pytest
import torch
from torch import Tensor, nn

from nyquist.models.checkpoints import read_state
from nyquist.models.fashion import LABELS
from nyquist.models.layers.downsampling import DOWNSAMPLING_KINDS
from nyquist.models.loading import load_network
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.samples import ESPRESSO, TRIPOD, Samples, read_samples
from nyquist.models.spec import ModelSpec, Preprocessing
from nyquist.models.zoo import WEIGHTS, specs

NAMES = (
    "fashion_max_pool",
    "fashion_avg_pool",
    "fashion_strided",
    "fashion_blur",
    "fashion_max_blur",
    "fashion_polyphase",
    "efficientnet_lite0",
    "efficientnet_lite0_stable",
)
FASHION_NAMES = NAMES[:-2]


def network(spec: ModelSpec) -> nn.Module:
    """Return what the zoo serves under this name, before its export."""
    return PreprocessedNetwork(load_network(spec), spec.preprocessing).eval()


def samples_of(spec: ModelSpec) -> Samples:
    return read_samples(spec, spec.samples)


@torch.inference_mode()
def answers(spec: ModelSpec, images: Tensor) -> Tensor:
    """Return the index of the largest logit of each picture."""
    logits: Tensor = network(spec)(images.to(memory_format=torch.channels_last))
    return logits.argmax(dim=1)


def test_the_zoo_has_eight_models_by_their_own_names() -> None:
    assert tuple(specs()) == NAMES
    assert all(spec.name == name for name, spec in specs().items())


@pytest.mark.parametrize("name", FASHION_NAMES)
def test_a_fashion_model_takes_canvases_and_knows_ten_classes(name: str) -> None:
    spec = specs()[name]

    assert spec.datatype == "FP32"
    assert spec.shape == (1, 48, 48)
    assert spec.labels == LABELS
    assert spec.options["downsampling"] == name.removeprefix("fashion_")
    assert spec.preprocessing == Preprocessing()


def test_the_efficientnet_takes_pixels_and_knows_a_thousand_classes() -> None:
    spec = specs()["efficientnet_lite0"]

    assert spec.datatype == "UINT8"
    assert spec.shape == (224, 224, 3)
    assert spec.preprocessing == Preprocessing("HWC", mean=127.0, scale=128.0)
    assert len(spec.labels) == len(set(spec.labels)) == 1000
    assert spec.labels
    assert all(label.strip() == label != "" for label in spec.labels)
    assert spec.labels[ESPRESSO] == "espresso"
    assert spec.labels[TRIPOD] == "tripod"
    assert spec.labels[0] == "tench"


def test_the_stable_efficientnet_sees_224_of_256_pixels() -> None:
    plain, stable = (specs()[f"efficientnet_lite0{end}"] for end in ("", "_stable"))

    assert stable.shape == (256, 256, 3)
    assert stable.picture.crop_share == 1.0
    assert stable.plain.shape == plain.shape
    assert (stable.weights, stable.limits) == (plain.weights, plain.limits)


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_what_the_served_input_takes(name: str) -> None:
    spec = specs()[name]

    samples = samples_of(spec)

    assert samples.images.shape[1:] == spec.shape
    assert samples.images.dtype == {"FP32": torch.float32, "UINT8": torch.uint8}[spec.datatype]
    assert samples.labels.max() < len(spec.labels)


@pytest.mark.parametrize("name", NAMES)
def test_the_weights_fit_and_give_a_logit_for_each_label(name: str) -> None:
    spec = specs()[name]

    with torch.inference_mode():
        logits = network(spec)(samples_of(spec).spread(2).images)

    assert logits.shape == (2, len(spec.labels))
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_the_labelled_samples_are_as_accurate_as_the_zoo_asks(name: str) -> None:
    spec = specs()[name]
    samples = samples_of(spec)
    labelled = samples.labels >= 0

    right = answers(spec, samples.images[labelled]) == samples.labels[labelled]

    assert right.double().mean().item() >= spec.limits.accuracy


def test_the_polyphase_model_answers_a_shifted_photograph_as_before() -> None:
    spec = specs()["fashion_polyphase"]
    images = samples_of(spec).spread(32).images

    moved = [answers(spec, images.roll(shift, dims=(2, 3))) for shift in ((1, 0), (-3, 7), (24, 5))]

    assert spec.limits.consistency == 1
    assert moved
    assert all(torch.equal(answer, answers(spec, images)) for answer in moved)


def test_there_is_one_committed_file_of_weights_for_each_family() -> None:
    names = sorted(path.name for path in WEIGHTS.glob("*.safetensors"))

    assert names == sorted(f"{name}.safetensors" for name in FASHION_NAMES)


def test_no_two_families_share_their_weights() -> None:
    heads = [
        read_state(WEIGHTS / f"{name}.safetensors")["classifier.weight"] for name in FASHION_NAMES
    ]

    assert len({tuple(head.flatten().tolist()) for head in heads}) == len(FASHION_NAMES)


def test_the_figures_beside_the_weights_cover_every_family() -> None:
    families = json.loads((WEIGHTS / "fashion.json").read_text())

    assert set(families) == set(DOWNSAMPLING_KINDS)
    for kind in DOWNSAMPLING_KINDS:
        asked = specs()[f"fashion_{kind}"].limits.accuracy
        assert asked <= families[kind]["figures"]["accuracy"] <= 1
