"""The model that is measured, the requests that it gets, and the answers that are right.

artifact -> pictures -> request bytes, and the logits of onnxruntime
"""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from nyquist.server.artifact.layout import latest_version, read_config
from nyquist.server.artifact.manifest import MODEL_FILE, Manifest, read_manifest
from nyquist.server.wire import tensors
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pictures import read_picture

PHOTOGRAPH = Path(__file__).parent.parent / "models/nyquist/models/data/photographs/coffee.png"
PHOTOGRAPH_SIZE = (500, 375)
"""Of the JPEG that is sent: the commonest of ImageNet; a network's own would need no resize."""

TOLERANCE = 1e-3
"""Of an answer, as a share of the logits' spread: peers may bring another onnxruntime."""


class WrongAnswer(Exception):
    """A server answered something else than onnxruntime."""


@dataclass(frozen=True)
class Request:
    """What a client sends, and what it has to get.

    Attributes:
        body: a serialized ModelInferRequest.
        images: in it.
        logits: of onnxruntime, (images, classes).
    """

    body: bytes
    images: int
    logits: NDArray[np.float32]

    def check(self, body: bytes) -> None:
        """Compare a serialized answer with onnxruntime's.

        Raises:
            WrongAnswer: it differs by more than TOLERANCE.
        """
        response = pb.ModelInferResponse.FromString(body)
        if response.raw_output_contents:
            flat = np.frombuffer(response.raw_output_contents[0], np.float32)
        elif response.outputs:
            flat = np.array(response.outputs[0].contents.fp32_contents, np.float32)
        else:
            raise WrongAnswer("an answer without an output")
        if flat.size != self.logits.size:
            raise WrongAnswer(f"an answer of {flat.size} numbers, expected {self.logits.size}")
        error = float(np.abs(flat - self.logits.ravel()).max() / np.ptp(self.logits))
        if not error <= TOLERANCE:
            raise WrongAnswer(f"logits differ by {error:.1e} of their spread, allowed {TOLERANCE}")


class MeasuredModel:
    """One model of a repository, in its newest version.

    Args:
        folder: of the model.

    Attributes:
        graph: path of its ONNX file.
        manifest: what it is.
    """

    def __init__(self, folder: Path) -> None:
        version = latest_version(folder)
        self.folder = folder
        self.graph = folder / str(version) / MODEL_FILE
        self.manifest: Manifest = read_manifest(folder, version)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def mmacs(self) -> float:
        """Return million multiply-adds of a picture."""
        return self.manifest.figures.multiply_adds / 1e6

    @property
    def max_batch_size(self) -> int:
        """Return the largest batch that a server may make."""
        return read_config(self.folder, self.manifest).max_batch_size

    def pictures(self, batch: int, side: int = 0) -> NDArray[Any]:
        """Return random pictures as the graph takes them. -> (batch, ...).

        Args:
            batch: how many.
            side: height and width where the model leaves them open; 0: the least.
        """
        tensor = self.manifest.input
        shape = [
            size if size > 0 else side or low
            for size, low in zip(tensor.shape, tensor.bounds[0], strict=True)
        ]
        values = np.random.default_rng(0).random((batch, *shape))
        scale = 255 if tensor.datatype == "UINT8" else 1
        return (values * scale).astype(tensors.DTYPES[tensor.datatype])

    def tensor_request(self, batch: int, side: int = 0) -> Request:
        """Return a request of raw tensors."""
        pictures = self.pictures(batch, side)
        body = self._body(pictures.tobytes(), self.manifest.input.datatype, pictures.shape)
        return Request(body, batch, self._logits(pictures))

    def jpeg_request(self, batch: int) -> Request:
        """Return a request of JPEG files."""
        files = [jpeg(self.manifest.input.shape)] * batch
        body = self._body(tensors.bytes_elements(files), "BYTES", (batch,))
        return Request(body, batch, self._logits(np.stack([self.decode(file) for file in files])))

    def decode(self, file: bytes) -> NDArray[Any]:
        """Decode and resize a picture, as the server does, in this thread."""
        wanted = self.manifest.signature.picture
        if wanted is None:
            raise ValueError(f"{self.name} takes no pictures")
        return read_picture(file, wanted)

    def answer(self, request: Request) -> bytes:
        """Return the answer that a server should give, serialized."""
        response = pb.ModelInferResponse(
            model_name=self.name,
            model_version=str(self.manifest.version),
            raw_output_contents=[request.logits.tobytes()],
        )
        (output, *_) = self.manifest.outputs
        response.outputs.add(name=output.name, datatype="FP32", shape=request.logits.shape)
        return response.SerializeToString()

    def _body(self, raw: bytes, datatype: str, shape: tuple[int, ...]) -> bytes:
        request = pb.ModelInferRequest(model_name=self.name, raw_input_contents=[raw])
        request.inputs.add(name=self.manifest.input.name, datatype=datatype, shape=shape)
        return request.SerializeToString()

    def _logits(self, pictures: NDArray[Any]) -> NDArray[np.float32]:
        session = open_graph(self.graph, threads=1)
        return session.run(None, {self.manifest.input.name: pictures})[0]


def jpeg(shape: tuple[int, ...]) -> bytes:
    """Return a photograph as JPEG, grey where the model's input has one channel."""
    mode = "L" if 1 in shape else "RGB"
    with Image.open(PHOTOGRAPH) as picture, io.BytesIO() as file:
        picture.convert(mode).resize(PHOTOGRAPH_SIZE).save(file, "JPEG", quality=90)
        return file.getvalue()


def open_graph(graph: Path, threads: int, *, spinning: bool = False) -> ort.InferenceSession:
    """Open a session of bare onnxruntime on the CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
