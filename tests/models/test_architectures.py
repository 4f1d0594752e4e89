import pytest
import torch

from models.architectures import create
from models.compact import CompactClassifier
from models.downsampling import DOWNSAMPLING_KINDS
from models.efficientnet_lite import EfficientNetLite0


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
    with pytest.raises(ValueError, match=r"'resnet'.*compact, efficientnet_lite0"):
        create("resnet")


def test_an_option_that_the_architecture_lacks_is_refused() -> None:
    with pytest.raises(TypeError, match="'taps'"):
        create("efficientnet_lite0", taps=3)


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
