from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nyquist.models.checkpoints import read_state
from nyquist.models.layers.downsampling import DOWNSAMPLING_KINDS, Downsampling, DownsamplingKind
from nyquist.models.layers.padding import SameConv2d, same_padding
from nyquist.models.loading import load_network
from nyquist.models.networks.efficientnet_lite import (
    LITE0_GROUPS,
    BlockGroup,
    EfficientNetLite0,
    InvertedResidual,
    rename_published,
)
from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.samples import ESPRESSO, TRIPOD, photograph_samples
from nyquist.models.spec import Preprocessing
from nyquist.models.zoo import LITE0_FILE, LITE0_PACKAGE, LITE0_SHA256, specs

Parity = Callable[[nn.Module, Tensor], float]

SAME_SHAPE = BlockGroup(expansion=2, kernel_size=3, stride=1, out_channels=4, repeats=1)


@pytest.fixture(scope="module")
def published() -> dict[str, Tensor]:
    """The weights as their author published them."""
    return read_state(Path(str(files(LITE0_PACKAGE).joinpath(LITE0_FILE))), LITE0_SHA256)


@pytest.fixture(scope="module")
def pretrained() -> EfficientNetLite0:
    """The network with the weights of the zoo."""
    network = load_network(specs()["efficientnet_lite0"])
    assert isinstance(network, EfficientNetLite0)
    return network


@torch.inference_mode()
def probability(network: nn.Module, preprocessing: Preprocessing, label: int) -> float:
    """Return the probability that the network gives the labelled photograph's own class."""
    samples = photograph_samples()
    picture = samples.images[samples.labels == label]
    logits: Tensor = PreprocessedNetwork(network, preprocessing)(picture)
    return logits.softmax(dim=1)[0, label].item()


def integers(*shape: int) -> Tensor:
    """Return random whole numbers as float32, on which sums are exact in any order."""
    return torch.randint(-8, 9, shape, generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize(
    ("size", "kernel_size", "stride", "expected"),
    [
        (224, 3, 2, (0, 1)),  # 112 outputs see 111 * 2 + 3 = 225 samples
        (7, 3, 2, (1, 1)),  # 4 outputs see 9
        (56, 5, 2, (1, 2)),  # 28 outputs see 59
        (7, 5, 2, (2, 2)),  # 4 outputs see 11
        (14, 3, 1, (1, 1)),
        (7, 3, 1, (1, 1)),
        (14, 5, 1, (2, 2)),
        (7, 5, 1, (2, 2)),
        (8, 1, 1, (0, 0)),
        (8, 1, 2, (0, 0)),  # 4 outputs see 7, one sample is left over and none is missing
    ],
)
def test_same_padding_puts_the_odd_pixel_behind(
    size: int, kernel_size: int, stride: int, expected: tuple[int, int]
) -> None:
    assert same_padding(size, kernel_size, stride) == expected


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize(("stride", "height", "width"), [(1, 7, 8), (2, 7, 8), (2, 5, 6)])
def test_a_same_convolution_gives_the_size_over_its_stride_rounded_up(
    kernel_size: int, stride: int, height: int, width: int
) -> None:
    out = SameConv2d(2, 3, kernel_size, stride)(torch.rand(2, 2, height, width))

    assert out.shape == (2, 3, (height + stride - 1) // stride, (width + stride - 1) // stride)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4, [[9, 6], [6, 4]]),  # even: no pad in front, one behind
        (3, [[4, 4], [4, 4]]),  # odd: one on each side
    ],
)
def test_a_sum_of_nine_ones_shows_where_the_padding_is(
    size: int, expected: list[list[float]]
) -> None:
    conv = SameConv2d(1, 1, 3, stride=2)
    nn.init.ones_(conv.weight)

    assert conv(torch.ones(1, 1, size, size))[0, 0].tolist() == expected


def test_rows_and_columns_are_padded_each_for_its_own_size() -> None:
    conv = SameConv2d(1, 1, 3, stride=2)
    nn.init.ones_(conv.weight)

    assert conv(torch.ones(1, 1, 4, 3))[0, 0].tolist() == [[6, 6], [4, 4]]


def test_a_same_convolution_moves_with_what_is_far_from_the_border() -> None:
    conv = SameConv2d(2, 3, 5, stride=2)
    nn.init.constant_(conv.weight, 1.0)
    conv.weight.data[:, :, 0, 3] = -3.0
    x = torch.zeros(1, 2, 24, 24)
    x[:, :, 8:16, 8:16] = integers(1, 2, 8, 8)

    moved = conv(x.roll((2, -4), dims=(2, 3)))

    assert torch.equal(moved, conv(x).roll((1, -2), dims=(2, 3)))


