from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from nyquist.export.graph.export import export_graph
from nyquist.models.layers.blur import BlurPool2d
from nyquist.models.layers.downsampling import (
    DOWNSAMPLING_KINDS,
    PLAIN,
    Downsampling,
    DownsamplingKind,
)
from nyquist.models.networks.resnet import (
    RESNETS,
    BasicBlock,
    Block,
    Bottleneck,
    BottleneckV1,
    ResNet,
    Site,
)
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution

BLOCKS: tuple[Block, ...] = (BasicBlock, Bottleneck, BottleneckV1)
SMALL = (8, 12, 16, 24)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def published(kind: DownsamplingKind) -> Downsampling:
    """Return a downsampling with the borders of the published networks."""
    return Downsampling(kind, taps=4, pad_mode="reflect", conv_pad_mode="zero")


def small(block: Block, downsampling: Downsampling, widths: Sequence[int] = SMALL) -> ResNet:
    """Return a narrow network of a block a group, with logits of unit range, for evaluation."""
    torch.manual_seed(0)
    depths = [1] * len(widths)
    network = ResNet(block, depths, downsampling, num_classes=10, widths=widths).eval()
    with torch.inference_mode():
        scale = network(random(4, 3, 64, 64)).abs().max()
        for parameter in network.get_submodule("fc").parameters():
            parameter.div_(scale)
    return network


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_each_depth_has_the_published_number_of_parameters(name: str, parameters: int) -> None:
    block, depths = RESNETS[name]
    with torch.device("meta"):
        network = ResNet(block, depths)

    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_every_family_has_the_state_of_the_plain_network(
    kind: DownsamplingKind, block: Block
) -> None:
    plain = ResNet(block, (1, 2, 1, 1), widths=SMALL).state_dict()

    state = ResNet(block, (1, 2, 1, 1), published(kind), widths=SMALL).state_dict()

    assert list(state) == list(plain)
    assert [value.shape for value in state.values()] == [value.shape for value in plain.values()]


def test_names_are_those_of_torchvision() -> None:
    names = list(ResNet(Bottleneck, (1, 2, 1, 1), published("blur"), widths=SMALL).state_dict())

    assert names[0] == "conv1.weight"
    assert "bn1.running_var" in names
    assert "layer1.0.downsample.0.weight" in names
    assert "layer2.0.conv3.weight" in names
    assert "layer2.0.downsample.1.bias" in names
    assert "layer2.1.downsample.0.weight" not in names
    assert names[-2:] == ["fc.weight", "fc.bias"]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
@torch.inference_mode()
def test_a_batch_of_pictures_becomes_a_batch_of_logits(
    kind: DownsamplingKind, block: Block
) -> None:
    network = ResNet(
        block, (1, 1, 1, 1), published(kind), num_classes=7, in_channels=1, widths=SMALL
    ).eval()

    assert network(random(2, 1, 64, 96)).shape == (2, 7)
    features = nn.Sequential(*list(network.children())[:-3])  # without mean, flatten and fc
    assert features(random(2, 1, 128, 192)).shape[2:] == (4, 6)


@pytest.mark.parametrize(
    ("block", "strides"),
    [(BasicBlock, (2, 1)), (Bottleneck, (1, 2, 1)), (BottleneckV1, (2, 1, 1))],
)
def test_the_stride_stands_where_the_version_of_the_block_has_it(
    block: Block, strides: tuple[int, ...]
) -> None:
    def found(layer: nn.Module) -> tuple[int, ...]:
        parts = dict(layer.named_children())
        convolutions = [parts[f"conv{n + 1}"] for n in range(len(strides))]
        return tuple(conv.stride[0] for conv in convolutions if isinstance(conv, nn.Conv2d))

    assert found(block(4, 4, Site(PLAIN, halves=True))) == strides
    assert found(block(4, 4, Site(PLAIN))) == (1,) * len(strides)
    assert found(block(4, 4, Site(published("blur"), halves=True))) == (1,) * len(strides)


@pytest.mark.parametrize("block", BLOCKS)
@torch.inference_mode()
def test_blur_of_one_tap_is_the_plain_block(block: Block) -> None:
    subsampling = Downsampling("blur", taps=1, pad_mode="zero")
    plain = block(4, 4, Site(PLAIN, halves=True)).eval()
    blurred = block(4, 4, Site(subsampling, halves=True)).eval()
    blurred.load_state_dict(plain.state_dict())
    x = random(2, 4, 8, 12)

    assert torch.allclose(blurred(x), plain(x), atol=1e-5)


