import pytest
import torch
from torch import nn

from nyquist.models.analysis.effective_field import EffectiveField, effective_field, feature_map
from nyquist.models.analysis.receptive_field import closed_form
from nyquist.models.analysis.window import Window
from tests.analysis.networks import resnet

NOISE = torch.randn(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def stack(*layers: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()
    return nn.Sequential(*layers)


def test_a_mean_filter_is_seen_as_the_square_that_it_is() -> None:
    field = effective_field(nn.AvgPool2d(3, 1, 1), NOISE, position=(20, 30))

    expected = torch.zeros(64, 64, dtype=torch.float64)
    expected[19:22, 29:32] = 1 / 9
    assert torch.allclose(field.weights, expected)
    assert field.centroid == pytest.approx((20, 30))
    assert torch.allclose(field.covariance, 2 / 3 * torch.eye(2, dtype=torch.float64), atol=1e-9)
    assert field.spread == pytest.approx((2 / 3) ** 0.5)
    assert field.mass_square() == 3


def test_the_mass_square_of_a_cross_is_worked_by_hand() -> None:
    weights = torch.zeros(9, 9, dtype=torch.float64)
    weights[4, 4], weights[4, 2], weights[4, 6] = 0.8, 0.1, 0.1
    field = EffectiveField(weights, (4, 4), 1)

    assert [field.mass_square(share) for share in (0.5, 0.8, 0.81, 1.0)] == [1, 1, 5, 5]


def test_a_pooled_network_is_seen_through_its_whole_field_and_not_beyond() -> None:
    network = stack(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    )  # fmt: skip
    field = effective_field(network, NOISE, position=(8, 8))
    theory = closed_form([Window(3, 1, 1), Window(2, 2), Window(3, 1, 1), Window(2, 2)])

    seen = field.weights.sum(1).nonzero().flatten().tolist()
    begin = theory.start + 8 * theory.jump
    assert (seen[0], seen[-1]) == (begin, begin + theory.size - 1) == (29, 38)
    assert field.centroid == pytest.approx((33.5, 33.5), abs=1)
    assert field.mass_square() <= 11


def test_the_effective_field_of_a_deep_stack_is_a_fraction_of_the_theoretical() -> None:
    network = stack(*(nn.Conv2d(3, 3, 5, padding=2, bias=False) for _ in range(6)))
    field = effective_field(network, NOISE)

    assert closed_form([Window(5, 1, 2)] * 6).size == 25
    assert field.mass_square() < 25
    assert field.spread < (25**2 - 1) ** 0.5 / 12**0.5  # of a uniform square of 25 pixels


def test_a_layer_within_a_classifier_can_be_looked_at() -> None:
    network = resnet(18)
    field = effective_field(network, NOISE, layer="1.0_1")

    assert field.position == (8, 8)
    assert field.inputs == 6
    assert network.training


def test_a_constant_picture_is_refused() -> None:
    pictures = NOISE.clone()
    pictures[2] = 0

    with pytest.raises(ValueError, match=r"pictures \[2\] are constant"):
        effective_field(nn.AvgPool2d(2), pictures)


def test_an_output_that_is_no_map_is_refused() -> None:
    with pytest.raises(ValueError, match=r"layer '' puts out \(6, 10\), a map"):
        effective_field(resnet(18), NOISE)


def test_an_unknown_layer_is_answered_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="no layer 'stem'; choose from 0, 1"):
        feature_map(nn.Sequential(nn.ReLU(), nn.ReLU()), NOISE, "stem")


def test_a_position_that_nothing_reaches_is_refused() -> None:
    dead = nn.Conv2d(3, 1, 1)
    nn.init.zeros_(dead.weight)

    with pytest.raises(ValueError, match=r"no gradient reaches the pictures from position \(1, 2"):
        effective_field(dead, NOISE, position=(1, 2))


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=f"at most 1, got {share}"):
        effective_field(nn.AvgPool2d(2), NOISE).mass_square(share)
