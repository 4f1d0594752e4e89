import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nyquist.export.graph.export import export_graph
from nyquist.models.analysis.window import Window
from nyquist.models.layers.blur import MAX_TAPS, BlurPool2d, blur_kernel, blur_pool2d
from nyquist.models.layers.padding import PAD_MODES, PadMode
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution

Parity = Callable[[nn.Module, Tensor], float]

ALL_TAPS = range(1, MAX_TAPS + 1)
BORDERLESS_MODES: tuple[PadMode, ...] = ("reflect", "replicate", "circular")


def integers(*shape: int, seed: int = 0) -> Tensor:
    """Return random whole numbers as float32: blurring them rounds nothing, in any order."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).float()


def row_of(values: list[float]) -> Tensor:
    """Return a map whose rows are all alike, so that it is blurred along one axis alone."""
    row = torch.tensor(values, dtype=torch.float32)
    return row.expand(1, 1, len(values), len(values)).contiguous()


@pytest.mark.parametrize(
    ("taps", "row"),
    [
        (1, [1]),
        (2, [1, 1]),
        (3, [1, 2, 1]),
        (4, [1, 3, 3, 1]),
        (5, [1, 4, 6, 4, 1]),
        (6, [1, 5, 10, 10, 5, 1]),
        (7, [1, 6, 15, 20, 15, 6, 1]),
    ],
)
def test_the_kernel_is_a_row_of_pascals_triangle_times_itself(taps: int, row: list[int]) -> None:
    kernel = blur_kernel(taps)

    assert kernel.shape == (taps, taps)
    assert kernel.sum() == 1
    for k, a in enumerate(row):
        for m, b in enumerate(row):
            assert kernel[k, m] * 4 ** (taps - 1) == a * b


@pytest.mark.parametrize("taps", ALL_TAPS)
def test_the_frequency_response_is_a_power_of_a_cosine(taps: int) -> None:
    kernel = blur_kernel(taps).double()
    index = torch.arange(taps, dtype=torch.double)
    for vertical in torch.linspace(0, math.pi, 9, dtype=torch.double):
        for horizontal in torch.linspace(0, math.pi, 9, dtype=torch.double):
            wave = torch.outer(
                torch.exp(-1j * vertical * index), torch.exp(-1j * horizontal * index)
            )
            response = (kernel * wave).sum().abs().item()
            expected = (math.cos(vertical / 2) * math.cos(horizontal / 2)) ** (taps - 1)
            assert response == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("taps", [0, -1, 8])
def test_a_number_of_taps_out_of_range_is_refused(taps: int) -> None:
    with pytest.raises(ValueError, match=rf"1\.\.7, got {taps}"):
        blur_kernel(taps)
    with pytest.raises(ValueError, match=rf"1\.\.7, got {taps}"):
        BlurPool2d(taps=taps)


@pytest.mark.parametrize("stride", [0, -2])
def test_a_stride_below_one_is_refused(stride: int) -> None:
    with pytest.raises(ValueError, match=f"at least 1, got {stride}"):
        BlurPool2d(stride=stride)


def test_an_unknown_pad_mode_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'same'.*reflect, replicate, zero, circular"):
        BlurPool2d(pad_mode="same")  # type: ignore[arg-type] # the test's point


@pytest.mark.parametrize("pad_mode", PAD_MODES)
@pytest.mark.parametrize("taps", ALL_TAPS)
def test_the_output_is_the_size_over_the_stride_rounded_up(taps: int, pad_mode: PadMode) -> None:
    for stride in (1, 2, 3):
        pool = BlurPool2d(taps, stride, pad_mode)
        for height in range(4, 34):
            width = 37 - height
            out = pool(torch.ones(1, 1, height, width))
            assert out.shape == (1, 1, math.ceil(height / stride), math.ceil(width / stride))


@given(
    height=st.integers(4, 33),
    width=st.integers(4, 33),
    taps=st.integers(1, MAX_TAPS),
    stride=st.integers(1, 4),
    pad_mode=st.sampled_from(PAD_MODES),
    seed=st.integers(0, 99),
)
@settings(max_examples=100, deadline=None)
def test_blurring_never_leaves_the_range_of_its_input(
    height: int, width: int, taps: int, stride: int, pad_mode: PadMode, seed: int
) -> None:
    x = integers(2, 3, height, width, seed=seed) + 1

    out = BlurPool2d(taps, stride, pad_mode)(x)

    assert out.shape == (2, 3, math.ceil(height / stride), math.ceil(width / stride))
    assert out.max() <= x.max()
    assert out.min() >= (0 if pad_mode == "zero" else x.min())
    assert out.min() > 0


@pytest.mark.parametrize("pad_mode", BORDERLESS_MODES)
@pytest.mark.parametrize("taps", ALL_TAPS)
def test_a_constant_map_stays_constant_under_every_pad_mode_but_zero(
    taps: int, pad_mode: PadMode
) -> None:
    x = torch.full((1, 2, 9, 10), 3.0)

    assert torch.equal(BlurPool2d(taps, 2, pad_mode)(x), torch.full((1, 2, 5, 5), 3.0))


@pytest.mark.parametrize(
    ("taps", "first", "last"),
    [
        (1, 1.0, 1.0),
        (2, 1.0, 1.0),
        (3, 3 / 4, 1.0),
        (4, 7 / 8, 7 / 8),
        (5, 11 / 16, 15 / 16),
    ],
)
def test_zero_padding_dims_the_border_of_an_even_map_by_the_taps_outside(
    taps: int, first: float, last: float
) -> None:
    out = BlurPool2d(taps, 2, "zero")(torch.ones(1, 1, 8, 8))[0, 0]

    assert out[0, 0] == first**2  # 3 taps .5625, 4 taps .766, 5 taps .473
    assert out[0, 1] == out[1, 0] == first
    assert out[-1, -1] == last**2
    assert out[0, -1] == first * last
    assert out[1, 1] == 1


@pytest.mark.parametrize(
    ("taps", "impulse", "expected"),
    [
        (1, [8, 0, 0, 0, 0, 0, 0, 0], [8, 0, 0, 0]),
        (1, [0, 8, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0]),
        (2, [0, 8, 0, 0, 0, 0, 0, 0], [4, 0, 0, 0]),
        (3, [8, 0, 0, 0, 0, 0, 0, 0], [4, 0, 0, 0]),
        (3, [0, 8, 0, 0, 0, 0, 0, 0], [2, 2, 0, 0]),
        (4, [8, 0, 0, 0, 0, 0, 0, 0], [3, 0, 0, 1]),
        (4, [0, 8, 0, 0, 0, 0, 0, 0], [3, 1, 0, 0]),
        (5, [16, 0, 0, 0, 0, 0, 0, 0], [6, 1, 0, 1]),
    ],
)
def test_an_impulse_spreads_over_the_samples_that_its_taps_reach(
    taps: int, impulse: list[float], expected: list[float]
) -> None:
    out = BlurPool2d(taps, 2, "circular")(row_of(impulse))

    assert out[0, 0].tolist() == [expected] * 4
    columns = BlurPool2d(taps, 2, "circular")(row_of(impulse).transpose(2, 3))
    assert columns[0, 0].T.tolist() == [expected] * 4


def test_one_tap_is_plain_subsampling() -> None:
    x = integers(2, 3, 9, 8)

    assert torch.equal(BlurPool2d(1, 3, "reflect")(x), x[:, :, ::3, ::3])


def test_two_taps_on_an_even_map_are_average_pooling() -> None:
    x = integers(2, 3, 8, 6)

    assert torch.equal(BlurPool2d(2, 2, "zero")(x), F.avg_pool2d(x, 2))


@pytest.mark.parametrize("taps", range(2, MAX_TAPS + 1))
def test_the_fastest_wave_vanishes(taps: int) -> None:
    wave = row_of([1.0, -1.0] * 6)

    assert torch.equal(BlurPool2d(taps, 2, "circular")(wave), torch.zeros(1, 1, 6, 6))


def test_without_blur_the_fastest_wave_becomes_a_constant() -> None:
    wave = row_of([1.0, -1.0] * 6)

    assert torch.equal(BlurPool2d(1, 2, "circular")(wave), torch.ones(1, 1, 6, 6))


def test_channels_do_not_mix() -> None:
    x = torch.zeros(1, 3, 6, 6)
    x[:, 1] = integers(6, 6) + 1

    out = BlurPool2d(4, 2, "replicate")(x)

    assert out[:, 1].min() > 0
    assert not out[:, [0, 2]].any()


@pytest.mark.parametrize("taps", ALL_TAPS)
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_shift_by_the_stride_moves_the_output_by_exactly_one_sample(
    taps: int, stride: int
) -> None:
    pool = BlurPool2d(taps, stride, "circular")
    x = integers(2, 3, 12, 18)

    moved = pool(x.roll((stride, -2 * stride), dims=(2, 3)))

    assert torch.equal(moved, pool(x).roll((1, -2), dims=(2, 3)))


def test_more_taps_make_a_shift_by_one_matter_less() -> None:
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0)) - 0.5

    def change(taps: int) -> float:
        pool = BlurPool2d(taps, 2, "circular")
        before: Tensor = pool(x)
        after: Tensor = pool(x.roll(1, dims=3))
        return float((after - before).norm() / before.norm())

    changes = [change(taps) for taps in ALL_TAPS]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] > 2 * changes[-1]


def test_the_kernel_is_no_part_of_the_checkpoint() -> None:
    pool = BlurPool2d()

    assert pool.state_dict() == {}
    assert list(pool.parameters()) == []


def test_the_kernel_is_a_buffer_that_follows_the_module() -> None:
    pool = BlurPool2d(3)

    assert [name for name, _ in pool.named_buffers()] == ["kernel"]
    assert pool.to("meta").kernel.is_meta


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_output_has_the_type_of_the_input(dtype: torch.dtype) -> None:
    x = torch.ones(1, 1, 6, 6, dtype=dtype)

    out = BlurPool2d(3)(x)

    assert out.dtype == dtype
    assert torch.equal(out, torch.ones(1, 1, 3, 3, dtype=dtype))


@pytest.mark.parametrize("pad_mode", PAD_MODES)
@pytest.mark.parametrize("taps", [2, 3, 4, 7])
def test_the_gradient_is_right(taps: int, pad_mode: PadMode) -> None:
    x = torch.rand(1, 2, 5, 4, dtype=torch.double, requires_grad=True)

    assert torch.autograd.gradcheck(BlurPool2d(taps, 2, pad_mode), x)


def test_three_taps_give_every_pixel_of_a_circular_map_a_gradient() -> None:
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)

    BlurPool2d(3, 2, "circular")(x).sum().backward()

    assert x.grad is not None
    assert x.grad.unique().tolist() == [0.25]


def test_the_function_is_what_the_module_computes() -> None:
    x = integers(1, 2, 7, 7)

    expected = BlurPool2d(5)(x)

    assert torch.equal(blur_pool2d(x, blur_kernel(5), 2, "reflect"), expected)


class EveryBlur(nn.Module):
    """The outputs of an odd and an even blur under each pad mode, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.pools = nn.ModuleList(
            BlurPool2d(taps, 2, pad_mode) for taps in (3, 6) for pad_mode in PAD_MODES
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([pool(x) for pool in self.pools], dim=1)


def test_an_exported_blur_computes_the_same(parity: Parity) -> None:
    torch.manual_seed(0)

    assert parity(EveryBlur(), torch.randn(5, 2, 8, 9)) <= 1e-5


def test_the_module_shows_its_options() -> None:
    assert repr(BlurPool2d(5, 2, "zero")) == "BlurPool2d(taps=5, stride=2, pad_mode=zero)"


def test_a_map_of_integers_is_refused_instead_of_blurred_to_nothing() -> None:
    with pytest.raises(ValueError, match=r"floating point is needed, got torch\.int64"):
        BlurPool2d(taps=3)(torch.ones(1, 1, 4, 4, dtype=torch.int64))


@settings(max_examples=10, deadline=None)
@given(
    height=st.integers(4, 17),
    width=st.integers(4, 17),
    taps=st.integers(1, 7),
    stride=st.integers(1, 3),
    pad_mode=st.sampled_from(PAD_MODES),
)
def test_formula_layer_and_exported_layer_agree_on_any_map(
    height: int, width: int, taps: int, stride: int, pad_mode: PadMode
) -> None:
    layer = BlurPool2d(taps, stride, pad_mode)
    x = torch.rand(3, 2, height, width, generator=torch.Generator().manual_seed(0))
    graph = export_graph(layer.eval(), x[:2]).graph
    served = Engine(graph, Execution(provider="cpu"), max_batch_size=3).run(x.numpy())["logits"]
    window = Window(taps, stride, pad_before=(taps - 1) // 2, pad_after=taps // 2)

    assert served.shape == (3, 2, window.output_size(height), window.output_size(width))
    assert np.abs(served.astype(np.float32) - layer(x).numpy()).max() <= 1e-6
