from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

from nyquist.export.graph.export import export_graph
from nyquist.models.layers.downsampling import DOWNSAMPLING_KINDS, Downsampling, DownsamplingKind
from nyquist.models.networks.compact import WIDTHS, CompactClassifier
from nyquist.server.runtime.engine import Engine
from nyquist.server.runtime.session_plan import Execution

SIZE = 16  # the smallest that four halvings leave something of


def network(kind: DownsamplingKind, widths: Sequence[int] = WIDTHS) -> CompactClassifier:
    """Return a network whose norms are no identities, in evaluation mode."""
    torch.manual_seed(0)
    classifier = CompactClassifier(Downsampling(kind), widths)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.05, 0.2)  # type: ignore[arg-type] # a buffer
    return classifier.eval()


def every_shift(picture: Tensor) -> Tensor:
    """Return all circular shifts of a picture. (C, H, W) -> (H * W, C, H, W)."""
    _, height, width = picture.shape
    shifts = [(dy, dx) for dy in range(height) for dx in range(width)]
    return torch.stack([picture.roll(shift, dims=(1, 2)) for shift in shifts])


@pytest.fixture(scope="module")
def shifted() -> Tensor:
    """All 256 circular shifts of one random picture."""
    return every_shift(torch.rand(1, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_every_family_has_the_same_parameters(kind: DownsamplingKind) -> None:
    classifier = CompactClassifier(Downsampling(kind))

    assert sum(parameter.numel() for parameter in classifier.parameters()) == 79_866


def test_every_family_has_the_same_state() -> None:
    shapes = [
        {name: value.shape for name, value in network(kind).state_dict().items()}
        for kind in DOWNSAMPLING_KINDS
    ]

    assert shapes
    assert all(other == shapes[0] for other in shapes)


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_a_batch_of_pictures_becomes_a_batch_of_logits(kind: DownsamplingKind) -> None:
    classifier = CompactClassifier(Downsampling(kind), num_classes=7, in_channels=3)

    assert classifier(torch.rand(2, 3, 48, 32)).shape == (2, 7)


def test_widths_are_a_choice() -> None:
    classifier = CompactClassifier(Downsampling("blur"), widths=(4, 8))

    assert classifier(torch.rand(2, 1, 4, 4)).shape == (2, 10)
    # 9 x 1 x 4 and 9 x 4 x 8 of the convolutions, 2 x 12 of the norms, 8 x 10 + 10 of the head
    assert sum(parameter.numel() for parameter in classifier.parameters()) == 36 + 288 + 24 + 90


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_a_bias_of_the_last_norm_reaches_the_logits_unchanged(kind: DownsamplingKind) -> None:
    classifier = CompactClassifier(Downsampling(kind)).eval()
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    *_, last_norm = (part for part in classifier.modules() if isinstance(part, nn.BatchNorm2d))
    nn.init.constant_(last_norm.bias, 0.5)
    nn.init.ones_(classifier.classifier.weight)
    nn.init.ones_(classifier.classifier.bias)

    logits = classifier(torch.rand(2, 1, SIZE, SIZE))

    assert torch.equal(logits, torch.full((2, 10), WIDTHS[-1] * 0.5 + 1))


def test_nothing_below_zero_leaves_the_last_stage() -> None:
    classifier = CompactClassifier(Downsampling("max_pool")).eval()
    for parameter in classifier.parameters():
        nn.init.zeros_(parameter)
    *_, last_norm = (part for part in classifier.modules() if isinstance(part, nn.BatchNorm2d))
    nn.init.constant_(last_norm.bias, -0.5)
    nn.init.ones_(classifier.classifier.weight)

    assert not classifier(torch.rand(2, 1, SIZE, SIZE)).any()


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
def test_every_parameter_gets_a_gradient(kind: DownsamplingKind) -> None:
    classifier = network(kind)

    classifier(torch.rand(4, 1, 32, 32)).square().sum().backward()

    for name, parameter in classifier.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@torch.inference_mode()
def test_polyphase_logits_do_not_change_under_any_circular_shift(shifted: Tensor) -> None:
    logits = network("polyphase")(shifted)

    assert (logits - logits[0]).abs().max().item() <= 1e-5
    assert logits.argmax(1).unique().numel() == 1


@pytest.mark.parametrize("kind", [kind for kind in DOWNSAMPLING_KINDS if kind != "polyphase"])
@torch.inference_mode()
def test_logits_of_the_other_families_do_change(kind: DownsamplingKind, shifted: Tensor) -> None:
    logits = network(kind)(shifted)

    assert (logits - logits[0]).abs().max().item() > 1e-3


@pytest.mark.parametrize("kind", DOWNSAMPLING_KINDS)
@torch.inference_mode()
def test_a_shift_by_all_strides_together_changes_no_logit(kind: DownsamplingKind) -> None:
    x = torch.rand(2, 1, 48, 64, generator=torch.Generator().manual_seed(0))
    classifier = network(kind)

    moved = classifier(x.roll((16, -32), dims=(2, 3)))

    assert (moved - classifier(x)).abs().max().item() <= 1e-5


class EveryFamily(nn.Module):
    """The logits of each family, of two stages, side by side: (B, 1, H, W) -> (B, 60)."""

    def __init__(self) -> None:
        super().__init__()
        self.families = nn.ModuleList(network(kind, (16, 32)) for kind in DOWNSAMPLING_KINDS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([family(x) for family in self.families], dim=1)


@pytest.fixture(scope="module")
def served() -> Callable[[Tensor], Tensor]:
    """EveryFamily as onnxruntime computes it, from one export: each costs seconds."""
    graph = export_graph(EveryFamily().eval(), torch.rand(2, 1, SIZE, SIZE)).graph
    engine = Engine(graph, Execution(provider="cpu", threads=1), max_batch_size=SIZE * SIZE)
    return lambda batch: torch.from_numpy(engine.run(batch.numpy())["logits"])


@pytest.mark.parametrize("batch_size", [1, 2, 9])
@torch.inference_mode()
def test_every_exported_family_computes_the_same(
    batch_size: int, served: Callable[[Tensor], Tensor]
) -> None:
    x = torch.rand(batch_size, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))

    logits = served(x)

    assert logits.shape == (batch_size, 60)
    assert (logits - EveryFamily().eval()(x)).abs().max().item() <= 1e-5


def test_served_polyphase_logits_do_not_change_under_any_circular_shift(
    shifted: Tensor, served: Callable[[Tensor], Tensor]
) -> None:
    logits = served(shifted).split(10, dim=1)[DOWNSAMPLING_KINDS.index("polyphase")]

    assert (logits - logits[0]).abs().max().item() <= 1e-5
    assert logits.argmax(1).unique().numel() == 1
