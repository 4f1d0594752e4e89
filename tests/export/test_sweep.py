"""The sweep passes what is sound, and names the cell of what is not."""

from collections import Counter
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from nyquist.companion.references.network import load_reference, load_samples
from nyquist.export.graph.sweep import (
    Limits,
    Sweep,
    misses,
    resize,
    sweep,
)
from nyquist.export.graph.ways import Way
from nyquist.models.picture_kinds import picture_kinds
from nyquist.server.artifact.manifest import read_manifest
from tests.export.exporting import Exported, rewritten, small_graph

FLOAT32 = Limits(relative_error=1e-4)
PICTURES = np.random.default_rng(0).random((8, 1, 2, 2), dtype=np.float32)


def flat(pictures: NDArray[Any]) -> NDArray[Any]:
    """Compute what FLATTEN does."""
    return pictures.reshape(len(pictures), -1)


FLATTEN = helper.make_node("Flatten", ["image"], ["logits"])


def swept(graph: onnx.ModelProto, reference: Any = flat, max_batch_size: int = 4) -> Sweep:
    return sweep(reference, graph.SerializeToString(), PICTURES, max_batch_size)


@pytest.mark.parametrize("name", ["fashion_blur", "fashion_polyphase"])
def test_a_built_model_passes_in_every_cell(repository: Path, name: str) -> None:
    folder = repository / name
    manifest = read_manifest(folder, 1)
    found = sweep(
        load_reference(folder, manifest).predict,
        manifest.read_file(folder, "1/model.onnx"),
        load_samples(folder, manifest).images.numpy(),
        max_batch_size=64,
    )
    assert misses(found, FLOAT32) == []
    assert 0 < found.relative_error < 1e-4
    assert 0 < found.max_abs_error < 1e-4


def test_there_is_a_cell_for_every_combination_and_no_other() -> None:
    cells = swept(small_graph(FLATTEN), max_batch_size=16).cells
    keys = [(cell.kind, cell.batch, cell.way.optimised, cell.way.threads) for cell in cells]
    kinds = ("samples", "noise", "constant", "extreme")
    assert Counter(keys) == Counter(
        (kind, batch, optimised, threads)
        for kind in kinds
        for threads in (1, 2)
        for optimised, batches in ((True, (1, 2, 3, 16)), (False, (1, 3)))
        for batch in batches
    )
    assert {(cell.output, cell.size) for cell in cells} == {("logits", (2, 2))}
    assert min(cell.parity.pictures for cell in cells) == 2
    in_full = Counter({cell.kind: cell.parity.pictures for cell in cells if cell.batch == 16})
    assert in_full == {"samples": 6, "noise": 3, "constant": 3, "extreme": 4}


def test_no_batch_is_larger_than_the_maximum() -> None:
    assert {cell.batch for cell in swept(small_graph(FLATTEN), max_batch_size=2).cells} == {1, 2}


def test_the_reference_sees_every_picture_once() -> None:
    seen: list[NDArray[Any]] = []

    def watched(pictures: NDArray[Any]) -> NDArray[Any]:
        seen.append(pictures)
        return flat(pictures)

    swept(small_graph(FLATTEN), watched)
    assert len(np.concatenate(seen)) == 16


def test_a_transposed_weight_is_caught(fashion: Exported) -> None:
    broken = rewritten(fashion.graph, "network.stages.2.0.weight", lambda w: w.swapaxes(2, 3))
    found = sweep(fashion.reference.predict, broken, fashion.pictures, 64)
    far, flipped = misses(found, FLOAT32)
    assert "logits of samples at 48x48, batch" in far
    assert "of the spread; at most 0.0003" in far
    assert "more of 48 cells)" in far
    assert "another class, which PyTorch puts" in flipped


def test_a_wrong_epsilon_is_caught_though_no_class_changes(
    fashion: Exported, wrong_epsilon: Exported
) -> None:
    found = sweep(fashion.reference.predict, wrong_epsilon.graph, fashion.pictures, 64)
    (far,) = misses(found, FLOAT32)
    assert "at most 0.0003" in far