@torch.inference_mode()
def test_the_shortcut_of_zhang_is_blurred_and_that_of_timm_strided() -> None:
    x = random(2, 4, 8, 12)
    for placement in ("zhang", "timm"):
        block = BasicBlock(4, 6, Site(published("blur"), halves=True, placement=placement)).eval()
        nn.init.zeros_(block.bn2.weight)
        conv, norm = block.downsample.children()
        assert isinstance(conv, nn.Conv2d)
        if placement == "zhang":
            assert conv.stride == (1, 1)
            expected = norm(conv(BlurPool2d(taps=4)(x))).relu()
        else:
            assert conv.stride == (2, 2)
            expected = norm(conv(x)).relu()

        assert torch.equal(block(x), expected)


@torch.inference_mode()
def test_an_identity_block_adds_its_input() -> None:
    block = Bottleneck(16, 4, Site(published("blur"))).eval()
    nn.init.zeros_(block.bn3.weight)
    x = random(2, 16, 5, 7)

    assert torch.equal(block(x), x.relu())


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_every_parameter_gets_a_gradient(kind: DownsamplingKind, block: Block) -> None:
    torch.manual_seed(0)
    network = ResNet(block, (1, 1, 1, 1), published(kind), num_classes=5, widths=SMALL)

    network(random(4, 3, 64, 64)).square().sum().backward()

    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


SHIFTS = [(0, 0), (1, 0), (0, 1), (1, 1), (2, 3), (7, 12), (16, 5), (31, 33), (40, 63), (63, 62)]


@pytest.fixture(scope="module")
def shifted() -> Tensor:
    """Circular shifts of one random picture."""
    picture = random(3, 64, 64)
    return torch.stack([picture.roll(shift, dims=(1, 2)) for shift in SHIFTS])


@pytest.mark.parametrize("block", BLOCKS)
@torch.inference_mode()
def test_polyphase_logits_do_not_change_under_circular_shifts(
    block: Block, shifted: Tensor
) -> None:
    logits = small(block, Downsampling("polyphase", pad_mode="circular"))(shifted)

    assert (logits - logits[0]).abs().max().item() <= 1e-4
    assert logits.argmax(1).unique().numel() == 1


@pytest.mark.parametrize("kind", [kind for kind in DOWNSAMPLING_KINDS if kind != "polyphase"])
@torch.inference_mode()
def test_logits_of_the_other_families_do_change(kind: DownsamplingKind, shifted: Tensor) -> None:
    logits = small(BasicBlock, Downsampling(kind, taps=4, pad_mode="circular"))(shifted)

    assert (logits - logits[0]).abs().max().item() > 1e-3


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
@torch.inference_mode()
def test_a_shift_by_all_strides_together_changes_no_logit(kind: DownsamplingKind) -> None:
    network = small(Bottleneck, Downsampling(kind, taps=4, pad_mode="circular"))
    x = random(2, 3, 64, 96)

    moved = network(x.roll((32, -64), dims=(2, 3)))

    assert (moved - network(x)).abs().max().item() <= 1e-4


class TwoVersions(nn.Module):
    """Logits of a polyphase network and of one that blurs, side by side: (B, 20)."""

    def __init__(self) -> None:
        super().__init__()
        polyphase = Downsampling("polyphase", pad_mode="circular")
        self.networks = nn.ModuleList(
            [
                small(BasicBlock, polyphase, SMALL[:3]),
                small(Bottleneck, published("blur"), SMALL[:2]),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([network(x) for network in self.networks], dim=1)


@pytest.fixture(scope="module")
def served() -> Callable[[Tensor], Tensor]:
    """TwoVersions as onnxruntime computes it, from one export: each costs seconds."""
    graph = export_graph(TwoVersions().eval(), random(2, 3, 64, 64)).graph
    engine = Engine(graph, Execution(provider="cpu", threads=1), max_batch_size=len(SHIFTS))
    return lambda batch: torch.from_numpy(engine.run(batch.numpy())["logits"])


@pytest.mark.parametrize("batch_size", [1, len(SHIFTS)])
@torch.inference_mode()
def test_exported_networks_compute_the_same(
    batch_size: int, served: Callable[[Tensor], Tensor], shifted: Tensor
) -> None:
    batch = shifted[:batch_size]

    assert (served(batch) - TwoVersions().eval()(batch)).abs().max().item() <= 1e-4


def test_served_polyphase_logits_do_not_change_under_circular_shifts(
    served: Callable[[Tensor], Tensor], shifted: Tensor
) -> None:
    logits = served(shifted)[:, :10]

    assert (logits - logits[0]).abs().max().item() <= 1e-4
    assert logits.argmax(1).unique().numel() == 1


def test_polyphase_with_a_strided_shortcut_is_refused() -> None:
    with pytest.raises(ValueError, match="polyphase needs 'zhang'"):
        Site(Downsampling("polyphase"), placement="timm")


def test_an_unknown_placement_is_refused_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"'before'.*zhang, timm"):
        Site(PLAIN, placement="before")  # type: ignore[arg-type] # the test's point


def test_depths_and_widths_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        ResNet(BasicBlock, (1, 1))
