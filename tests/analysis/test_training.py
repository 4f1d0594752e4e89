import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from nyquist.models.analysis.__main__ import main
from nyquist.models.analysis.training import (
    EXPERIMENTS,
    STARTS,
    Outcome,
    TrainingRecipe,
    interval,
    load_data,
    run_experiments,
    start_strided,
)
from nyquist.models.layers.blur import blur_kernel
from tests.analysis.test_command_line import assert_drawn


def test_an_interval_is_that_of_student() -> None:
    found = interval([0.7, 0.8, 0.9])

    assert found.mean == pytest.approx(0.8)
    assert found.half_width == pytest.approx(4.30 * 0.1 / math.sqrt(3))
    assert math.isnan(interval([0.7]).half_width)


def test_no_photograph_of_the_sample_is_both_trained_on_and_tested() -> None:
    data = load_data(None)

    assert (len(data.train.labels), len(data.test.labels)) == (400, 100)
    assert data.test.labels.bincount().tolist() == [10] * 10
    trained = {image.numpy().tobytes() for image in data.train.images}
    assert not trained & {image.numpy().tobytes() for image in data.test.images}


@pytest.mark.parametrize("start", ["average", "blur"])
def test_a_strided_convolution_starts_as_the_filter_that_it_is_said_to(start: str) -> None:
    conv = nn.Conv2d(3, 3, 3, 2, 1, bias=False)
    start_strided(conv, start)
    x = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))

    seen = conv(x)[:, :, 1:-1, 1:-1]  # without the padding
    if start == "average":
        expected = nn.functional.avg_pool2d(x[:, :, 2:-1, 2:-1], 2)
    else:
        kernel = blur_kernel(3).expand(3, 1, 3, 3)
        expected = nn.functional.conv2d(x[:, :, 1:-1, 1:-1], kernel, stride=2, groups=3)
    assert torch.allclose(seen, expected, atol=1e-6)
    assert start in STARTS


def runs(file: Path, **changed: int) -> list[Outcome]:
    recipe = TrainingRecipe(**{"images": 40, "epochs": 1, "batch": 10, **changed})
    return list(run_experiments(["all-convolutional"], load_data(None), recipe, 1, file))


def test_what_is_done_is_not_repeated_but_by_another_recipe(tmp_path: Path) -> None:
    file = tmp_path / "runs.jsonl"
    first = runs(file)
    (line,) = file.read_text().splitlines()
    told = json.loads(line)
    told["outcomes"][0]["figures"]["accuracy"] = 2.0
    file.write_text(json.dumps(told) + "\n" + line[:40])  # interrupted while it wrote

    again = runs(file)
    other = runs(file, epochs=2)

    assert again[0].figures["accuracy"] == 2.0
    assert again[1:] == first[1:]
    assert other[0].figures["accuracy"] <= 1
    assert runs(file, epochs=2) == other


def test_convolution_and_pool_have_the_parameters_of_the_all_convolutional_network(
    tmp_path: Path,
) -> None:
    counts = [outcome.figures["parameters"] for outcome in runs(tmp_path / "runs.jsonl")]

    assert counts[0] == counts[1] < counts[2] == counts[3]


def test_every_experiment_is_shown_with_its_networks_and_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    options = ("--seeds", "1", "--images", "160", "--epochs", "1", "--plots", str(tmp_path))
    assert main(["training", "--json", *options]) == 0
    shown = json.loads(capsys.readouterr().out)

    networks = {table["title"].split(":")[0]: len(table["rows"]) for table in shown["tables"]}
    assert networks == dict(zip(EXPERIMENTS, (4, 8, 3, 4, 4), strict=True))
    assert_drawn(tmp_path / "training_loss.png")


def test_what_cannot_be_trained_is_an_error_that_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for arguments, message in (
        (["--only", "depht"], "unknown experiment 'depht'; choose from convergence, depth"),
        (["--images", "500"], "500 images are asked for, the sample of Fashion-MNIST has 400"),
        (["--images", "80"], "at least 160 images and 1 epoch are needed, got 80 and 24"),
    ):
        assert main(["training", *arguments, "--plots", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
