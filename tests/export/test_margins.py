"""Polyphase selections that onnxruntime may make otherwise are counted, true ties are not."""

import torch
from torch import Tensor, nn

from nyquist.export.graph.margins import ROUNDING, distinct_margin, measure_margins, misses
from nyquist.models.layers.polyphase import PolyphasePair, PolyphasePool2d
from nyquist.models.samples import fashion_samples
from tests.export.exporting import fashion_network


def components(*maps: list[float]) -> Tensor:
    """Return components of one row each, (1, K, 1, 1, W)."""
    return torch.tensor(maps).reshape(1, len(maps), 1, 1, -1)


def test_the_margin_is_that_to_the_next_of_other_content_by_hand() -> None:
    assert distinct_margin(components([0, 5], [0, 4], [1, 1])).tolist() == [0.2]
    assert distinct_margin(components([0, 5], [0, 5], [0, 4])).tolist() == [0.2]
    assert distinct_margin(components([0, 5], [5, 0])).tolist() == [0]


def test_nothing_is_chosen_where_all_have_the_same_content() -> None:
    assert distinct_margin(components([3, 5], [3, 5])).tolist() == [1]
    assert distinct_margin(components([0, 0], [0, 0])).tolist() == [1]
    assert distinct_margin(components([3, 5], [3, 5 + 1e-6])).tolist() == [1]  # rounding


def test_a_tie_matters_where_only_the_companions_differ() -> None:
    branch = components([0, 5], [0, 5])
    assert distinct_margin(branch, components([1, 2], [1, 2])).tolist() == [1]
    assert distinct_margin(branch, components([1, 2], [2, 1])).tolist() == [0]


def pictures_by_hand() -> Tensor:
    """Return a clear picture, one of two grids with mirrored content, and a constant one."""
    clear = torch.zeros(4, 4)
    clear[0, 0] = 1
    mirrored = torch.zeros(4, 4)
    mirrored[0, 0] = mirrored[1, 3] = 1
    return torch.stack([clear, mirrored, torch.ones(4, 4)]).unsqueeze(1)


def test_a_layer_counts_its_close_pictures_and_its_harmless_ties() -> None:
    network = nn.Sequential(nn.Identity(), PolyphasePool2d(2))
    (found,) = measure_margins(network, pictures_by_hand())
    assert (found.layer, found.least, found.close, found.ties) == ("1", 0, (1,), 1)
    (sentence,) = misses((found,))
    assert sentence.startswith("polyphase layer 1: picture 1 select")
    assert "onnxruntime may select another" in sentence
    (sound,) = measure_margins(network, pictures_by_hand()[[0, 2]])
    assert (sound.least, sound.close, sound.ties) == (1, (), 1)
    assert misses((sound,)) == []


class Paired(nn.Module):
    """A pair of which the shortcut sees another picture than the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.pair = PolyphasePair(2)

    def forward(self, x: Tensor) -> Tensor:
        branch, _ = self.pair(torch.ones_like(x), x)
        return branch


def test_a_pair_is_measured_with_its_shortcut() -> None:
    (found,) = measure_margins(Paired(), pictures_by_hand())
    assert (found.layer, found.close, found.ties) == ("pair", (0, 1), 1)
    assert "picture 0 and 1 more select" in misses((found,))[0]


def test_the_trained_polyphase_network_is_sure_of_every_picture() -> None:
    samples = fashion_samples()
    found = measure_margins(fashion_network("fashion_polyphase"), samples.images)
    assert [margin.layer for margin in found] == [f"network.stages.{n}.3" for n in range(4)]
    assert misses(found) == []
    assert 10 * ROUNDING < min(margin.least for margin in found) < 1e-4


def test_a_network_without_polyphase_has_no_margins() -> None:
    assert measure_margins(fashion_network("fashion_blur"), torch.zeros(1, 1, 48, 48)) == ()
