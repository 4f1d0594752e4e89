from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from nyquist import models
from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.layers.downsampling import DOWNSAMPLING_KINDS, DownsamplingKind
from nyquist.models.layers.padding import PaddedConv2d, PadMode, SameConv2d
from nyquist.models.networks.architectures import ARCHITECTURES, create
from nyquist.models.networks.compact import CompactClassifier
from nyquist.models.networks.efficientnet_lite import EfficientNetLite0
from nyquist.models.networks.resnet import Bottleneck, BottleneckV1


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_a_compact_classifier_is_made_by_name(kind: str) -> None:
    network = create("compact", downsampling=kind)

    assert isinstance(network, CompactClassifier)
    assert network.training
    assert network(torch.rand(2, 1, 16, 16)).shape == (2, 10)


def test_an_efficientnet_is_made_by_name() -> None:
    network = create("efficientnet_lite0", num_classes=3)

    assert isinstance(network, EfficientNetLite0)
    assert network.training
    assert network.classifier.out_features == 3


def test_options_reach_the_network() -> None:
    network = create(
        "compact", downsampling="blur", taps=5, pad_mode="reflect", num_classes=4, in_channels=3
    )

    assert network(torch.rand(2, 3, 48, 48)).shape == (2, 4)
    assert "BlurPool2d(taps=5, stride=2, pad_mode=reflect)" in repr(network)
    assert "pad_mode=circular" not in repr(network)


def test_the_same_seed_gives_the_same_fresh_weights() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        parameters = create("compact", downsampling="strided").parameters()
        return torch.cat([parameter.flatten() for parameter in parameters])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_an_unknown_architecture_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'resnet'.*compact, .*resnet18, resnet34"):
        create("resnet")


def test_an_option_that_the_architecture_lacks_is_refused() -> None:
    with pytest.raises(TypeError, match="'placement'"):
        create("efficientnet_lite0", placement="timm")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("downsampling", "median", "unknown downsampling 'median'"),
        ("pad_mode", "same", "unknown pad_mode 'same'"),
        ("taps", 8, "taps must be in 1..7, got 8"),
    ],
)
def test_an_option_of_a_bad_value_is_refused(option: str, value: str | int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create("compact", **{"downsampling": "blur", option: value})


def test_the_package_creates_and_lists() -> None:
    assert models.list() == tuple(ARCHITECTURES)
    assert len(models.list()) == 9
    assert isinstance(models.create("compact", downsampling="blur"), CompactClassifier)


DEEP = ("resnet34", "resnet101", "resnet152")  # of which resnet18 and resnet50 tell as much


@pytest.mark.parametrize("name", DEEP)
def test_the_deeper_networks_are_made_by_name(name: str) -> None:
    with torch.device("meta"):
        network = models.create(name, downsampling="polyphase", num_classes=7)

        assert network(torch.rand(1, 3, 64, 64)).shape == (1, 7)


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
@pytest.mark.parametrize("name", [name for name in models.list() if name not in DEEP])
def test_every_architecture_takes_every_downsampling(name: str, kind: DownsamplingKind) -> None:
    with torch.device("meta"):
        network = models.create(name, downsampling=kind, taps=3, num_classes=7, in_channels=5)
        plain = models.create(name, num_classes=7, in_channels=5)
        logits = network(torch.rand(2, 5, 96, 96))

    assert logits.shape == (2, 7)
    assert list(network.state_dict()) == list(plain.state_dict())
    assert ("BlurPool2d(taps=3" in repr(network)) == (kind in ("blur", "max_blur"))


def borders(network: nn.Module) -> tuple[set[PadMode], set[PadMode]]:
    """Return how borders continue in the convolutions of a network, and in its blurs."""
    convolutions = {
        module.pad_mode
        for module in network.modules()
        if isinstance(module, PaddedConv2d | SameConv2d) and module.kernel_size != (1, 1)
    }
    blurs = {module.pad_mode for module in network.modules() if isinstance(module, BlurPool2d)}
    return convolutions, blurs


@pytest.mark.parametrize(
    "name", ["convnext_tiny", "efficientnet_lite0", "mobilenet_v2", "resnet18"]
)
def test_borders_are_those_of_the_published_networks_unless_asked_for(name: str) -> None:
    with torch.device("meta"):
        assert borders(create(name)) == ({"zero"}, set())
        assert borders(create(name, downsampling="blur")) == ({"zero"}, {"reflect"})
        assert borders(create(name, downsampling="polyphase")) == ({"circular"}, set())
        everywhere = create(name, downsampling="blur", pad_mode="replicate")
        assert borders(everywhere) == ({"replicate"}, {"replicate"})


def test_bottlenecks_are_of_either_version() -> None:
    with torch.device("meta"):
        published = create("resnet50").get_submodule("layer1.0")
        original = create("resnet50", bottleneck="v1").get_submodule("layer1.0")

    assert type(published) is Bottleneck
    assert type(original) is BottleneckV1


@pytest.mark.parametrize(
    ("name", "bottleneck", "message"),
    [
        ("resnet50", "v2", "unknown bottleneck 'v2'; choose from v1, v1.5"),
        ("resnet18", "v1", "resnet18 has no bottlenecks; v1 is for resnet50, resnet101"),
    ],
)
def test_a_bottleneck_that_there_is_not_is_refused(
    name: str, bottleneck: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        create(name, bottleneck=bottleneck)


def test_weights_of_a_file_are_loaded(tmp_path: Path) -> None:
    path = tmp_path / "compact.safetensors"
    trained = create("compact", downsampling="blur")
    save_file(trained.state_dict(), path)

    network = models.create("compact", downsampling="blur", weights=path)

    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(network.eval()(x), trained.eval()(x))
    with pytest.raises(ValueError, match=r"classifier\.weight \(10, 96\) instead of \(3, 96\)"):
        models.create("compact", num_classes=3, weights=str(path))
