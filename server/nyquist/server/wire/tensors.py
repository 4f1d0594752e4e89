"""Tensors on the wire: bytes or typed contents <-> numpy arrays.

Formats: Open Inference Protocol v2, "Tensor Contents", and its binary data extension
(little-endian, row-major, no padding; a BYTES element is a uint32 length and its bytes).
"""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.wire.pb import inference_pb2 as pb

DTYPES: dict[str, np.dtype[Any]] = {
    "FP32": np.dtype("<f4"),
    "FP16": np.dtype("<f2"),
    "FP64": np.dtype("<f8"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "BOOL": np.dtype("?"),
    "BF16": np.dtype("<u2"),
    "BYTES": np.dtype(object),
}
"""BF16, which numpy lacks, as its bits; BYTES, in the model, as str."""
TYPED_FIELDS = {
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    "BOOL": "bool_contents",
    "BYTES": "bytes_contents",
}
"""The field of InferTensorContents for each datatype; FP16 and BF16 have none and travel raw."""


def from_raw(raw: bytes | memoryview, datatype: str, shape: Sequence[int]) -> NDArray[Any]:
    """View raw bytes as an array, without a copy. The caller has checked the length."""
    return np.frombuffer(raw, DTYPES[datatype]).reshape(shape)


def from_elements(elements: NDArray[Any], datatype: str, shape: Sequence[int]) -> NDArray[Any]:
    """Build an array from the elements of typed contents. The caller has checked their number."""
    return elements.astype(DTYPES[datatype]).reshape(shape)


def as_strings(elements: Sequence[bytes], shape: Sequence[int]) -> NDArray[Any]:
    """Return BYTES elements as the strings that a graph takes, which are UTF-8.

    Raises:
        UnicodeDecodeError: an element is none.
    """
    array = np.empty(len(elements), object)
    array[:] = [element.decode() for element in elements]
    return array.reshape(shape)


def widened(bits: NDArray[Any]) -> NDArray[Any]:
    """Return the values of BF16, given as bits, as float32, which holds each of them."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def filled_field(contents: pb.InferTensorContents) -> str | None:
    """Return the name of the field that holds elements, or None if all are empty."""
    fields = contents.ListFields()
    return fields[0][0].name if fields else None


def bytes_elements(elements: Iterable[bytes]) -> bytes:
    """Serialise BYTES elements: each its length as uint32, then itself."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def parse_bytes_elements(raw: bytes | memoryview, limit: int | None = None) -> list[bytes]:
    """Invert `bytes_elements`; stop after `limit` elements.

    Raises:
        ValueError: a length is cut off, or points behind the end.
    """
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) != limit:
        if at + 4 > len(raw):
            raise ValueError(
                f"incomplete string length indicator, expecting 4 bytes but only {len(raw) - at} "
                "bytes available"
            )
        (length,) = struct.unpack_from("<I", raw, at)
        at += 4
        if at + length > len(raw):
            raise ValueError(
                f"incomplete string data, expecting string of length {length} but only "
                f"{len(raw) - at} bytes available"
            )
        elements.append(bytes(raw[at : at + length]))
        at += length
    return elements