def test_an_overflow_of_float16_is_caught_and_float16_alone_is_not(
    fashion: Exported, loud: Exported
) -> None:
    limits = Limits(relative_error=1e-2)
    half, overflown = (
        convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True)
        for graph in (fashion.graph, loud.graph)
    )
    reference = fashion.reference.predict
    assert misses(sweep(reference, loud.graph, fashion.pictures, 8), FLOAT32) == []
    assert misses(sweep(reference, half.SerializeToString(), fashion.pictures, 8), limits) == []
    found = misses(sweep(reference, overflown.SerializeToString(), fashion.pictures, 8), limits)
    assert any("NaN or infinity" in sentence for sentence in found)
    assert any("differs by up to inf" in sentence for sentence in found)


def test_an_answer_that_depends_on_its_company_is_caught() -> None:
    leaking = small_graph(
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("ReduceSum", ["flat", "batch"], ["sum"], keepdims=1),
        helper.make_node("Mul", ["sum", "little"], ["leak"]),
        helper.make_node("Add", ["flat", "leak"], ["logits"]),
        constants={"batch": np.array([0]), "little": np.float32(5e-6)},
    )
    found = swept(leaking).of("noise")
    (sentence,) = misses(found, FLOAT32)
    assert sentence == (
        "logits of noise at 2x2, batch 4, optimised, 1 thread: the answer differs from that alone "
        f"by up to {found.batch_error:.2g} of the spread; at most 1e-05 is allowed "
        "(and 5 more of 8 cells)"
    )
    assert found.batch_error > 1e-5
    assert misses(found, Limits(relative_error=1e-3)) == [sentence], "whatever parity allows"


def test_an_answer_that_is_no_number_is_caught_even_if_the_reference_has_it_too() -> None:
    rooted = small_graph(
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Sub", ["flat", "half"], ["less"]),
        helper.make_node("Sqrt", ["less"], ["logits"]),
        constants={"half": np.float32(0.5)},
    )
    with np.errstate(invalid="ignore"):
        found = swept(rooted, lambda pictures: np.sqrt(flat(pictures) - np.float32(0.5)))
    sentences = misses(found, Limits(relative_error=inf))
    assert any("NaN or infinity" in sentence for sentence in sentences)


def raised(by: float) -> onnx.ModelProto:
    """Return a graph that adds to the second of four logits, which are 0, 1, 1 - 1e-3 and -9."""
    return small_graph(
        helper.make_node("Flatten", ["image"], ["flat"]),
        helper.make_node("Mul", ["flat", "nothing"], ["zero"]),
        helper.make_node("Add", ["zero", "answer"], ["logits"]),
        constants={
            "nothing": np.float32(0),
            "answer": np.array([0, 1 - by, 1 - 1e-3, -9], np.float32),
        },
    )


def near_tie(pictures: NDArray[Any]) -> NDArray[Any]:
    return np.tile(np.array([0, 1, 1 - 1e-3, -9], np.float32), (len(pictures), 1))


def test_two_classes_that_nearly_tie_may_change_places_and_others_may_not() -> None:
    limits = Limits(relative_error=inf, max_abs_error=2e-3)
    assert misses(swept(raised(by=1.5e-3), near_tie), limits) == []
    strict = Limits(relative_error=inf, max_abs_error=4e-4)
    far, flipped = misses(swept(raised(by=1.5e-3), near_tie), strict)
    assert "differs by up to 0.0015" in far
    assert "puts 0.001 behind; only one within 0.0008 may take its place" in flipped


