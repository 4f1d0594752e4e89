"""Mirrored inferences to arrays, all of it checked: whoever reaches the port may forge one."""

from nyquist.companion.measures.shifts import Pictures
from nyquist.companion.references.repository import LoadedReference
from nyquist.server.wire import tensors
from nyquist.server.wire.errors import InvalidRequest
from nyquist.server.wire.pb import shadow_pb2 as pb
from nyquist.server.wire.signature import TensorSpec


def decoded(inference: pb.MirroredInference, known: LoadedReference) -> tuple[Pictures, Pictures]:
    """Return the pictures of an inference, (B, ...), and the served logits, (B, C).

    Raises:
        InvalidRequest: it is not what the model takes and gives.
    """
    pictures = pictures_of(inference)
    _must_fit("pictures are", inference.pictures, known.input, "takes")
    manifest = known.manifest
    answer = manifest.outputs[0].name if manifest else known.head.output
    for tensor in inference.outputs:
        if tensor.name == answer:
            if manifest:
                _must_fit(f"{answer} is", tensor, manifest.outputs[0], "gives")
            served = _array(tensor)
            if len(served) != len(pictures):
                raise InvalidRequest(f"{len(pictures)} pictures have {len(served)} answers")
            return pictures, served
    raise InvalidRequest(f"outputs are {[one.name for one in inference.outputs]}, without {answer}")


def pictures_of(inference: pb.MirroredInference) -> Pictures:
    """Return the pictures of an inference, (B, ...), one at least.

    Raises:
        InvalidRequest: they are none, or cannot be read.
    """
    return _array(inference.pictures)


def _must_fit(
    what: str, tensor: pb.MirroredInference.Tensor, wanted: TensorSpec, verb: str
) -> None:
    shape = tuple(tensor.shape)[1:]
    if tensor.datatype != wanted.datatype or not wanted.fits(shape):
        raise InvalidRequest(
            f"{what} {tensor.datatype} {shape}, the model {verb} {wanted.datatype} {wanted.shape}"
        )


def _array(tensor: pb.MirroredInference.Tensor) -> Pictures:
    shape = tuple(tensor.shape)
    try:
        view = tensors.from_raw(tensor.raw, tensor.datatype, shape)
    except (KeyError, ValueError) as error:
        raise InvalidRequest(f"tensor {tensor.name!r} cannot be read: {error}") from error
    if min(shape, default=0) < 1:
        raise InvalidRequest(f"tensor {tensor.name!r} has shape {shape}, without a picture")
    return view.copy()  # PyTorch does not take what cannot be written to
