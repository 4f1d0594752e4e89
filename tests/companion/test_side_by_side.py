"""companion/nyquist/companion/watch/side_by_side.py: what two versions make of one picture."""

from dataclasses import replace

import numpy as np
import pytest

from nyquist.client.client import RemoteModel
from nyquist.companion.watch.side_by_side import (
    Answer,
    Rivals,
    comparison_of,
    confidence,
    with_moves,
)
from nyquist.server.wire.framing import PictureInput
from nyquist.server.wire.head import CLASSES, Head

VERSION = RemoteModel(
    name="net",
    version="1",
    versions=("1", "2"),
    input="image",
    datatype="FP32",
    shape=(1, 3, 3),
    outputs={"logits": (3,)},
    provider="",
    sha256="a",
    picture=PictureInput(1, 3, 3, "CHW", "FP32"),
)
COAT, SHIRT = [0.0, 2.0, 1.0], [3.0, 2.0, 1.0]


def answer(*numbers: list[float], seconds: float = 0.01) -> Answer:
    return Answer(np.array(numbers), seconds)


def test_the_answers_to_the_picture_differ_and_each_counts_its_own_flips() -> None:
    baseline, candidate = answer(COAT, COAT, COAT), answer(SHIRT, SHIRT, COAT, seconds=0.02)
    found = comparison_of(CLASSES, baseline, candidate, "5a")
    assert (found.disagreement, found.baseline_flips, found.candidate_flips) == (1, 0, 0.5)
    assert (found.baseline_s, found.candidate_s, found.trace_id) == (0.01, 0.02, "5a")
    assert found.baseline_confidence == pytest.approx(np.exp(2) / np.exp(COAT).sum())
    same = comparison_of(CLASSES, baseline, baseline, "")
    assert (same.disagreement, same.candidate_flips) == (0, 0)


@pytest.mark.parametrize("none", [Answer(None, 0.01), answer([1.0, 2.0], [1.0, 2.0], [1.0, 2.0])])
def test_a_candidate_without_an_answer_or_with_other_numbers_differs_in_all(none: Answer) -> None:
    found = comparison_of(CLASSES, answer(COAT, COAT, COAT), none, "")
    assert (found.disagreement, found.candidate_flips, found.candidate_confidence) == (1, 1, 0)


def test_embeddings_differ_by_their_angle_and_are_never_sure() -> None:
    found = comparison_of(Head("embedding"), answer([1.0, 0.0]), answer([1.0, 1.0]), "")
    assert found.disagreement == pytest.approx(1 - np.sqrt(0.5))
    assert (found.baseline_confidence, found.candidate_confidence) == (None, None)
    assert found.candidate_flips == 0  # it was asked for no moves


def test_several_labels_are_as_sure_as_the_least_sure_of_them() -> None:
    labels = Head("multi-label", "probabilities")
    assert confidence(labels, np.array([0.9, 0.2, 0.6])) == pytest.approx(0.6)


def test_a_picture_moves_right_and_down_and_in_turn_left_and_up() -> None:
    picture = np.zeros((1, 1, 3, 3), np.float32)
    picture[0, 0, 1, 1] = 1
    places = [
        [tuple(map(int, np.argwhere(one[0] == 1)[0])) for one in with_moves(VERSION, picture, turn)]
        for turn in (1, -1)
    ]
    assert places == [[(1, 1), (1, 2), (2, 1)], [(1, 1), (1, 0), (0, 1)]]
    bare = replace(VERSION, picture=None)
    assert with_moves(bare, picture, 1) is picture


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"sha256": "b", "provider": "CUDA"}, ""),
        ({"shape": (1, -1, -1)}, ""),
        ({"shape": (3, 3, 3)}, r"version 2 takes FP32 \[3, 3, 3\], version 1 FP32 \[1, 3, 3\]"),
        ({"datatype": "UINT8"}, "version 2 takes UINT8"),
        ({"outputs": {"logits": (4,)}}, r"version 2 answers with logits \[4\] as classes"),
        ({"head": Head("multi-label")}, "as multi-label, version 1 logits"),
    ],
)
def test_versions_whose_callers_need_different_things_do_not_fit(
    change: dict[str, object], why: str
) -> None:
    rivals = Rivals(VERSION, replace(VERSION, version="2", **change))  # type: ignore[arg-type] # one each
    assert (rivals.pair.baseline, rivals.pair.candidate) == ("1", "2")
    if why:
        with pytest.raises(AssertionError, match=why):
            assert not rivals.misfit, rivals.misfit
    else:
        assert rivals.misfit == ""
