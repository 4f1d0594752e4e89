"""Networks that others write: what is right is exported, whatever operators it takes."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nyquist.companion.references.network import Reference
from nyquist.export.errors import ExportError
from nyquist.export.graph.export import export_graph
from nyquist.export.graph.ways import Way, open_session
from nyquist.models.loading import load_network
from nyquist.models.spec import ModelSpec


class Attention(nn.Module):
    """A block of a vision transformer: patches, a class token, scaled_dot_product_attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, stride=4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.mix, self.head = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patches(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        batch, length, width = x.shape
        mixed = self.mix(self.norm(x)).reshape(batch, length, 3, 2, width // 2)
        query, key, value = mixed.permute(2, 0, 3, 1, 4).unbind(0)
        seen = F.scaled_dot_product_attention(query, key, value)
        return self.head((x + seen.transpose(1, 2).reshape(batch, length, width))[:, 0])


class Permuted(nn.Module):
    """A block of ConvNeXt: the norm and the linear layers see the channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm, self.wide, self.head = nn.LayerNorm(8), nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image)
        x = x + F.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


class Strongest(nn.Module):
    """Pools the three strongest places of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.conv(image).flatten(2).topk(3, dim=2).values.mean(2))


class LastInside(nn.Module):
    """Goes over to channels_last in its own forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.conv(image.contiguous(memory_format=torch.channels_last))
        return self.head(x.mean((2, 3)))


def normed(norm: nn.Module) -> nn.Module:
    pool = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 3), norm, *pool)


class Undecided(nn.Module):
    """Does one thing or another, depending on what it sees."""

    def forward(self, image: Tensor) -> Tensor:
        if image.sum() > 0:
            return image.mean((2, 3))
        return image.amax((2, 3))


def test_what_torch_export_objects_to_is_told_in_its_words_with_the_line_of_the_network(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ExportError) as error:
        export_graph(Undecided().eval(), torch.randn(2, 3, 16, 16))
    told = str(error.value)
    assert told.startswith("torch.onnx.export: Could not guard on data-dependent expression")
    assert "test_foreign_networks.py:" in told
    assert told.endswith(": if image.sum() > 0:")
    assert "\n" not in told
    assert capfd.readouterr() == ("", "")


class OneHead(nn.Module):
    """Attention without an axis of heads, which torch takes and its exporter does not."""

    def forward(self, image: Tensor) -> Tensor:
        rows = image.flatten(2)
        return F.scaled_dot_product_attention(rows, rows, rows).mean(2)


def test_what_the_exporter_objects_to_is_told_without_the_line_of_a_library() -> None:
    with pytest.raises(ExportError) as error:
        export_graph(OneHead().eval(), torch.randn(2, 3, 4, 4))
    said = "torch.onnx.export: only 4D query, key, and value are supported"
    assert str(error.value) == said


def channels_last() -> nn.Module:
    network = normed(nn.BatchNorm2d(8))
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # in no stub
    return network


def test_a_network_in_channels_last_is_brought_back_before_it_is_exported() -> None:
    spec = ModelSpec(
        name="last",
        architecture=f"{__name__}:channels_last",
        options={},
        weights=None,
        labels=(),
        samples="photographs",
        input=(3, 16, 16),
    )
    first = load_network(spec).get_parameter("0.weight")
    assert first.is_contiguous()


@pytest.mark.parametrize(
    "make",
    [
        Attention,
        Permuted,
        Strongest,
        LastInside,
        lambda: normed(nn.GroupNorm(2, 8)),
        lambda: normed(nn.InstanceNorm2d(8, affine=True)),
        lambda: normed(nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
        channels_last,
    ],
)
def test_a_network_that_is_right_is_exported_for_any_batch(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    network = make().eval()
    graph = export_graph(network, torch.randn(2, 3, 16, 16)).graph
    session = open_session(graph, Way(optimised=True, threads=1))
    for batch in (1, 2, 5):
        pictures = np.random.default_rng(batch).standard_normal((batch, 3, 16, 16), np.float32)
        (served,) = session.run(None, {"image": pictures})
        assert np.abs(served - Reference(network).predict(pictures)).max() < 1e-5