@pytest.mark.parametrize("size", [4, 5])
def test_the_gradient_of_a_same_convolution_is_right(size: int) -> None:
    conv = SameConv2d(2, 2, 3, stride=2, groups=2).double()
    x = torch.rand(1, 2, size, size, dtype=torch.double, requires_grad=True)

    assert torch.autograd.gradcheck(conv, x)


@pytest.mark.parametrize(
    ("in_channels", "stride", "residual"), [(4, 1, True), (4, 2, False), (3, 1, False)]
)
def test_a_block_adds_its_input_only_where_the_shapes_allow_it(
    in_channels: int, stride: int, residual: bool
) -> None:
    block = InvertedResidual(in_channels, SAME_SHAPE, stride).eval()
    nn.init.zeros_(block.project[1].weight)  # type: ignore[arg-type] # of a Sequential
    x = torch.rand(2, in_channels, 6, 6)

    out = block(x)

    assert out.shape == (2, 4, 6 // stride, 6 // stride)
    if residual:
        assert torch.equal(out, x)
    else:
        assert not out.any()


def test_activations_are_clipped_at_six_before_the_projection() -> None:
    group = BlockGroup(expansion=1, kernel_size=1, stride=1, out_channels=1, repeats=1)
    block = InvertedResidual(1, group, stride=1).eval()
    for conv in (block.depthwise[0], block.project[0]):
        nn.init.ones_(conv.weight)  # type: ignore[arg-type] # of a Sequential
    x = torch.tensor([[-5.0, 2.0, 50.0]]).view(1, 1, 1, 3)

    scale = (1 + 1e-3) ** -0.5  # each of the two norms divides by the root of variance + epsilon
    hidden = torch.tensor([0.0, 2 * scale, 6.0])
    assert torch.allclose(block(x).flatten(), x.flatten() + hidden * scale)


def test_a_block_without_expansion_has_no_expanding_convolution() -> None:
    group = BlockGroup(expansion=1, kernel_size=3, stride=1, out_channels=4, repeats=1)

    names = {name.split(".")[0] for name, _ in InvertedResidual(4, group, 1).named_parameters()}

    assert names == {"depthwise", "project"}


def test_exported_blocks_of_odd_maps_compute_the_same(parity: Parity) -> None:
    torch.manual_seed(0)
    halved = BlockGroup(expansion=6, kernel_size=5, stride=2, out_channels=4, repeats=1)
    network = nn.Sequential(
        InvertedResidual(4, halved, stride=2), InvertedResidual(4, SAME_SHAPE, stride=1)
    )

    assert parity(network, torch.randn(5, 4, 7, 9)) <= 1e-5


def test_the_network_has_the_published_number_of_parameters() -> None:
    network = EfficientNetLite0()

    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008


def test_sixteen_blocks_halve_four_times_behind_the_stem() -> None:
    assert sum(group.repeats for group in LITE0_GROUPS) == 16
    network = EfficientNetLite0().eval()
    sizes = [64]
    x = network.stem(torch.rand(1, 3, 64, 64))
    for block in network.blocks:
        sizes.append(x.shape[2])
        x = block(x)

    assert x.shape == (1, 320, 2, 2)
    assert sorted(set(sizes), reverse=True) == [64, 32, 16, 8, 4, 2]


def test_a_batch_of_pictures_becomes_a_batch_of_logits() -> None:
    network = EfficientNetLite0(num_classes=7, in_channels=1).eval()

    assert network(torch.rand(2, 1, 33, 64)).shape == (2, 7)


def test_every_parameter_gets_a_gradient() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite0(num_classes=5)

    network(torch.rand(4, 3, 64, 64)).square().sum().backward()

    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("_conv_stem.weight", "stem.0.weight"),
        ("_bn0.running_var", "stem.1.running_var"),
        ("_blocks.0._bn1.bias", "blocks.0.depthwise.1.bias"),
        ("_blocks.3._expand_conv.weight", "blocks.3.expand.0.weight"),
        ("_blocks.3._bn0.num_batches_tracked", "blocks.3.expand.1.num_batches_tracked"),
        ("_blocks.12._depthwise_conv.weight", "blocks.12.depthwise.0.weight"),
        ("_blocks.15._project_conv.weight", "blocks.15.project.0.weight"),
        ("_blocks.15._bn2.running_mean", "blocks.15.project.1.running_mean"),
        ("_conv_head.weight", "head.0.weight"),
        ("_bn1.weight", "head.1.weight"),
        ("_fc.bias", "classifier.bias"),
    ],
)
def test_a_published_name_becomes_ours(name: str, expected: str) -> None:
    value = torch.ones(2)

    renamed = rename_published({name: value})

    assert list(renamed) == [expected]
    assert renamed[expected] is value


