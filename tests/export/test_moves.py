"""What the report says of a stabilised model beside the plain one."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nyquist.export.report.moves import REACH, Scenes, measure_moves

SIDE = 64


def where_it_shines(frames: NDArray[Any]) -> NDArray[np.float32]:
    """Answer 0 or 1, surely: whether row and column of the brightest pixel are odd together."""
    at = frames[..., 0].reshape(len(frames), -1).argmax(axis=1)
    row, column = np.divmod(at, frames.shape[2])
    return np.eye(2, dtype=np.float32)[(row + column) % 2] * 9


def always_the_same(frames: NDArray[Any]) -> NDArray[np.float32]:
    return np.tile(np.array([[9, 0]], np.float32), (len(frames), 1))


def scenes(count: int = 2, **changed: Any) -> Scenes:
    """Return dark scenes with one bright pixel each, which every frame holds."""
    shown = np.zeros((count, SIDE + REACH, SIDE + REACH, 3), np.uint8)
    shown[:, 40, 41] = 255
    given: dict[str, Any] = {
        "pictures": shown,
        "owners": np.arange(count),
        "plain": where_it_shines,
        "stable": always_the_same,
        "middle": lambda frames: frames,
        "layout": "HWC",
        "batch": 4,
        "places": 8,
    }
    return Scenes(**(given | changed))


def test_one_pixel_turns_who_reads_the_place_and_nobody_else() -> None:
    found = measure_moves(scenes())
    lines = {line.name: line for line in found.lines}
    assert [*lines] == ["one pixel", "crops", "half a pixel", "noise of one level", "JPEG 90"]
    one = lines["one pixel"]
    assert (one.pairs, one.plain.count, one.stable.count) == (16, 16, 0)
    assert (one.plain.share, one.plain.standard_error) == (1.0, 0.0)
    assert 0 < lines["crops"].plain.count < 16
    assert lines["noise of one level"].plain.count == 0


def test_errors_are_over_photographs_of_which_one_may_give_several_scenes() -> None:
    pictures = scenes(4).pictures.copy()
    pictures[:2] = 0  # of these the brightest pixel is always the first
    found = measure_moves(scenes(pictures=pictures, owners=np.array([0, 0, 1, 1])))
    one = found.lines[0].plain
    assert found.photographs == 2
    assert (one.count, one.share) == (16, 0.5)
    assert one.standard_error == pytest.approx(0.5)


def test_agreement_is_told_apart_where_the_plain_answer_is_sure() -> None:
    hesitant = measure_moves(scenes(plain=lambda frames: where_it_shines(frames) / 9))
    assert (hesitant.sure_pairs, hesitant.sure_agreement.count) == (0, 0)
    assert 0 < hesitant.agreement.count < hesitant.pairs
    sure = measure_moves(scenes())
    assert (sure.sure_pairs, sure.sure_agreement) == (sure.pairs, sure.agreement)


def test_floats_and_pictures_of_other_channels_are_measured_as_far_as_they_go() -> None:
    pictures = np.moveaxis(scenes().pictures, 3, 1).astype(np.float32) / 255
    grey = pictures[:, :1]
    steady: dict[str, Any] = {"layout": "CHW", "plain": always_the_same}
    assert len(measure_moves(scenes(pictures=grey, **steady)).lines) == 5
    four = np.concatenate([pictures, grey], axis=1)
    found = measure_moves(scenes(pictures=four, **steady))
    assert [line.name for line in found.lines][-1] == "noise of one level"
    assert found.cpu_ratio > 0
