import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nyquist.models.checkpoints import read_state
from nyquist.models.fashion import DEBIAN_PACKAGE, Photographs
from nyquist.models.layers.downsampling import Downsampling
from nyquist.models.networks.compact import CompactClassifier
from nyquist.models.train import Recipe, accuracy, augment, fit, main, write_whole

WriteIdx = Callable[[Path, Tensor], None]


def photographs(count: int, seed: int = 0) -> Photographs:
    """Return pictures of two classes that are easily told apart: dark and bright."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 64, (count, 28, 28), generator=generator)
    return Photographs((noise + 160 * labels.view(-1, 1, 1)).byte(), labels)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_idx: WriteIdx) -> Path:
    """A small data set in the files and names of Fashion-MNIST."""
    directory = tmp_path_factory.mktemp("data")
    for split, count in (("train", 300), ("t10k", 40)):
        made = photographs(count, seed=count)
        write_idx(directory / f"{split}-images-idx3-ubyte.gz", made.images)
        write_idx(directory / f"{split}-labels-idx1-ubyte.gz", made.labels.byte())
    return directory


def trained(data: Path, output: Path, *more: str) -> int:
    """Run a tiny training from the command line; return its exit status."""
    size = ["--images", "256", "--epochs", "1"]
    return main(["--data", str(data), "--output", str(output), *size, *more])


@pytest.fixture(scope="module")
def output(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one tiny training of the strided family wrote."""
    output = tmp_path_factory.mktemp("output") / "made" / "on the way"
    assert trained(data, output, "--families", "strided") == 0
    return output


def test_a_tiny_training_writes_weights_and_figures_that_load(output: Path) -> None:
    assert {path.name for path in output.iterdir()} == {
        "fashion.json",
        "fashion_strided.safetensors",
    }
    network = CompactClassifier(Downsampling("strided"))
    network.load_state_dict(read_state(output / "fashion_strided.safetensors"), strict=True)
    facts = json.loads((output / "fashion.json").read_text())["strided"]
    assert facts["recipe"] == {"images": 256, "epochs": 1, "batch": 128, "seed": 0}
    assert "--families strided" in facts["command"]
    figures = facts["figures"]
    for share in (figures["accuracy"], figures["shifted_accuracy"]):
        assert share in [right / 40 for right in range(41)]  # of the 40 test photographs
    assert 0 < figures["final_loss"] < 10


def test_the_figures_name_the_data_by_checksum_and_package(data: Path, output: Path) -> None:
    facts = json.loads((output / "fashion.json").read_text())["strided"]["data"]
    assert facts["debian_package"] == DEBIAN_PACKAGE
    assert facts["sha256"] == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in data.iterdir()
    }


def test_the_same_seed_gives_equal_weights_and_another_seed_others(
    data: Path, output: Path, tmp_path: Path
) -> None:
    def weights(seed: str) -> dict[str, Tensor]:
        trained(data, tmp_path / seed, "--families", "strided", "--seed", seed)
        return read_state(tmp_path / seed / "fashion_strided.safetensors")

    first = read_state(output / "fashion_strided.safetensors")
    again, other = weights("0"), weights("1")

    assert first
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other["classifier.weight"])


