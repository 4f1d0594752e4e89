from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.layers.downsampling import (
    DOWNSAMPLING_KINDS,
    PLAIN,
    Downsampling,
    DownsamplingKind,
)
from nyquist.models.layers.norm import LayerNorm2d
from nyquist.models.layers.stems import (
    ConvNeXtStem,
    EfficientNetStem,
    PatchEmbedding,
    ResNetDStem,
    ResNetStem,
    resnet_stem_pool,
)

Parity = Callable[[nn.Module, Tensor], float]
Stem = Callable[[Downsampling], nn.Module]

STEMS: tuple[Stem, ...] = (ResNetStem, ResNetDStem, EfficientNetStem, ConvNeXtStem)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def integers(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)).float()


@pytest.mark.parametrize(
    ("stem", "parameters"),
    [
        (ResNetStem(), 9_536),
        (ResNetDStem(), 28_768),  # 9 x (3 x 32 + 32 x 32 + 32 x 64) and 2 x (32 + 32 + 64)
        (EfficientNetStem(), 928),
        (ConvNeXtStem(), 4_896),
        (PatchEmbedding(), 590_592),
        (PatchEmbedding(width=192), 147_648),
        (PatchEmbedding(width=384), 295_296),
        (PatchEmbedding(width=1024), 787_456),
    ],
)
def test_a_stem_has_the_published_number_of_parameters(stem: nn.Module, parameters: int) -> None:
    assert sum(parameter.numel() for parameter in stem.parameters()) == parameters


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
@pytest.mark.parametrize(
    ("stem", "shape"),
    [
        (ResNetStem, (2, 64, 8, 12)),
        (ResNetDStem, (2, 64, 8, 12)),
        (EfficientNetStem, (2, 32, 16, 24)),
        (ConvNeXtStem, (2, 96, 8, 12)),
    ],
)
def test_each_stem_reduces_a_picture_in_every_family(
    stem: Stem, shape: tuple[int, ...], kind: DownsamplingKind
) -> None:
    downsampling = Downsampling(kind, pad_mode="reflect", conv_pad_mode="zero")
    names = list(stem(PLAIN).state_dict())

    assert stem(downsampling)(random(2, 3, 32, 48)).shape == shape
    assert list(stem(downsampling).state_dict()) == names


def test_patches_become_tokens_row_by_row() -> None:
    embedding = PatchEmbedding(patch=2, width=1, in_channels=1)
    nn.init.ones_(embedding.proj.weight)
    nn.init.zeros_(embedding.proj.bias)  # type: ignore[arg-type] # there is one

    tokens = embedding(torch.arange(24.0).view(1, 1, 4, 6))

    assert tokens.shape == (1, 6, 1)
    assert tokens.flatten().tolist() == [14, 22, 30, 62, 70, 78]


def test_a_picture_that_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="multiples of 16, got 224 and 225"):
        PatchEmbedding()(torch.zeros(1, 3, 224, 225))


@pytest.mark.parametrize(
    ("kind", "stride", "pad"), [("strided", 2, (0, 1, 0, 1)), ("max_pool", 1, (1, 1, 1, 1))]
)
@torch.inference_mode()
def test_an_efficientnet_stem_pads_an_even_picture_as_tensorflow_does(
    kind: DownsamplingKind, stride: int, pad: tuple[int, int, int, int]
) -> None:
    stem = EfficientNetStem(Downsampling(kind, pad_mode="zero")).eval()
    weight = stem.state_dict()["0.weight"]
    x = random(2, 3, 8, 12)

    expected = F.silu(F.conv2d(F.pad(x, pad), weight, stride=stride) * (1 + 1e-3) ** -0.5)

    assert torch.allclose(stem(x), expected if stride == 2 else F.max_pool2d(expected, 2))


@torch.inference_mode()
def test_a_deep_stem_is_three_convolutions_and_a_maximum() -> None:
    stem = ResNetDStem(out_channels=8).eval()
    weights = [value for value in stem.state_dict().values() if value.ndim == 4]
    x = expected = random(2, 3, 16, 24)

    for stride, weight in zip((2, 1, 1), weights, strict=True):
        out = F.conv2d(expected, weight, stride=stride, padding=1)
        expected = (out * (1 + 1e-5) ** -0.5).relu()

    assert torch.allclose(stem(x), F.max_pool2d(expected, 3, stride=2, padding=1), atol=1e-6)


