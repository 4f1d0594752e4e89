import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nyquist.server.wire import tensors
from nyquist.server.wire.encode import highest_classes


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_bytes_elements_survive_the_wire(elements: list[bytes]) -> None:
    assert tensors.parse_bytes_elements(tensors.bytes_elements(elements)) == elements


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"\x01", "indicator, expecting 4 bytes but only 1 bytes"),
        (b"\x01\x00\x00", "indicator, expecting 4 bytes but only 3 bytes"),
        (b"\x01\x00\x00\x00a\x02\x00", "indicator, expecting 4 bytes but only 2 bytes"),
        (b"\x05\x00\x00\x00ab", "data, expecting string of length 5 but only 2 bytes"),
        (b"\xff\xff\xff\xffab", "data, expecting string of length 4294967295 but only 2 bytes"),
    ],
)
def test_a_length_that_points_behind_the_end_is_refused(raw: bytes, told: str) -> None:
    with pytest.raises(ValueError, match=f"incomplete string (length )?{told}"):
        tensors.parse_bytes_elements(raw)


def test_raw_bytes_are_little_endian_and_row_major() -> None:
    array = tensors.from_raw(b"\x00\x00\x80\x3f\x00\x00\x00\x40", "FP32", [2, 1])
    assert array.tolist() == [[1.0], [2.0]]


def test_classes_are_named_highest_first_with_six_decimals() -> None:
    logits = np.array([[0.5, 2.0, -1.0], [3.0, 1.0, 2.0]], np.float32)
    assert highest_classes(logits, 2, ["a", "b", "c"]) == [
        b"2.000000:1:b",
        b"0.500000:0:a",
        b"3.000000:0:a",
        b"2.000000:2:c",
    ]


def test_classes_without_labels_have_two_fields() -> None:
    assert highest_classes(np.array([[0.0, 1.0]]), 9, []) == [b"1.000000:1", b"0.000000:0"]


def test_classes_are_flattened_and_whole_numbers_have_no_decimals() -> None:
    maps = np.array([[[0, 7], [255, 1]]], np.uint8)
    assert highest_classes(maps, 3, []) == [b"255:2", b"7:1", b"1:3"]
    assert highest_classes(np.array([[-3, 2]], np.int64), 1, ["no", "yes"]) == [b"2:1:yes"]
    assert highest_classes(np.array([[False, True]]), 2, []) == [b"1:1", b"0:0"]


def test_a_class_without_a_label_has_two_fields() -> None:
    assert highest_classes(np.array([[3.0, 2.0, 1.0]]), 3, ["a", ""]) == [
        b"3.000000:0:a",
        b"2.000000:1",
        b"1.000000:2",
    ]
