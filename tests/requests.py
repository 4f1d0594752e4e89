"""Requests as clients send them."""

from collections.abc import Sequence

import numpy as np

from nyquist.models.samples import fashion_samples
from nyquist.server.wire import tensors
from nyquist.server.wire.pb import inference_pb2 as pb

FASHION = (1, 48, 48)


def fashion_request(
    batch: int = 1, model: str = "fashion_blur", request_id: str = ""
) -> pb.ModelInferRequest:
    """A good request for one of the small models, in raw contents."""
    pictures = fashion_samples().images[:batch].numpy()
    request = pb.ModelInferRequest(
        model_name=model, id=request_id, raw_input_contents=[pictures.tobytes()]
    )
    request.inputs.add(name="image", datatype="FP32", shape=(batch, *FASHION))
    return request


def image_request(files: Sequence[bytes], model: str = "fashion_blur") -> pb.ModelInferRequest:
    """A request of picture files."""
    body = tensors.bytes_elements(files)
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[body])
    request.inputs.add(name="image", datatype="BYTES", shape=[len(files)])
    return request


def logits(response: pb.ModelInferResponse) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    """The one output of an answer in raw contents. -> (B, classes)."""
    (output,) = response.outputs
    return tensors.from_raw(response.raw_output_contents[0], output.datatype, output.shape)
