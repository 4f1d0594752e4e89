import pytest

from nyquist.models.analysis.comparisons import block_figures, bottlenecks, shift_errors, stems
from nyquist.models.layers.downsampling import DOWNSAMPLING_KINDS


@pytest.mark.parametrize(
    ("stem", "parameters", "field", "jump"),
    [
        ("ResNet: 7x7 s2, max pool s2", 9_536, 11, 4),
        ("ResNet-D: three 3x3, max pool s2", 28_768, 15, 4),
        ("EfficientNet: 3x3 s2", 928, 3, 2),
        ("ConvNeXt: 4x4 s4, layer norm", 4_896, 4, 4),
        ("ViT-B: 16x16 s16", 590_592, 16, 16),
    ],
)
def test_a_stem_has_these_parameters_and_this_field(
    stem: str, parameters: int, field: int, jump: int
) -> None:
    figures = block_figures(stems()[stem])
    assert (figures.parameters, figures.field, figures.jump) == (parameters, field, jump)


def test_an_anti_aliased_stem_has_the_same_parameters_and_sees_more() -> None:
    built = stems()
    for plain, smooth in zip(list(built.values())[0:8:2], list(built.values())[1:8:2], strict=True):
        before, after = block_figures(plain), block_figures(smooth)
        assert after.parameters == before.parameters
        assert after.field > before.field
        assert after.multiply_adds > before.multiply_adds


def test_the_bottlenecks_differ_in_field_and_in_what_they_drop() -> None:
    compared = bottlenecks()
    assert [figures.whole.field for figures in compared.values()] == [483, 427, 515]
    unread = [(figures.branch_unread, figures.shortcut_unread) for figures in compared.values()]
    assert unread == [(0.75, 0.75), (0.0, 0.75), (0.0, 0.0)]
    assert {figures.whole.parameters for figures in compared.values()} == {25_557_032}


def test_a_shift_by_the_stride_leaves_no_error_and_blur_has_the_least_of_one_pixel() -> None:
    errors = shift_errors((1.0, 2.0))
    assert set(errors) == set(DOWNSAMPLING_KINDS)
    assert all(by_stride < 1e-5 for _, by_stride in errors.values())
    one = {kind: by_one for kind, (by_one, _) in errors.items()}
    assert one["max_blur"] < one["blur"] < min(one["max_pool"], one["avg_pool"]) < one["strided"]