def test_a_later_run_leaves_the_figures_of_other_families_and_shows_its_own(
    data: Path, output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fashion.json").write_bytes((output / "fashion.json").read_bytes())
    first = json.loads((tmp_path / "fashion.json").read_text())["strided"]

    trained(data, tmp_path, "--families", "avg_pool", "--seed", "5")

    families = json.loads((tmp_path / "fashion.json").read_text())
    assert set(families) == {"strided", "avg_pool"}
    assert families["strided"] == first
    assert families["avg_pool"]["recipe"]["seed"] == 5
    table = capsys.readouterr().out
    assert "avg_pool" in table
    assert f"{families['avg_pool']['figures']['accuracy']:.2%}" in table


def test_missing_data_exits_with_one_and_says_how_to_get_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "output"

    assert trained(tmp_path / "absent", output, "--families", "strided") == 1

    assert f"apt-get install {DEBIAN_PACKAGE}" in capsys.readouterr().out
    assert list(output.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "number", "message"),
    [
        ("--images", "127", "at least 128 images and 1 epoch are needed, got 127 and 1"),
        ("--epochs", "0", "at least 128 images and 1 epoch are needed, got 256 and 0"),
        ("--images", "70000", "70000 images are asked for"),
    ],
)
def test_a_training_that_cannot_be_done_exits_with_one_and_the_reason(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    option: str,
    number: str,
    message: str,
) -> None:
    assert trained(data, tmp_path, "--families", "strided", option, number) == 1

    assert message in " ".join(capsys.readouterr().out.split())
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_family_is_refused_with_the_choices(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--families", "median"])

    assert caught.value.code == 2
    message = capsys.readouterr().err
    assert "median" in message
    assert "polyphase" in message


def test_an_incomplete_batch_is_no_step() -> None:
    assert Recipe(images=300, epochs=3, batch=128).steps == 6
    assert Recipe().steps == 656


def test_training_makes_every_step_and_lowers_the_loss() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 10))
    recipe = Recipe(images=128, epochs=40, batch=32)
    steps: list[int] = []

    final_loss = fit(network, photographs(128), recipe, lambda: steps.append(1))

    assert len(steps) == recipe.steps == 160
    assert final_loss < 0.6  # a guess between ten classes costs ln 10 = 2.3, between two 0.7


def test_training_draws_its_pictures_from_the_whole_split() -> None:
    torch.manual_seed(0)
    train = photographs(512)
    train.labels[256:] = 5  # a class that only the second half of the split shows
    network = nn.Sequential(nn.Flatten(), nn.Linear(48 * 48, 10))

    fit(network, train, Recipe(images=256, epochs=40), lambda: None)

    answers = network(augment(train.images, torch.Generator().manual_seed(0))).argmax(dim=1)
    assert (answers == 5).double().mean() > 0.3


def test_the_seed_also_draws_the_pictures_their_order_and_their_places() -> None:
    def weights(seed: int) -> Tensor:
        linear = nn.Linear(48 * 48, 10)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        network = nn.Sequential(nn.Flatten(), linear)
        fit(
            network, photographs(64), Recipe(images=64, epochs=1, batch=32, seed=seed), lambda: None
        )
        return linear.weight.detach()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_accuracy_is_the_share_of_right_answers_in_evaluation_mode() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Dropout(p=1.0))  # the brightest pixel is the answer
    canvases = torch.eye(10).view(10, 1, 2, 5).repeat(60, 1, 1, 1)
    labels = torch.arange(10).repeat(60)
    labels[:150] = 10  # no answer is ever 10

    assert accuracy(network, canvases, labels) == 0.75
    assert not network.training


def test_augmented_photographs_are_whole_and_half_of_them_mirrored() -> None:
    image = torch.arange(1, 785).remainder(251).add(1).byte().view(1, 28, 28)
    mirror = image.flip(2)

    canvases = augment(image.expand(400, 28, 28), torch.Generator().manual_seed(0))

    assert canvases.shape == (400, 1, 48, 48)
    assert canvases.is_contiguous(memory_format=torch.channels_last)
    pictures = [canvas[canvas > 0].mul(255).round().byte() for canvas in canvases]
    as_they_are = sum(torch.equal(picture, image.flatten()) for picture in pictures)
    mirrored = sum(torch.equal(picture, mirror.flatten()) for picture in pictures)
    assert as_they_are + mirrored == 400
    assert 150 < mirrored < 250


def test_a_file_is_written_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    write_whole(tmp_path / "weights.safetensors", b"old")
    write_whole(tmp_path / "weights.safetensors", b"new")

    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    assert (tmp_path / "weights.safetensors").read_bytes() == b"new"
