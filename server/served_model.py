"""One model as it is served: request in, response out, everything measured.

decode -> Batcher.submit -> encode
"""

import asyncio
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from server.batcher import Batcher
from server.decode import decode_call, opened_pictures
from server.encode import encode_response
from server.errors import NyquistError
from server.images import ImageDecoder
from server.metrics import ModelMetrics
from server.pb import inference_pb2 as pb
from server.repository import LoadedModel


class ServedModel:
    """A loaded model and its batcher; `close` it to give its thread back.

    Args:
        loaded: checked, open and warm.
        metrics: its series.
        images: decodes image files, for all models.
    """

    def __init__(self, loaded: LoadedModel, metrics: ModelMetrics, images: ImageDecoder) -> None:
        self._images, self.statistics = images, metrics.statistics
        self.manifest, self.labels = loaded.manifest, loaded.labels
        self.provider = loaded.engine.provider
        self._engine, self._limits, self._metrics = loaded.engine, loaded.limits, metrics
        self._batcher = Batcher(self._run, loaded.limits, metrics)
        metrics.ready.set(1)

    @property
    def ready(self) -> bool:
        """Whether requests are taken and will be answered."""
        return self._batcher.alive

    async def infer(
        self, request: pb.ModelInferRequest, began: float, deadline: float | None
    ) -> bytes:
        """Answer one request with the bytes of a ModelInferResponse.

        Args:
            request: for this model.
            began: when its bytes came, on perf_counter.
            deadline: on the clock of the event loop; None waits for ever.

        Raises:
            NyquistError: as decode_call and Batcher.submit say.
        """
        stages = self._metrics.stages
        try:
            with self._metrics.inflight.track_inprogress():
                call = decode_call(request, self.manifest, self._limits.max_batch_size)
                pictures = await opened_pictures(call, self.manifest, self._images, deadline)
                stages["decode"].observe(perf_counter() - began)
                outputs = await self._batcher.submit(pictures, deadline)
                computed = perf_counter()
                body = encode_response(request.id, call, outputs, self.manifest, self.labels)
        except NyquistError as error:
            self._metrics.rejected[error.reason].inc()
            raise
        except asyncio.CancelledError:
            self._metrics.rejected["cancelled"].inc()
            raise
        ended = perf_counter()
        stages["encode"].observe(ended - computed)
        self.statistics.encoded(ended - computed)
        self._metrics.duration.observe(ended - began)
        return body

    async def close(self) -> None:
        """Refuse new requests, answer those that wait, give the thread back."""
        self._metrics.ready.set(0)
        await self._batcher.close()

    def _run(self, pictures: NDArray[Any]) -> dict[str, NDArray[Any]]:
        self._metrics.padding_rows.inc(self._engine.padding(len(pictures)))
        return self._engine.run(pictures)
