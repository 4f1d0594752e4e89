from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from nyquist.models.preprocessing import PreprocessedNetwork
from nyquist.models.spec import Layout, Preprocessing

Parity = Callable[[nn.Module, Tensor], float]

IDENTITY = nn.Identity()


def pixels(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def test_pixels_become_what_the_network_was_trained_on() -> None:
    picture = torch.tensor([0, 127, 255], dtype=torch.uint8).view(1, 1, 1, 3)

    out = PreprocessedNetwork(IDENTITY, Preprocessing("HWC", mean=127.0, scale=128.0))(picture)

    assert out.dtype == torch.float32
    assert out.shape == (1, 3, 1, 1)
    assert out.flatten().tolist() == [-127 / 128, 0, 1]


def test_channels_last_pictures_become_channels_first() -> None:
    picture = pixels(2, 4, 5, 3)

    out = PreprocessedNetwork(IDENTITY, Preprocessing("HWC"))(picture)

    assert out.shape == (2, 3, 4, 5)
    assert out.is_contiguous()
    for channel in range(3):
        assert torch.equal(out[:, channel], picture[..., channel].float())


def test_channels_first_pictures_keep_their_order() -> None:
    picture = pixels(2, 3, 4, 5)

    out = PreprocessedNetwork(IDENTITY, Preprocessing("CHW", mean=1.0, scale=2.0))(picture)

    assert torch.equal(out, (picture.float() - 1) / 2)


def test_by_default_a_float_picture_passes_unchanged() -> None:
    picture = torch.rand(2, 1, 4, 4)

    assert torch.equal(PreprocessedNetwork(IDENTITY, Preprocessing())(picture), picture)


@pytest.mark.parametrize(("mean", "scale"), [(1.0, 1.0), (0.0, 2.0)])
def test_a_mean_or_a_scale_alone_is_applied(mean: float, scale: float) -> None:
    preprocessing = Preprocessing(mean=mean, scale=scale)

    out = PreprocessedNetwork(IDENTITY, preprocessing)(torch.full((1, 1, 1, 1), 5.0))

    assert out.item() == (5 - mean) / scale


def test_the_network_behind_gets_what_comes_out() -> None:
    linear = nn.Linear(2, 1, bias=False)
    nn.init.ones_(linear.weight)
    network = nn.Sequential(nn.Flatten(), linear)
    picture = torch.tensor([3, 5], dtype=torch.uint8).view(1, 1, 1, 2)

    logits = PreprocessedNetwork(network, Preprocessing("HWC", mean=1.0, scale=2.0))(picture)

    assert logits.tolist() == [[(3 - 1) / 2 + (5 - 1) / 2]]


def test_the_gradient_of_a_picture_is_one_over_the_scale() -> None:
    picture = torch.rand(1, 4, 4, 3, requires_grad=True)

    preprocessed = PreprocessedNetwork(IDENTITY, Preprocessing("HWC", mean=127.0, scale=128.0))
    preprocessed(picture).sum().backward()

    assert picture.grad is not None
    assert torch.equal(picture.grad, torch.full((1, 4, 4, 3), 1 / 128))


@pytest.mark.parametrize(("layout", "axes"), [("CHW", (2, 3)), ("HWC", (1, 2))])
def test_a_shift_along_the_shift_axes_is_a_shift_of_height_and_width(
    layout: Layout, axes: tuple[int, int]
) -> None:
    preprocessing = Preprocessing(layout, mean=127.0, scale=128.0)
    network = PreprocessedNetwork(IDENTITY, preprocessing)
    picture = pixels(2, 3, 4, 5)

    moved = network(picture.roll((1, -2), dims=preprocessing.shift_axes))

    assert preprocessing.shift_axes == axes
    assert torch.equal(moved, network(picture).roll((1, -2), dims=(2, 3)))


def test_an_exported_preprocessing_computes_the_same_from_pixels(parity: Parity) -> None:
    torch.manual_seed(0)
    preprocessing = Preprocessing("HWC", mean=127.0, scale=128.0)

    assert (
        parity(PreprocessedNetwork(nn.Conv2d(3, 2, 3), preprocessing), pixels(5, 6, 7, 3)) <= 1e-5
    )


def test_an_unknown_layout_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match="'NHWC'; choose from CHW, HWC"):
        Preprocessing(layout="NHWC")  # type: ignore[arg-type] # the test's point


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_above_zero_is_refused(scale: float) -> None:
    with pytest.raises(ValueError, match=f"above 0 and finite, got {scale}"):
        Preprocessing(scale=scale)
