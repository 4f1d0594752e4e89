from pathlib import Path

import pytest
import torch
from torch import nn

from nyquist import models
from nyquist.models.analysis.gradient_monitor import GradientMonitor
from nyquist.models.analysis.gradients import (
    coverage,
    gradient_pattern,
    gradient_statistics,
    standard_downsamplers,
)
from tests.analysis.networks import resnet

NOISE = torch.randn(4, 8, 28, 28, generator=torch.Generator().manual_seed(0))
LAYERS = standard_downsamplers(channels=8)


@pytest.mark.parametrize(
    ("name", "sparsity"),
    [
        ("max 2x2 s2", 0.75),
        ("avg 2x2 s2", 0.0),
        ("conv 1x1 s2", 0.75),
        ("conv 2x2 s2", 0.0),
        ("conv 3x3 s2 p1", 0.0),
        ("conv 4x4 s2 p1", 0.0),
        ("conv 3x3 s2 p0", 1 - (27 / 28) ** 2),
        ("conv 3x3 s4 p1", 1 - (20 / 28) ** 2),
    ],
)
def test_the_share_of_inputs_without_gradient_is_what_the_windows_say(
    name: str, sparsity: float
) -> None:
    assert gradient_statistics(LAYERS[name], NOISE).sparsity == pytest.approx(sparsity, abs=1e-9)


def test_an_overlapping_maximum_leaves_84_percent_without_gradient() -> None:
    statistics = gradient_statistics(LAYERS["max 3x3 s2 p1"], NOISE)

    assert statistics.sparsity == pytest.approx(0.838, abs=0.005)


def test_maximum_and_mean_both_preserve_the_sum_and_the_mean_halves_the_norm() -> None:
    largest = gradient_statistics(LAYERS["max 2x2 s2"], NOISE)
    mean = gradient_statistics(LAYERS["avg 2x2 s2"], NOISE)

    assert largest.sum_ratio == pytest.approx(1, abs=1e-4)
    assert mean.sum_ratio == pytest.approx(1, abs=1e-4)
    assert largest.norm_ratio == pytest.approx(1, abs=1e-4)
    assert mean.norm_ratio == pytest.approx(0.5, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "position", "count"),
    [
        ("max 2x2 s2", (1, 1), 1),
        ("avg 2x2 s2", (1, 1), 4),
        ("conv 2x2 s2", (1, 1), 4),
        ("conv 3x3 s2 p1", (1, 1), 9),
        ("conv 3x3 s2 p1", (0, 0), 4),  # the rest of its window is padding
    ],
)
def test_one_position_of_an_8x8_map_reaches_so_many_inputs(
    name: str, position: tuple[int, int], count: int
) -> None:
    pattern = gradient_pattern(standard_downsamplers()[name], 8, position)

    assert pattern.shape == (8, 8)
    assert pattern.count_nonzero() == count


def test_a_3x3_stride_2_convolution_covers_its_input_as_a_checkerboard() -> None:
    counts = coverage(standard_downsamplers()["conv 3x3 s2 p1"], 8)

    assert counts[:4, :4].tolist() == [[1, 2, 1, 2], [2, 4, 2, 4], [1, 2, 1, 2], [2, 4, 2, 4]]


def test_a_4x4_stride_2_convolution_covers_the_inside_evenly() -> None:
    counts = coverage(standard_downsamplers()["conv 4x4 s2 p1"], 8)

    assert counts[1:-1, 1:-1].unique().tolist() == [4]


def test_the_weights_of_the_standard_layers_do_not_touch_the_global_generator() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    standard_downsamplers()

    assert torch.equal(torch.rand(1), expected)


def test_the_monitor_reports_a_residual_network_with_in_place_relu_layer_by_layer() -> None:
    network = resnet(18)
    picture = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    with GradientMonitor(network) as monitor:
        network(picture).square().sum().backward()

    report = {layer.name: layer for layer in monitor.report()}
    leaves = {n for n, m in network.named_modules() if not list(m.children())}
    identities = {n for n in leaves if n.endswith("blur") or ".downsample.0" in n}
    assert set(report) | identities == leaves
    assert report["1.0_0.relu"].passes == 2
    assert report["0.1"].kind == "ReLU"
    assert all(layer.norm > 0 for layer in report.values())


def test_the_monitor_reports_what_autograd_computes() -> None:
    first, second = nn.Linear(3, 4), nn.ReLU(inplace=True)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    hidden = first(x)
    (expected,) = torch.autograd.grad(torch.relu(hidden).square().sum(), hidden)

    with GradientMonitor(nn.Sequential(first, second)) as monitor:
        second(first(x)).square().sum().backward()

    before, after = monitor.report()
    assert (before.name, after.name) == ("0", "1")
    assert before.mean_magnitude == pytest.approx(expected.abs().mean().item())
    assert before.deviation == pytest.approx(expected.std(correction=0).item())
    assert before.sparsity == pytest.approx((expected == 0).double().mean().item())
    assert before.norm == pytest.approx(expected.norm().item())


class Scalars:
    """What a writer was given."""

    def __init__(self) -> None:
        self.given: list[tuple[str, float, int]] = []

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        self.given.append((tag, scalar_value, global_step))


def test_the_monitor_keeps_the_steps_of_a_training_writes_and_draws_them(tmp_path: Path) -> None:
    network, writer = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), Scalars()
    with GradientMonitor(network, writer) as monitor:
        for scale in (1.0, 3.0):
            (scale * network(torch.ones(1, 2))).sum().backward()
            monitor.step()

    first, second = monitor.history
    assert [line.passes for line in (*first, *second)] == [1] * 4
    assert second[1].norm == pytest.approx(3 * first[1].norm)
    assert [(tag, step) for tag, _, step in writer.given] == [
        (f"gradient_norm/{layer}", step) for step in (0, 1) for layer in ("0", "1")
    ]
    assert [norm for _, norm, _ in writer.given] == [line.norm for line in (*first, *second)]
    monitor.plot(tmp_path / "gradients.png")
    assert (tmp_path / "gradients.png").stat().st_size > 5000
    with pytest.raises(ValueError, match="no step was ended"):
        GradientMonitor(network).plot(tmp_path / "none.png")


def test_the_names_of_courses_are_those_of_ours() -> None:
    assert models.GradientFlowMonitor is GradientMonitor
    assert models.PoolingDownBlock is models.ConvPool
    assert models.StridedDownBlock is models.StridedConv
    assert models.AntialiasedStridedConv is models.AntialiasedConv


def test_the_monitor_leaves_no_hook_and_hears_nothing_after_it() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    with GradientMonitor(network) as monitor:
        loss = network(torch.ones(1, 2)).sum()
    loss.backward()
    network(torch.ones(1, 2)).sum().backward()

    assert monitor.report() == ()


def test_the_monitor_removes_its_hooks_when_training_fails() -> None:
    network = nn.Sequential(nn.Linear(2, 2))

    with pytest.raises(RuntimeError), GradientMonitor(network) as monitor:
        network(torch.ones(1, 3))
    network(torch.ones(1, 2)).sum().backward()

    assert monitor.report() == ()


def test_a_pass_without_gradients_is_not_reported() -> None:
    network = nn.Sequential(nn.Linear(2, 2))

    with GradientMonitor(network) as monitor, torch.no_grad():
        network(torch.ones(1, 2))

    assert monitor.report() == ()


def test_a_single_element_has_no_deviation() -> None:
    network = nn.Sequential(nn.Linear(2, 1))

    with GradientMonitor(network) as monitor:
        network(torch.ones(1, 2)).sum().backward()

    assert monitor.report()[0].deviation == 0
