import pytest

from nyquist.models.choices import option_problems
from nyquist.models.spec import Option


@pytest.mark.parametrize(
    ("name", "value"), [("taps", 1), ("taps", 7), ("num_classes", 1), ("in_channels", 1)]
)
def test_the_ends_of_a_range_may_be_chosen(name: str, value: Option) -> None:
    assert option_problems("resnet18", {name: value}) == {}


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("taps", 0, "taps must be a whole number in 1..7, got 0"),
        ("taps", 8, "taps must be a whole number in 1..7, got 8"),
        ("num_classes", 0, "num_classes must be a whole number at least 1, got 0"),
        ("in_channels", 0, "in_channels must be a whole number at least 1, got 0"),
    ],
)
def test_what_lies_beyond_a_range_is_refused_with_its_ends(
    name: str, value: Option, problem: str
) -> None:
    assert option_problems("resnet18", {name: value}) == {name: problem}
