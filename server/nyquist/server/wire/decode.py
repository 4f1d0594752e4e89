"""Decode a request and check it against the model, before it is queued.

ModelInferRequest -> inputs, checked -> array, Feeds or image files -> InferCall

Texts of errors are those that Triton's users know, where Triton has one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from nyquist.server.wire import tensors
from nyquist.server.wire.errors import InvalidRequest, NotServed
from nyquist.server.wire.feeds import Feeds
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pictures import ImageDecoder
from nyquist.server.wire.signature import DYNAMIC, Signature, TensorSpec

RESERVED_PREFIX = "triton_"
NOT_RESERVED = "triton_enable_empty_final_response"
SHARED_MEMORY = "shared_memory_"
IMAGE_DATATYPE = "BYTES"


Raws: TypeAlias = Sequence[bytes | memoryview]
Tensor = pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor


@dataclass(frozen=True)
class RequestedOutput:
    """One output that the caller wants.

    Attributes:
        name: of the output.
        classes: 0 for the tensor itself, k for the k highest classes with their labels.
    """

    name: str
    classes: int = 0


@dataclass(frozen=True)
class InferCall:
    """A request that fits the model.

    Attributes:
        pictures: (B, *input shape), 1 <= B <= max_batch_size, a view of the request's bytes, as
            the graph takes it; or B image files, to be decoded; or what the model takes in place
            of one array of numbers.
        outputs: what to answer, in the caller's order, or all by name where none is asked for.
        typed: answer in typed contents, because the request came in them.
    """

    pictures: NDArray[Any] | Feeds | tuple[bytes, ...]
    outputs: tuple[RequestedOutput, ...]
    typed: bool


def decode_call(
    request: pb.ModelInferRequest, raws: Raws, signature: Signature, max_batch_size: int
) -> InferCall:
    """Check a request against the model it names, and return its arrays and options.

    Args:
        request: parsed; its raw contents may be left out.
        raws: its raw contents.
        signature: of the model.
        max_batch_size: likewise.

    Raises:
        InvalidRequest: input, shape, datatype, size, output or parameter is not the model's.
        NotServed: a tensor is to travel in shared memory.
    """
    _check_parameters(request)
    places = _places(request, signature)
    first = request.inputs[places[0]]
    pictures: NDArray[Any] | Feeds | tuple[bytes, ...]
    if signature.picture is not None and first.datatype == IMAGE_DATATYPE:
        _check_file_shape(first, signature, max_batch_size)
        files, typed = _elements(request, raws, 0, first.shape[0], signature)
        pictures = tuple(files)
    else:
        found = [
            _array(request, raws, place, spec, signature, max_batch_size)
            for place, spec in zip(places, signature.inputs, strict=True)
        ]
        typed = any(one for _, one in found)
        pictures = _together([array for array, _ in found], signature)
    return InferCall(pictures, _requested_outputs(request, signature), typed)


def _together(arrays: list[NDArray[Any]], signature: Signature) -> NDArray[Any] | Feeds:
    """Return the array of a plain model, the inputs of any other by their names."""
    if signature.plain:
        return arrays[0]
    names = [spec.name for spec in signature.inputs]
    rows = [len(array) for array in arrays] if signature.batched else [1]
    for name, size in zip(names, rows, strict=False):
        if size != rows[0]:
            raise InvalidRequest(
                f"input '{name}' batch size does not match other inputs for '{signature.name}': "
                f"got {size}, that of '{names[0]}' is {rows[0]}"
            )
    return Feeds(dict(zip(names, arrays, strict=True)), rows[0])


def _check_parameters(request: pb.ModelInferRequest) -> None:
    for key in request.parameters:
        if key.startswith(RESERVED_PREFIX) and key != NOT_RESERVED:
            raise InvalidRequest(
                f"parameter keys starting with '{RESERVED_PREFIX}' are reserved, got '{key}'"
            )


def _check_memory(tensor: Tensor) -> None:
    """Refuse shared memory: it is where the worst holes of other servers were."""
    if any(key.startswith(SHARED_MEMORY) for key in tensor.parameters):
        raise NotServed(f"shared memory is not served; send or receive '{tensor.name}' as bytes")


def _places(request: pb.ModelInferRequest, signature: Signature) -> list[int]:
    """Return where in the request each input of the model stands."""
    got = [tensor.name for tensor in request.inputs]
    names = [spec.name for spec in signature.inputs]
    if missing := [name for name in names if name not in got]:
        raise InvalidRequest(
            f"expected {len(names)} inputs but got {len(got)} inputs for model "
            f"'{signature.name}'. Got input(s) {got}, but missing required input(s) {missing}. "
            "Please provide all required input(s)."
        )
    if len(got) > len(names):
        extra = sorted(got)
        for name in names:
            extra.remove(name)
        has = f"the one input '{names[0]}'" if len(names) == 1 else f"the inputs {names}"
        raise InvalidRequest(
            f"unexpected inference input(s) {extra} for model '{signature.name}', which has {has}"
        )
    for tensor in request.inputs:
        _check_memory(tensor)
    return [got.index(name) for name in names]


def _array(
    request: pb.ModelInferRequest,
    raws: Raws,
    place: int,
    spec: TensorSpec,
    signature: Signature,
    max_batch_size: int,
) -> tuple[NDArray[Any], bool]:
    """Return an input as the graph takes it, and whether it came in typed contents."""
    tensor = request.inputs[place]
    if tensor.datatype != spec.datatype:
        raise InvalidRequest(
            f"inference input '{tensor.name}' data-type is '{tensor.datatype}', "
            f"but model '{signature.name}' expects '{spec.datatype}'"
        )
    shape = _checked_shape(tensor, spec, signature)
    if signature.plain or signature.batched:
        _check_batch(shape[0], signature, max_batch_size)
    inner = spec.to_graph(shape)
    where = f"for model '{signature.name}'"
    if spec.datatype == "BYTES":
        elements, typed = _elements(request, raws, place, prod(shape), signature)
        try:
            return tensors.as_strings(elements, inner), typed
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"a string of input '{tensor.name}' {where} is no UTF-8: {error.reason}"
            ) from error
    raw, field = _contents(request, raws, place, signature)
    if field:
        return _from_typed(field, tensor, inner, where), True
    return _from_raw(raw, tensor, inner, where), False


def _checked_shape(
    tensor: pb.ModelInferRequest.InferInputTensor, spec: TensorSpec, signature: Signature
) -> list[int]:
    shape = list(tensor.shape)
    where = f"for input '{tensor.name}' for model '{signature.name}'"
    if not shape and spec.batch is not None:
        raise InvalidRequest(
            f"input '{tensor.name}' has no shape but model requires batch dimension "
            f"for '{signature.name}'"
        )
    if min(shape, default=0) < 0:
        raise InvalidRequest(f"All input dimensions should be specified {where}, got {shape}")
    first = shape[0] if shape else None
    if not spec.fits(shape[1:]) or spec.batch not in (DYNAMIC, first):
        least, most = spec.bounds
        bounded = least != most and not spec.unbounded
        bounds = f" from {list(least)} to {list(most)}" if bounded else ""
        raise InvalidRequest(
            f"unexpected shape {where}. Expected {list(spec.whole)}{bounds}, "
            f"got {shape}. NOTE: the first dimension is the batch"
        )
    return shape


def _check_batch(size: int, signature: Signature, max_batch_size: int) -> None:
    if not 1 <= size <= max_batch_size:
        raise InvalidRequest(
            f"inference request batch-size must be <= {max_batch_size} for '{signature.name}', "
            f"and at least 1, got {size}"
        )


def _check_file_shape(
    tensor: pb.ModelInferRequest.InferInputTensor, signature: Signature, max_batch_size: int
) -> None:
    shape = list(tensor.shape)
    if not shape or shape[1:] not in ([], [1]):
        raise InvalidRequest(
            f"unexpected shape for input '{tensor.name}' for model '{signature.name}'. "
            f"Expected [-1] or [-1, 1] for image files, got {shape}"
        )
    _check_batch(shape[0], signature, max_batch_size)


def _elements(
    request: pb.ModelInferRequest, raws: Raws, place: int, count: int, signature: Signature
) -> tuple[list[bytes], bool]:
    """Return the BYTES elements of an input, and whether they came in typed contents."""
    tensor = request.inputs[place]
    where = f"input '{tensor.name}' for model '{signature.name}'"
    raw, typed = _contents(request, raws, place, signature)
    if typed:
        if typed != "bytes_contents":
            raise InvalidRequest(
                f"unexpected explicit tensor data for {where}: got {typed}, "
                "expected bytes_contents for datatype 'BYTES'"
            )
        elements = list(tensor.contents.bytes_contents)
    else:
        try:
            elements = tensors.parse_bytes_elements(raw, limit=count + 1)
        except ValueError as error:
            what, _, found = str(error).partition(", ")
            raise InvalidRequest(f"{what} for inference {where}, {found}") from error
    if len(elements) > count:
        raise InvalidRequest(
            f"unexpected number of string elements {len(elements)} for inference {where}, "
            f"expecting {count}"
        )
    if len(elements) < count:
        raise InvalidRequest(
            f"expected {count} string elements for inference {where}, got {len(elements)}"
        )
    return elements, bool(typed)


def _contents(
    request: pb.ModelInferRequest, raws: Raws, place: int, signature: Signature
) -> tuple[bytes | memoryview, str]:
    """Return the raw contents of an input, or the name of the typed field that holds it."""
    tensor, where = request.inputs[place], f"for model '{signature.name}'"
    field = tensors.filled_field(tensor.contents)
    if raws:
        if field is not None:
            raise InvalidRequest(
                "contents field must not be specified when using raw_input_contents "
                f"for '{tensor.name}' {where}"
            )
        if len(raws) != len(request.inputs):
            raise InvalidRequest(
                f"expected {len(request.inputs)} raw_input_contents, one for each input, "
                f"got {len(raws)} {where}"
            )
        return raws[place], ""
    if field is None:
        raise InvalidRequest(
            f"unable to find data for input tensor '{tensor.name}' {where} in request."
        )
    return b"", field


def _from_raw(
    raw: bytes | memoryview,
    tensor: pb.ModelInferRequest.InferInputTensor,
    shape: Sequence[int],
    where: str,
) -> NDArray[Any]:
    expected = prod(shape) * tensors.DTYPES[tensor.datatype].itemsize
    if len(raw) != expected:
        raise InvalidRequest(
            f"input byte size mismatch for input '{tensor.name}' {where}. "
            f"Expected {expected}, got {len(raw)}"
        )
    return tensors.from_raw(raw, tensor.datatype, shape)


def _from_typed(
    field: str, tensor: pb.ModelInferRequest.InferInputTensor, shape: Sequence[int], where: str
) -> NDArray[Any]:
    expected = tensors.TYPED_FIELDS.get(tensor.datatype, "raw_input_contents")
    if field != expected:
        raise InvalidRequest(
            f"unexpected explicit tensor data for input tensor '{tensor.name}' {where}: "
            f"got {field}, expected {expected} for datatype '{tensor.datatype}'"
        )
    contents = getattr(tensor.contents, field)
    if len(contents) != prod(shape):
        raise InvalidRequest(
            f"expected {prod(shape)} elements for input '{tensor.name}' {where}, "
            f"got {len(contents)}"
        )
    elements = np.array(contents)
    dtype = tensors.DTYPES[tensor.datatype]
    if dtype.kind in "iu":  # of which the fields take wider ones
        least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
        wrong = [one for one in (elements.min(), elements.max()) if not least <= one <= most]
        if wrong:
            raise InvalidRequest(
                f"elements of input '{tensor.name}' {where} must be in {least}..{most}, "
                f"got {wrong[0]}"
            )
    return tensors.from_elements(elements, tensor.datatype, shape)


def _requested_outputs(
    request: pb.ModelInferRequest, signature: Signature
) -> tuple[RequestedOutput, ...]:
    known = [output.name for output in signature.outputs]
    if not request.outputs:
        return tuple(RequestedOutput(name) for name in sorted(known))  # seen of Triton 2.51
    names = [output.name for output in request.outputs]
    if len(set(names)) < len(names):
        raise InvalidRequest(
            f"an output is requested more than once for model '{signature.name}', "
            f"got {_shortened(names)}"
        )
    for output in request.outputs:
        _check_memory(output)
    for name in names:
        if name not in known:
            raise InvalidRequest(
                f"unexpected inference output '{name}' for model '{signature.name}', "
                f"which has {known}"
            )
    return tuple(RequestedOutput(output.name, _classes(output)) for output in request.outputs)


def _classes(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> int:
    if "classification" not in output.parameters:
        return 0
    parameter = output.parameters["classification"]
    if parameter.WhichOneof("parameter_choice") != "int64_param" or parameter.int64_param < 1:
        raise InvalidRequest(
            "invalid value for 'classification' parameter, expected int64_param of at least 1"
        )
    return parameter.int64_param


def _shortened(names: list[str], limit: int = 8) -> str:
    return f"{names[:limit]}{' ...' if len(names) > limit else ''}"


async def opened_pictures(
    call: InferCall, signature: Signature, images: ImageDecoder, deadline: float | None
) -> NDArray[Any] | Feeds:
    """Return what a call brings, with image files decoded. -> (B, *input shape).

    Raises:
        NyquistError: as ImageDecoder.decode says.
    """
    if not isinstance(call.pictures, tuple):
        return call.pictures
    if signature.picture is None:
        raise InvalidRequest(f"model '{signature.name}' takes no image files")
    return await images.decode(call.pictures, signature.picture, deadline)
