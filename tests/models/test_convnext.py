import pytest
import torch
from torch import Tensor, nn

from nyquist.models.layers.downsampling import (
    DOWNSAMPLING_KINDS,
    PLAIN,
    Downsampling,
    DownsamplingKind,
)
from nyquist.models.networks.convnext import ConvNeXt, ConvNeXtBlock

SMALL = (8, 12, 16, 20)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def published(kind: DownsamplingKind) -> Downsampling:
    return Downsampling(kind, taps=4, pad_mode="reflect", conv_pad_mode="zero")


def small(downsampling: Downsampling = PLAIN) -> ConvNeXt:
    """Return a network of a block a group whose blocks count, with logits of unit range."""
    torch.manual_seed(0)
    network = ConvNeXt(downsampling, 10, depths=(1, 1, 1, 1), widths=SMALL).eval()
    for module in network.modules():
        if isinstance(module, ConvNeXtBlock):
            nn.init.ones_(module.layer_scale)
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    with torch.inference_mode():
        scale = network(random(2, 3, 96, 96)).abs().max()
        for parameter in network.get_submodule("classifier.2").parameters():
            parameter.div_(scale)
    return network


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_every_family_has_the_published_parameters_and_the_plain_names(
    kind: DownsamplingKind,
) -> None:
    with torch.device("meta"):
        network, plain = ConvNeXt(published(kind)), ConvNeXt()

    assert sum(parameter.numel() for parameter in network.parameters()) == 28_589_128
    assert list(network.state_dict()) == list(plain.state_dict())


def test_names_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        state = ConvNeXt().state_dict()

    assert state["features.0.0.weight"].shape == (96, 3, 4, 4)
    assert state["features.0.1.bias"].shape == (96,)
    assert state["features.1.0.layer_scale"].shape == (96, 1, 1)
    assert state["features.1.0.block.0.weight"].shape == (96, 1, 7, 7)
    assert state["features.2.1.weight"].shape == (192, 96, 2, 2)
    assert state["features.5.8.block.5.weight"].shape == (384, 1536)
    assert state["classifier.0.weight"].shape == (768,)
    assert state["classifier.2.weight"].shape == (1000, 768)


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
@torch.inference_mode()
def test_the_map_becomes_a_thirty_second(kind: DownsamplingKind) -> None:
    network = ConvNeXt(published(kind), 7, in_channels=1, depths=(1, 1, 1, 1), widths=SMALL)

    assert network(random(2, 1, 64, 96)).shape == (2, 7)
    assert network.get_submodule("features")(random(1, 1, 64, 96)).shape == (1, 20, 2, 3)


def test_layer_norms_have_the_epsilon_of_the_paper() -> None:
    norms = [module for module in small().modules() if isinstance(module, nn.LayerNorm)]

    assert len(norms) == 1 + 4 + 3 + 1  # stem, blocks, halvings, head
    assert norms
    assert all(norm.eps == 1e-6 for norm in norms)


@torch.inference_mode()
def test_a_fresh_block_changes_its_input_by_the_layer_scale_alone() -> None:
    block = ConvNeXtBlock(4)
    linear = block.block[5]
    assert isinstance(linear, nn.Linear)
    assert linear.bias is not None
    nn.init.zeros_(linear.weight)
    nn.init.constant_(linear.bias, 3.0)
    x = torch.zeros(1, 4, 7, 9)

    assert torch.allclose(block(x), torch.full((1, 4, 7, 9), 3e-6))


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_every_parameter_gets_a_gradient(kind: DownsamplingKind) -> None:
    network = small(published(kind)).train()

    network(random(2, 3, 64, 64)).square().sum().backward()

    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.inference_mode()
def test_polyphase_logits_do_not_change_under_circular_shifts_and_plain_ones_do() -> None:
    picture = random(3, 96, 96)
    shifts = [(0, 0), (1, 0), (0, 1), (7, 12), (50, 95)]
    shifted = torch.stack([picture.roll(shift, dims=(1, 2)) for shift in shifts])

    exact = small(Downsampling("polyphase", pad_mode="circular"))(shifted)
    plain = small(Downsampling("strided", pad_mode="circular"))(shifted)

    assert (exact - exact[0]).abs().max().item() <= 1e-4
    assert exact.argmax(1).unique().numel() == 1
    assert (plain - plain[0]).abs().max().item() > 1e-3


def test_a_circular_border_wider_than_the_map_is_refused() -> None:
    network = small(Downsampling("strided", pad_mode="circular"))

    with pytest.raises(ValueError, match="3 samples cannot continue an axis of 2"):
        network(random(1, 3, 64, 64))
