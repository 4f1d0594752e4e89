from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.models.layers.blocks import (
    AntialiasedConv,
    ConvPool,
    LinearBlurConv,
    StridedConv,
    downsampling_block,
)
from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.layers.downsampling import DOWNSAMPLING_KINDS, Downsampling, DownsamplingKind

Parity = Callable[[nn.Module, Tensor], float]

BLOCKS: tuple[Callable[[int, int], nn.Module], ...] = (
    ConvPool,
    StridedConv,
    AntialiasedConv,
    LinearBlurConv,
)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def circular(kind: type[nn.Module]) -> nn.Module:
    """Return a block of two channels that wraps around everywhere, in evaluation mode."""
    torch.manual_seed(0)
    blur = BlurPool2d(taps=3, pad_mode="circular")
    if kind in (AntialiasedConv, LinearBlurConv):
        return kind(2, 2, blur, pad_mode="circular").eval()
    return kind(2, 2, pad_mode="circular").eval()


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_halves_and_widens(block: Callable[[int, int], nn.Module]) -> None:
    assert block(3, 5)(random(2, 3, 8, 12)).shape == (2, 5, 4, 6)


def test_a_block_with_a_pool_has_the_parameters_of_a_strided_one() -> None:
    def parameters(block: nn.Module) -> int:
        return sum(parameter.numel() for parameter in block.parameters())

    assert parameters(ConvPool(64, 128)) == parameters(StridedConv(64, 128)) == 73_728 + 256
    assert parameters(LinearBlurConv(64, 128)) == 73_728


def test_the_pool_sees_what_the_activation_leaves() -> None:
    x = torch.tensor([[-9.0, 4.0], [-9.0, 8.0]]).view(1, 1, 2, 2)
    blocks = {
        "pool": ConvPool(1, 1, nn.AvgPool2d(2), kernel_size=1),
        "blur": AntialiasedConv(1, 1, BlurPool2d(2, pad_mode="zero"), kernel_size=1),
        "linear": LinearBlurConv(1, 1, BlurPool2d(2, pad_mode="zero"), kernel_size=1),
    }
    for block in blocks.values():
        nn.init.ones_(block[0].weight)  # type: ignore[arg-type] # of a Sequential

    values = {name: block.eval()(x).item() for name, block in blocks.items()}

    one = (1 + 1e-5) ** -0.5  # the norm divides by the root of variance + epsilon
    assert values["pool"] == pytest.approx(3 * one)
    assert values["blur"] == pytest.approx(3 * one)
    assert values["linear"] == -1.5


def test_the_linear_order_is_one_strided_convolution_of_six_taps() -> None:
    torch.manual_seed(0)
    block = LinearBlurConv(2, 3, BlurPool2d(taps=4, pad_mode="zero")).double()
    conv, blur = block[0], block[1]
    assert isinstance(conv, nn.Conv2d)
    assert isinstance(blur, BlurPool2d)
    kernel = blur.kernel.expand(6, 1, 4, 4)
    weight = conv.weight.reshape(1, 6, 3, 3)
    fused = F.conv2d(F.pad(weight, [3] * 4), kernel.flip(2, 3), groups=6).view(3, 2, 6, 6)
    x = random(1, 2, 24, 24).double()

    inside = F.conv2d(F.pad(x, (2, 3, 2, 3)), fused, stride=2)[..., 2:-2, 2:-2]

    assert torch.allclose(block(x)[..., 2:-2, 2:-2], inside, atol=1e-12)


@pytest.mark.parametrize("block", [ConvPool, StridedConv, AntialiasedConv, LinearBlurConv])
@torch.inference_mode()
def test_a_shift_by_the_stride_moves_each_block_by_one_sample(block: type[nn.Module]) -> None:
    x, layer = random(2, 2, 8, 12), circular(block)

    moved = layer(x.roll((2, -4), dims=(2, 3)))

    assert torch.allclose(moved, layer(x).roll((1, -2), dims=(2, 3)), atol=1e-6)


@torch.inference_mode()
def test_blur_behind_the_activation_is_closer_to_a_half_sample_shift_than_before_it() -> None:
    def error(layer: nn.Module) -> float:
        out, moved = layer(x).relu(), layer(x.roll(1, dims=3)).relu()
        frequency = torch.fft.fftfreq(out.shape[3])
        shifted = torch.fft.ifft(torch.fft.fft(out) * torch.exp(-1j * torch.pi * frequency)).real
        return ((shifted - moved).norm() / moved.norm()).item()

    x = random(8, 2, 32, 32)

    assert error(circular(AntialiasedConv)) < 0.6 * error(circular(LinearBlurConv))
    assert error(circular(LinearBlurConv)) < 0.8 * error(circular(StridedConv))


@pytest.mark.parametrize("block", BLOCKS)
def test_every_parameter_of_a_block_gets_a_gradient(
    block: Callable[[int, int], nn.Module],
) -> None:
    torch.manual_seed(0)
    layer = block(2, 3)

    layer(random(4, 2, 8, 8)).square().sum().backward()

    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_a_block_is_made_from_any_downsampling(kind: DownsamplingKind) -> None:
    block = downsampling_block(3, 5, Downsampling(kind, stride=4), kernel_size=5)

    assert block(random(2, 3, 8, 12)).shape == (2, 5, 2, 3)
    assert list(block.state_dict())[:2] == ["0.weight", "1.weight"]
    assert "pad_mode=circular" in repr(block[0])


class EveryBlock(nn.Module):
    """The outputs of the four blocks side by side."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(block(2, 3) for block in BLOCKS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([block(x) for block in self.blocks], dim=1)


def test_exported_blocks_compute_the_same(parity: Parity) -> None:
    assert parity(EveryBlock(), random(5, 2, 8, 6)) <= 1e-5


@pytest.mark.parametrize("block", BLOCKS)
def test_an_even_kernel_is_refused(block: type[ConvPool]) -> None:
    with pytest.raises(ValueError, match="kernel_size must be odd, got 4"):
        block(1, 1, kernel_size=4)