def test_published_names_map_onto_all_tensors_one_to_one(published: dict[str, Tensor]) -> None:
    renamed = rename_published(published)
    ours = EfficientNetLite0().state_dict()

    assert len(published) == len(renamed) == 296
    assert set(renamed) == set(ours)
    assert all(renamed[name].shape == value.shape for name, value in ours.items())


@pytest.mark.parametrize(
    "name", ["_blocks.0._se_reduce.weight", "module._fc.bias", "stem.0.weight"]
)
def test_an_unknown_published_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name!r} is no weight"):
        rename_published({name: torch.ones(1)})


@pytest.mark.parametrize("label", [ESPRESSO, TRIPOD])
def test_the_pretrained_network_is_sure_of_what_a_photograph_shows(
    pretrained: EfficientNetLite0, label: int
) -> None:
    preprocessing = specs()["efficientnet_lite0"].preprocessing

    assert probability(pretrained, preprocessing, label) > 0.9


@pytest.mark.parametrize(
    "wrong",
    [
        Preprocessing("HWC", mean=0.0, scale=255.0),
        Preprocessing("HWC", mean=117.0, scale=58.0),  # about ImageNet's mean and deviation
        Preprocessing("HWC"),
    ],
)
def test_a_wrong_normalisation_makes_it_less_sure_of_the_espresso(
    pretrained: EfficientNetLite0, wrong: Preprocessing
) -> None:
    assert probability(pretrained, wrong, ESPRESSO) < 0.9


def test_the_exported_front_of_the_pretrained_network_computes_the_same_on_photographs(
    pretrained: EfficientNetLite0, parity: Parity
) -> None:
    # up to the stride of a convolution of 5 taps; all of it takes half a minute to export
    front = nn.Sequential(pretrained.stem, pretrained.activation, pretrained.blocks[:4])
    network = PreprocessedNetwork(front, specs()["efficientnet_lite0"].preprocessing).eval()
    images = photograph_samples().images
    with torch.inference_mode():
        largest = network(images).abs().max().item()

    assert parity(network, images) <= 1e-5 * largest


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
@torch.inference_mode()
def test_every_family_has_the_same_state_and_halves_as_often(kind: DownsamplingKind) -> None:
    plain = EfficientNetLite0().state_dict()
    network = EfficientNetLite0(downsampling=Downsampling(kind, pad_mode="circular")).eval()

    assert list(network.state_dict()) == list(plain)
    assert network.blocks(network.stem(torch.rand(1, 3, 64, 96))).shape == (1, 320, 2, 3)


@torch.inference_mode()
def test_a_blur_of_one_tap_that_is_aligned_is_the_plain_block() -> None:
    group = BlockGroup(expansion=2, kernel_size=3, stride=2, out_channels=4, repeats=1)
    plain = InvertedResidual(4, group, stride=2).eval()
    subsampled = InvertedResidual(4, group, 2, Downsampling("blur", 1, "zero")).eval()
    subsampled.load_state_dict(plain.state_dict())
    x = torch.rand(2, 4, 9, 7)  # odd: SAME then pads as much in front at stride 2 as at stride 1

    assert torch.allclose(subsampled(x), plain(x), atol=1e-6)


@torch.inference_mode()
def test_polyphase_logits_do_not_change_under_circular_shifts() -> None:
    torch.manual_seed(0)
    network = EfficientNetLite0(10, downsampling=Downsampling("polyphase")).eval()
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.constant_(norm.running_var, 0.1)  # type: ignore[arg-type] # a buffer
    picture = torch.rand(3, 64, 64)
    shifts = [(0, 0), (1, 0), (0, 1), (7, 12), (31, 33)]

    logits = network(torch.stack([picture.roll(shift, dims=(1, 2)) for shift in shifts]))

    assert (logits - logits[0]).abs().max().item() <= 1e-4 * logits.abs().max().item()
    assert logits.argmax(1).unique().numel() == 1


@torch.inference_mode()
def test_a_pool_sees_what_an_activation_clipped_at_zero_and_six_leaves() -> None:
    group = BlockGroup(expansion=1, kernel_size=1, stride=2, out_channels=1, repeats=1)
    block = InvertedResidual(1, group, 2, Downsampling("avg_pool", pad_mode="zero")).eval()
    for conv in (block.depthwise[0], block.project[0]):
        nn.init.ones_(conv.weight)  # type: ignore[arg-type] # of a Sequential
    x = torch.tensor([[-8.0, 3.0], [8.0, 0.0]]).view(1, 1, 2, 2)

    one = (1 + 1e-3) ** -0.5  # a norm divides by the root of variance + epsilon
    assert block(x).item() == pytest.approx((3 * one + 6) / 4 * one)