def test_every_output_that_both_sides_give_is_compared_by_its_name() -> None:
    graph = small_graph(
        FLATTEN,
        helper.make_node("Mul", ["logits", "wrong"], ["features"]),
        constants={"wrong": np.float32(2.5)},
        outputs=("logits", "features"),
    )

    def reference(pictures: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {"features": 2 * flat(pictures), "more": pictures, "logits": flat(pictures)}

    found = swept(graph, reference)
    assert {cell.output for cell in found.cells} == {"logits", "features"}
    assert {sentence.split()[0] for sentence in misses(found, FLOAT32)} == {"features"}
    with pytest.raises(ValueError, match=r"the reference gives \['other'\], the graph \['logits'"):
        swept(graph, lambda pictures: {"other": pictures})


def test_open_sizes_pass_where_the_graph_keeps_them(pooled_to_1: Exported) -> None:
    sizes = (64, 96), (131, 77)
    predict, pictures = pooled_to_1.reference.predict, pooled_to_1.pictures
    found = sweep(predict, pooled_to_1.graph, pictures, 4, other_sizes=sizes)
    assert misses(found, FLOAT32) == []
    assert {cell.size for cell in found.cells} == {(112, 112), *sizes}
    assert {(cell.batch, cell.way.threads) for cell in found.cells if cell.size in sizes} == {
        (1, 1),
        (3, 1),
    }


def test_a_map_that_has_another_shape_at_another_size_is_a_failure(pooled_to_7: Exported) -> None:
    onnx.checker.check_model(onnx.load_from_string(pooled_to_7.graph), full_check=True)

    def run(*sizes: tuple[int, int]) -> Sweep:
        predict, pictures = pooled_to_7.reference.predict, pooled_to_7.pictures
        return sweep(predict, pooled_to_7.graph, pictures, 4, other_sizes=sizes)

    assert misses(run(), FLOAT32) == []
    found = run((128, 112), (112, 112))
    assert {cell.size for cell in found.cells} == {(112, 112)}
    sentence, _ = misses(found, FLOAT32)
    assert sentence == (
        "the graph cannot be compared at 128x112, not optimised, 1 thread: "
        "logits has shape (1, 8, 8, 7), and (1, 8, 7, 7) in PyTorch"
    )


def test_a_graph_that_fails_to_run_is_a_failure_that_says_why() -> None:
    reshaped = small_graph(
        helper.make_node("Reshape", ["image", "three"], ["logits"]),
        constants={"three": np.array([3, 4])},
    )
    assert len(misses(swept(reshaped), FLOAT32)) == 4  # ways
    assert "onnxruntime fails at batch 1: " in misses(swept(reshaped), FLOAT32)[0]


def test_a_sweep_needs_a_picture() -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        sweep(flat, b"", PICTURES[:0], 4)


@pytest.mark.parametrize(("axes", "shape"), [((1, 2), (4, 6, 3)), ((2, 3), (3, 4, 6))])
def test_the_kinds_of_bytes_are_what_they_are_by_hand(
    axes: tuple[int, int], shape: tuple[int, ...]
) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (20, *shape), np.uint8)
    kinds = picture_kinds(pictures, axes)
    assert [*map(len, kinds.values())] == [6, 3, 3, 4]
    assert all(each.dtype == np.uint8 and each.shape[1:] == shape for each in kinds.values())
    assert (kinds["samples"][[0, -1]] == pictures[[0, -1]]).all()
    assert [np.unique(each).tolist() for each in kinds["constant"]] == [[0], [255], [127]]
    board, pixel, coins, _ = np.moveaxis(kinds["extreme"], axes, (1, 2))
    assert board[:2, :3, 0].tolist() == [[0, 255, 0], [255, 0, 255]]
    assert (board[..., 0] == board[..., 2]).all()
    assert np.argwhere(pixel[..., 1]).tolist() == [[2, 3]]
    assert np.unique(coins).tolist() == [0, 255]


def test_the_kinds_of_floats_go_one_range_beyond() -> None:
    kinds = picture_kinds(PICTURES, (2, 3))
    assert np.unique(kinds["extreme"][3]).tolist() == [-1, 2]
    assert 0 <= kinds["noise"].min() < kinds["noise"].max() < 1
    wide = picture_kinds(PICTURES * 6 - 2, (2, 3))
    assert wide["noise"].max() > 2
    assert kinds["noise"].dtype == np.float32


def test_a_size_is_cropped_or_continued_circularly() -> None:
    row = np.arange(3).reshape(1, 1, 1, 3)
    assert resize(row, (2, 5), (2, 3)).tolist() == [[[[0, 1, 2, 0, 1]] * 2]]
    assert resize(row, (1, 2), (2, 3)).tolist() == [[[[0, 1]]]]


def test_a_way_reads_as_one_says_it() -> None:
    ways = Way(optimised=True, threads=1), Way(optimised=False, threads=2)
    assert [*map(str, ways)] == ["optimised, 1 thread", "not optimised, 2 threads"]
