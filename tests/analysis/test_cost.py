import torch
from torch import Tensor, nn

from nyquist.models.analysis.cost import cost, halving_blocks
from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.networks.architectures import create
from tests.analysis.networks import resnet


def test_a_convolution_costs_what_it_costs_by_hand() -> None:
    (layer,) = cost(nn.Conv2d(3, 8, 3, 2, 1), (3, 10, 12)).layers

    assert layer.parameters == 8 * 3 * 9 + 8
    assert layer.multiply_adds == 8 * 3 * 9 * 5 * 6


def test_groups_divide_the_cost() -> None:
    assert cost(nn.Conv2d(8, 8, 3, 1, 1, groups=8), (8, 6, 6)).multiply_adds == 8 * 9 * 36


def test_a_blur_multiplies_and_has_no_parameter() -> None:
    found = cost(BlurPool2d(3, 2, "circular"), (4, 8, 8))

    assert (found.parameters, found.multiply_adds) == (0, 4 * 9 * 16)


def test_conv_and_pool_have_the_parameters_of_a_strided_convolution_and_four_times_its_work() -> (
    None
):
    compared = {name: cost(block, (64, 56, 56)) for name, block in halving_blocks().items()}
    pooled, strided = compared["conv + max pool"], compared["strided conv"]

    assert pooled.parameters == strided.parameters == 74_112
    assert (pooled.multiply_adds, strided.multiply_adds) == (231_211_008, 57_802_752)
    assert pooled.multiply_adds == 4 * strided.multiply_adds


def test_a_resnet_50_costs_4_1_billion_multiply_adds() -> None:
    network = resnet(50, width=64)
    found = cost(network, (3, 224, 224))

    head = 2048 * 10
    assert found.multiply_adds - head + 2048 * 1000 == 4_089_184_256
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert found.parameters - (head + 10) + 2048 * 1000 + 1000 == 25_557_032


def test_the_layers_stand_in_the_order_of_the_network_with_their_names() -> None:
    found = cost(create("compact", downsampling="max_pool"), (1, 48, 48))

    assert found.layers[0].name == "stages.0.0"
    assert found.layers[0].multiply_adds == 16 * 9 * 48 * 48
    assert found.layers[-1].name == "classifier"
    assert found.layers[-1].multiply_adds == 96 * 10
    assert found.parameters == 79_866


def test_a_shared_parameter_is_counted_once_and_the_network_stays_where_it_was() -> None:
    layer = nn.Linear(4, 4)
    network = nn.Sequential(layer, nn.ReLU(), layer)

    assert cost(network, (1, 1, 4)).parameters == 20
    assert next(network.parameters()).device == torch.device("cpu")


class Counting(nn.Module):
    """Makes a tensor of its own, whose device a program writes down."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + torch.arange(4, device=x.device)


def test_a_program_costs_what_its_network_does() -> None:
    picture = torch.zeros(1, 1, 4, 4)
    program = torch.export.export(Counting().eval(), (picture,)).module()
    assert cost(nn.Sequential(program), (1, 4, 4)).multiply_adds == 2 * 9 * 16
