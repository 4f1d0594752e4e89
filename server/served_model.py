"""One model as it is served: request in, response out, everything measured.

decode -> Batcher.submit -> encode
"""

import asyncio
from time import perf_counter
from typing import Any

from numpy.typing import NDArray

from server.batcher import Batcher, Wishes
from server.decode import decode_call, opened_pictures
from server.encode import encode_response
from server.engine import Engine
from server.errors import InvalidRequest, NyquistError
from server.images import ImageDecoder
from server.metrics import ModelMetrics
from server.pb import inference_pb2 as pb
from server.queue_budget import QueueBudget
from server.repository import LoadedModel
from server.shadow import Mirror, no_mirror


class ServedModel:
    """A loaded model and its batcher; `close` it to give its threads and sessions back.

    Args:
        loaded: checked, open and warm.
        metrics: its series.
        images: decodes image files, for all models.
        budget: of queued bytes, shared with the other models.
        mirror: told of each request that has run.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        metrics: ModelMetrics,
        images: ImageDecoder,
        budget: QueueBudget,
        mirror: Mirror = no_mirror,
    ) -> None:
        self._mirror = mirror
        self._images, self.statistics = images, metrics.statistics
        self.manifest, self.labels = loaded.manifest, loaded.labels
        self.provider = loaded.engines[0].provider
        self._limits, self._metrics = loaded.limits, metrics
        runners = [_MeasuredEngine(engine, metrics) for engine in loaded.engines]
        self._batcher = Batcher(runners, loaded.limits, metrics, budget)

    @property
    def ready(self) -> bool:
        """Whether requests are taken and every instance answers."""
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
                wishes = queue_wishes(request, deadline)
                pictures = await opened_pictures(call, self.manifest, self._images, deadline)
                stages["decode"].observe(perf_counter() - began)
                outputs = await self._batcher.submit(pictures, wishes)
                computed = perf_counter()
                self._mirror(pictures, outputs)
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
        self._metrics.answered(ended - began)
        return body

    async def close(self) -> None:
        """Refuse new requests, answer those that wait, give the threads and sessions back."""
        await self._batcher.close()


class _MeasuredEngine:
    """An engine that counts the rows it adds to its batches."""

    def __init__(self, engine: Engine, metrics: ModelMetrics) -> None:
        self._engine, self._metrics = engine, metrics
        self.probe, self.terminate = engine.probe, engine.terminate

    def run(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        self._metrics.padding_rows.inc(self._engine.padding(len(batch)))
        return self._engine.run(batch)


def queue_wishes(request: pb.ModelInferRequest, deadline: float | None) -> Wishes:
    """Read the parameters `priority` and `timeout` (microseconds), as Triton's clients send them.

    Raises:
        InvalidRequest: one of them is no integer of at least 0.
    """
    if not request.parameters:
        return Wishes(deadline)
    priority = _whole_number(request, "priority", ("int64_param", "uint64_param"))
    timeout_us = _whole_number(request, "timeout", ("int64_param",))
    return Wishes(deadline, priority, timeout_us / 1e6)


def _whole_number(request: pb.ModelInferRequest, key: str, kinds: tuple[str, ...]) -> int:
    if key not in request.parameters:  # a lookup in a protobuf map would create it
        return 0
    parameter = request.parameters[key]
    kind = parameter.WhichOneof("parameter_choice") or "nothing"
    if kind not in kinds:
        expected = " or ".join(kinds)
        raise InvalidRequest(
            f"invalid value type for '{key}' parameter, expected {expected}, got {kind}."
        )
    value: int = getattr(parameter, kind)
    if value < 0:
        raise InvalidRequest(
            f"invalid value for '{key}' parameter, expected at least 0, got {value}."
        )
    return value
