import pytest
import torch

from models import fashion
from models.fashion import LABELS
from models.samples import (
    ESPRESSO,
    TRIPOD,
    UNLABELLED,
    Samples,
    fashion_calibration,
    fashion_samples,
    photograph_calibration,
    photograph_samples,
)


def numbered(count: int) -> Samples:
    """Return samples that carry their own number."""
    return Samples(torch.arange(float(count)).view(count, 1, 1, 1), torch.arange(count))


def test_fashion_samples_are_five_hundred_centred_canvases_all_labelled() -> None:
    samples = fashion_samples()

    assert len(samples) == 500
    assert samples.images.shape == (500, 1, 48, 48)
    assert samples.images.dtype == torch.float32
    assert samples.images.min() == 0
    assert 0.9 < samples.images.max() <= 1
    assert samples.labels.bincount(minlength=len(LABELS)).tolist() == [50] * 10
    assert not samples.images[:, :, :10].any()
    assert not samples.images[:, :, :, 38:].any()


def test_fashion_calibration_is_none_of_the_pictures_that_are_judged() -> None:
    calibration = fashion_calibration()
    assert calibration.shape == (100, 1, 48, 48)
    assert calibration.equal(fashion_calibration())
    judged = fashion.load_sample().images
    photographs = fashion.load_calibration()
    assert photographs.shape == (100, 28, 28)
    assert not any((judged == photograph).all(dim=(1, 2)).any() for photograph in photographs)


def test_photograph_calibration_is_none_of_the_crops_that_are_judged() -> None:
    calibration = photograph_calibration()
    assert calibration.shape == (40, 224, 224, 3)
    assert calibration.dtype == torch.uint8
    judged = photograph_samples().images
    assert not any((judged == crop).all(dim=(1, 2, 3)).any() for crop in calibration)
    assert calibration[1].equal(calibration[0].flip(1))


def test_photograph_samples_are_five_colour_crops() -> None:
    samples = photograph_samples()

    assert len(samples) == 5
    assert samples.images.shape == (5, 224, 224, 3)
    assert samples.images.dtype == torch.uint8
    assert all(image.unique().numel() > 100 for image in samples.images)


def test_only_the_espresso_and_the_tripod_carry_a_label() -> None:
    # in the order of their names: astronaut, camera, chelsea, coffee, rocket
    expected = [UNLABELLED, TRIPOD, UNLABELLED, ESPRESSO, UNLABELLED]

    assert photograph_samples().labels.tolist() == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(1, [0]), (2, [0, 10]), (3, [0, 5, 10]), (6, [0, 2, 4, 6, 8, 10]), (0, [])],
)
def test_a_spread_is_at_equal_distances_from_the_first_to_the_last(
    count: int, expected: list[int]
) -> None:
    spread = numbered(11).spread(count)

    assert len(spread) == len(expected)
    assert spread.labels.tolist() == expected
    assert spread.images.flatten().tolist() == expected


@pytest.mark.parametrize("count", [11, 12, 1000])
def test_a_spread_over_all_is_all_of_them_once(count: int) -> None:
    assert numbered(11).spread(count).labels.tolist() == list(range(11))


def test_a_spread_of_sixty_four_fashion_samples_shows_every_class() -> None:
    spread = fashion_samples().spread(64)

    assert spread.images.shape == (64, 1, 48, 48)
    assert spread.images.is_contiguous()
    assert spread.labels.unique().numel() == len(LABELS)
