import pytest
import torch
from torch import Tensor, nn

from nyquist.models.layers.downsampling import (
    DOWNSAMPLING_KINDS,
    PLAIN,
    Downsampling,
    DownsamplingKind,
)
from nyquist.models.networks.mobilenet import Group, InvertedResidual, MobileNetV2

FEW = (Group(1, 8, 1, 1), Group(2, 12, 1, 2), Group(2, 16, 2, 2))
SHIFTS = [(0, 0), (1, 0), (0, 1), (3, 2), (7, 12), (31, 17)]


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def published(kind: DownsamplingKind) -> Downsampling:
    return Downsampling(kind, taps=4, pad_mode="reflect", conv_pad_mode="zero")


def small(downsampling: Downsampling) -> MobileNetV2:
    """Return a network of four blocks with logits of unit range, for evaluation."""
    torch.manual_seed(0)
    network = MobileNetV2(downsampling, num_classes=10, groups=FEW).eval()
    with torch.inference_mode():
        scale = network(random(4, 3, 32, 32)).abs().max()
        for parameter in network.get_submodule("classifier").parameters():
            parameter.div_(scale)
    return network


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_every_family_has_the_published_parameters_and_the_plain_names(
    kind: DownsamplingKind,
) -> None:
    with torch.device("meta"):
        network, plain = MobileNetV2(published(kind)), MobileNetV2()

    assert sum(parameter.numel() for parameter in network.parameters()) == 3_504_872
    assert list(network.state_dict()) == list(plain.state_dict())


def test_names_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        names = list(MobileNetV2(published("blur")).state_dict())

    assert names[0] == "features.0.0.weight"
    assert "features.1.conv.1.weight" in names
    assert "features.2.conv.0.1.running_var" in names
    assert "features.2.conv.1.0.weight" in names
    assert "features.17.conv.3.bias" in names
    assert names[-2:] == ["classifier.1.weight", "classifier.1.bias"]


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
@torch.inference_mode()
def test_the_map_is_halved_five_times(kind: DownsamplingKind) -> None:
    network = MobileNetV2(published(kind), num_classes=7, in_channels=1).eval()

    assert network(random(2, 1, 64, 96)).shape == (2, 7)
    assert network.get_submodule("features")(random(1, 1, 64, 96)).shape == (1, 1280, 2, 3)


@torch.inference_mode()
def test_a_blur_of_one_tap_is_the_plain_block() -> None:
    plain = InvertedResidual(4, 6, 2, halves=True).eval()
    subsampled = InvertedResidual(4, 6, 2, Downsampling("blur", 1, "zero"), halves=True).eval()
    subsampled.load_state_dict(plain.state_dict())
    x = random(2, 4, 8, 12)

    assert torch.allclose(subsampled(x), plain(x), atol=1e-6)


@pytest.mark.parametrize(
    ("out_channels", "halves", "residual"), [(4, False, True), (4, True, False), (5, False, False)]
)
@torch.inference_mode()
def test_a_block_adds_its_input_only_where_the_shapes_allow_it(
    out_channels: int, halves: bool, residual: bool
) -> None:
    block = InvertedResidual(4, out_channels, 2, PLAIN, halves=halves).eval()
    norm = block.conv[-1]
    assert isinstance(norm, nn.BatchNorm2d)
    nn.init.zeros_(norm.weight)
    x = random(2, 4, 6, 8)

    assert torch.equal(block(x), x) if residual else not block(x).any()


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_every_parameter_gets_a_gradient(kind: DownsamplingKind) -> None:
    torch.manual_seed(0)
    network = MobileNetV2(published(kind), num_classes=5, groups=FEW)

    network(random(4, 3, 32, 32)).square().sum().backward()

    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.inference_mode()
def test_polyphase_logits_do_not_change_under_circular_shifts_and_blurred_ones_do() -> None:
    picture = random(3, 32, 32)
    shifted = torch.stack([picture.roll(shift, dims=(1, 2)) for shift in SHIFTS])

    exact = small(Downsampling("polyphase", pad_mode="circular"))(shifted)
    blurred = small(Downsampling("blur", pad_mode="circular"))(shifted)

    assert (exact - exact[0]).abs().max().item() <= 1e-4
    assert exact.argmax(1).unique().numel() == 1
    assert (blurred - blurred[0]).abs().max().item() > 1e-3


@torch.inference_mode()
def test_a_pool_sees_what_an_activation_clipped_at_zero_and_six_leaves() -> None:
    block = InvertedResidual(1, 1, 1, Downsampling("avg_pool", pad_mode="zero"), halves=True)
    depthwise = block.get_submodule("conv.0.0")
    assert isinstance(depthwise, nn.Conv2d)
    nn.init.dirac_(depthwise.weight)
    nn.init.ones_(block.get_submodule("conv.1").weight)  # type: ignore[arg-type] # a convolution
    x = torch.tensor([[-8.0, 3.0], [8.0, 0.0]]).view(1, 1, 2, 2)

    one = (1 + 1e-5) ** -0.5  # a norm divides by the root of variance + epsilon
    assert block.eval()(x).item() == pytest.approx((3 * one + 6) / 4 * one)
