import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nyquist.models.analysis.__main__ import main
from nyquist.models.analysis.comparisons import Reducers, count_reducers
from nyquist.models.analysis.uses import (
    clip,
    detection_jitter,
    flips_a_second,
    same_answers,
    unchanged_answers,
)
from nyquist.models.layers.polyphase import PolyphasePool2d
from tests.analysis.test_command_line import assert_drawn

NOISE = torch.randn(12, 1, 32, 32, generator=torch.Generator().manual_seed(0))


class Pixel(nn.Module):
    """Answers whether one pixel is bright: the least consistent network there is."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), x[:, 0, 16, 16]], dim=1)


class Sum(nn.Module):
    """Answers by the sum over the picture, which no circular shift changes."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([torch.zeros(len(x)), x.sum((1, 2, 3)).round()], dim=1)


def test_a_network_that_sums_keeps_its_answer_and_one_that_looks_at_a_pixel_does_not() -> None:
    assert same_answers(Sum(), NOISE) == unchanged_answers(Sum(), NOISE) == 1
    assert same_answers(Pixel(), NOISE) < 1
    assert unchanged_answers(Pixel(), NOISE, size=8) == 0


def test_a_clip_begins_with_its_picture_and_leaves_it() -> None:
    frames = clip(NOISE[0], seconds=1, rate=10)

    assert frames.shape == (10, 1, 32, 32)
    assert torch.allclose(frames[0], NOISE[0], atol=1e-5)
    assert not torch.allclose(frames[9], NOISE[0], atol=0.5)


def test_the_object_of_a_clip_slides_towards_the_top_left_or_away_but_evenly() -> None:
    picture = torch.zeros(1, 48, 48)
    picture[:, 22:26, 22:26] = 1
    rows = torch.arange(48.0)[:, None]
    centres = [float((frame * rows).sum() / frame.sum()) for frame in clip(picture)[:, 0]]

    steps = torch.tensor(centres).diff()
    assert (steps > 0).all() or (steps < 0).all()
    assert 6 < abs(centres[-1] - centres[0]) < 18


def test_flips_are_counted_a_second() -> None:
    assert flips_a_second(Pixel(), NOISE) > 0
    assert flips_a_second(Sum(), torch.ones(2, 1, 32, 32)) == 0


@pytest.mark.parametrize("pool", [nn.Identity(), PolyphasePool2d()])
def test_what_moves_with_its_picture_jitters_no_more_than_its_grid(pool: nn.Module) -> None:
    picture = torch.zeros(1, 1, 32, 32)
    picture[0, 0, 9, 8] = 1

    jitter, grid = detection_jitter(nn.Sequential(pool, nn.ReLU()), picture)

    assert grid == pytest.approx((1 if isinstance(pool, nn.Identity) else 2) / 12**0.5)
    assert jitter <= 2 * grid
    assert (jitter == 0) == isinstance(pool, nn.Identity)


def test_what_halves_is_counted_from_the_operators() -> None:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.AvgPool2d(2)
    )
    assert count_reducers(network) == Reducers(1, 2, global_mean=False)


def rows(document: str) -> list[list[dict[str, float | None]]]:
    return [table["rows"] for table in json.loads(document)["tables"]]


def test_networks_of_other_than_ours_have_no_recorded_accuracy(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--pictures", "3", "--plots", str(tmp_path), "--json")
    assert main(["uses", "fashion_polyphase", *options]) == 0
    (moved,), (ours,) = rows(capsys.readouterr().out)
    assert main(["uses", "compact", "--size", "48", "--downsampling", "blur", *options]) == 0
    _, (fresh,) = rows(capsys.readouterr().out)

    assert (moved["same"], moved["unchanged"], ours["accuracy"]) == (1, 1, 0.8468)
    assert fresh["accuracy"] is None
    assert_drawn(tmp_path / "consistency_distance.png")