def test_layer_normalisation_is_over_the_channels_of_a_position() -> None:
    x = torch.tensor([[1.0, 5.0], [3.0, 5.0]]).view(1, 2, 1, 2)

    out = LayerNorm2d(2)(x)

    one = (1 + 1e-6) ** -0.5
    assert torch.allclose(out.flatten(), torch.tensor([-one, 0.0, one, 0.0]), atol=1e-7)


def test_the_first_convolution_keeps_its_stride_unless_the_network_is_polyphase() -> None:
    for kind in DOWNSAMPLING_KINDS:
        conv = ResNetStem(Downsampling(kind)).conv1
        assert isinstance(conv, nn.Conv2d)
        assert conv.stride == ((1, 1) if kind == "polyphase" else (2, 2))


@pytest.mark.parametrize("kind", ["strided", "max_pool"])
def test_the_plain_pool_sees_three_samples_whatever_continues_the_border(
    kind: DownsamplingKind,
) -> None:
    x = integers(2, 3, 8, 10)
    published = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)(x)

    plain = resnet_stem_pool(Downsampling(kind, pad_mode="zero"))(x)
    wrapped = resnet_stem_pool(Downsampling(kind, pad_mode="circular"))(x)

    assert torch.equal(plain, published)
    assert torch.equal(wrapped[..., 1:, 1:], published[..., 1:, 1:])
    assert wrapped[0, 0, 0, 0] == torch.cat([x[0, 0, -1:], x[0, 0, :2]])[:, [-1, 0, 1]].max()


@pytest.mark.parametrize("kind", ["blur", "max_blur"])
def test_anti_aliased_pools_differ_between_zhang_and_timm(kind: DownsamplingKind) -> None:
    x = integers(2, 3, 8, 10)
    downsampling = Downsampling(kind, taps=3, pad_mode="reflect", conv_pad_mode="zero")
    blur = BlurPool2d(taps=3)

    zhang = resnet_stem_pool(downsampling, "zhang")(x)
    timm = resnet_stem_pool(downsampling, "timm")(x)

    assert torch.equal(zhang, blur(nn.MaxPool2d(2, stride=1)(x)))
    assert torch.equal(timm, blur(nn.MaxPool2d(3, stride=1, padding=1)(x)))


def test_an_unknown_placement_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'after'.*zhang, timm"):
        resnet_stem_pool(PLAIN, "after")  # type: ignore[arg-type] # the test's point


def test_an_odd_width_of_a_deep_stem_is_refused() -> None:
    with pytest.raises(ValueError, match="out_channels must be even, got 5"):
        ResNetDStem(out_channels=5)


@pytest.mark.parametrize("stem", STEMS)
@torch.inference_mode()
def test_a_polyphase_stem_only_moves_under_any_circular_shift(stem: Stem) -> None:
    torch.manual_seed(0)
    layer = stem(Downsampling("polyphase", pad_mode="circular")).eval()
    x = random(1, 3, 16, 16)
    sums = layer(x).mean(dim=(2, 3))

    for shift in [(1, 0), (0, 1), (3, 2), (5, 7)]:
        moved = layer(x.roll(shift, dims=(2, 3))).mean(dim=(2, 3))
        assert torch.allclose(moved, sums, atol=1e-5)


@pytest.mark.parametrize("stem", [*STEMS, lambda _: PatchEmbedding()])
def test_every_parameter_of_a_stem_gets_a_gradient(stem: Stem) -> None:
    torch.manual_seed(0)
    layer = stem(PLAIN)

    layer(random(2, 3, 32, 32)).square().sum().backward()

    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


class EveryStem(nn.Module):
    """The mean of each channel of each stem, plain and anti-aliased: (B, 3, H, W) -> (B, C)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        blur = Downsampling("blur", taps=4, pad_mode="reflect", conv_pad_mode="zero")
        self.stems = nn.ModuleList(stem(how) for stem in STEMS for how in (PLAIN, blur))
        self.embedding = PatchEmbedding(width=8)

    def forward(self, x: Tensor) -> Tensor:
        means = [stem(x).mean(dim=(2, 3)) for stem in self.stems]
        return torch.cat([*means, self.embedding(x).mean(dim=1)], dim=1)


def test_exported_stems_compute_the_same(parity: Parity) -> None:
    assert parity(EveryStem(), random(3, 3, 32, 32)) <= 1e-5
