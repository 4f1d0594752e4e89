"""One model as it is served: request in, response out, everything measured.

look its head up, or decode and check it -> Batcher.submit -> fill in the answer, or encode it
"""

import asyncio
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nyquist.server.runtime.engine import Engine
from nyquist.server.scheduling.batcher import Batcher, RequestOptions
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.scheduling.request_queue import Pictures
from nyquist.server.serving.loading import LoadedModel
from nyquist.server.serving.shadow import Mirror
from nyquist.server.telemetry.current_call import current_call
from nyquist.server.telemetry.metrics import ModelMetrics
from nyquist.server.wire.decode import InferCall, decode_call, opened_pictures
from nyquist.server.wire.encode import AnswerForm, encode_response
from nyquist.server.wire.errors import InvalidRequest, NyquistError
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pictures import ImageDecoder
from nyquist.server.wire.request_head import LONG_BYTES, Heads, Incoming


class ServedModel:
    """A loaded model and its batcher; `close` it to give its threads and sessions back.

    Args:
        loaded: checked, open and warm.
        metrics: its series.
        images: decodes image files, for all models.
        budget: of queued bytes, shared with the other models.
        mirror: told of each request that has run; None where nobody is.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        metrics: ModelMetrics,
        images: ImageDecoder,
        budget: QueueBudget,
        mirror: Mirror | None = None,
    ) -> None:
        self._mirror = mirror
        self._images, self.statistics = images, metrics.statistics
        self.described, self.labels = loaded.described, loaded.labels
        self.signature = loaded.described.signature
        self.provider = loaded.engines[0].provider
        self._limits, self._metrics = loaded.limits, metrics
        self._forms: Heads[_Form] = Heads()
        runners = [_MeasuredEngine(engine, metrics) for engine in loaded.engines]
        low_latency = (
            None if loaded.low_latency is None else _MeasuredEngine(loaded.low_latency, metrics)
        )
        self._batcher = Batcher(runners, loaded.limits, metrics, budget, low_latency=low_latency)

    @property
    def max_batch_size(self) -> int:
        """Pictures that a request may hold; 0 where the graph's own shapes say it."""
        return self._limits.max_batch_size if self.signature.batched else 0

    @property
    def ready(self) -> bool:
        """Whether requests are taken and every instance answers."""
        return self._batcher.alive

    async def infer(self, request: Incoming, began: float, deadline: float | None) -> bytes:
        """Answer one request with the bytes of a ModelInferResponse.

        Args:
            request: for this model.
            began: when its bytes came, on perf_counter.
            deadline: on the clock of the event loop; None waits for ever.

        Raises:
            NyquistError: as decode_call and Batcher.submit say; the message begins with the id.
        """
        metrics, call = self._metrics, current_call()
        metrics.taken(call)
        try:
            form = self._forms.get(request.head)
            if form is None or form.size != request.size:
                form, pictures = await self._decoded(request, deadline)
            else:
                pictures = np.ndarray(form.shape, form.dtype, request.body, request.start)
            metrics.decoded(call, began, perf_counter())
            options = RequestOptions(deadline, form.priority, form.timeout_s, call.spans)
            outputs = await self._batcher.submit(pictures, options)
            computed = perf_counter()
            if self._mirror is not None and isinstance(pictures, np.ndarray):
                self._mirror(pictures, outputs)
            body = self._encoded(request, form, outputs)
        except BaseException as error:
            metrics.failed(call, error, began)
            if isinstance(error, NyquistError):
                raise _named(error, request) from error
            raise
        metrics.answered(call, began, computed)
        return body

    async def _decoded(self, request: Incoming, deadline: float | None) -> tuple["_Form", Pictures]:
        """Parse and check a request; remember its head if the next one may have it again."""
        most = self._limits.max_batch_size
        read = partial(decode_call, request.message, request.raw, self.signature, most)
        call = await asyncio.to_thread(read) if len(request.body) > LONG_BYTES else read()
        priority, timeout_s = queue_options(request.message)
        pictures = await opened_pictures(call, self.signature, self._images, deadline)
        answer = AnswerForm.of(call, self.signature, len(pictures))
        call = replace(call, pictures=())
        dtype = pictures.dtype if isinstance(pictures, np.ndarray) else None
        form = _Form(pictures.shape, dtype, pictures.nbytes, call, priority, timeout_s, answer)
        if answer is not None and dtype is not None and request.size == form.size:
            self._forms.remember(request.head, form)
        return form, pictures

    def _encoded(self, request: Incoming, form: "_Form", outputs: dict[str, NDArray[Any]]) -> bytes:
        if form.answer is not None and request.head:
            body = form.answer.fill(request.id_bytes, outputs)
            if body is not None:
                return body
        return encode_response(request.id, form.call, outputs, self.signature, self.labels)

    async def close(self) -> None:
        """Refuse new requests, answer those that wait, give the threads and sessions back."""
        await self._batcher.close()


@dataclass(frozen=True, slots=True)
class _Form:
    """A checked request but for its id and its pictures, and the form of its answer."""

    shape: tuple[Any, ...]
    dtype: np.dtype[Any] | None
    size: int
    call: InferCall
    priority: int
    timeout_s: float
    answer: AnswerForm | None


def _named(error: NyquistError, request: Incoming) -> NyquistError:
    """Put the id of a request in front of the error that it met."""
    name = f"[request id: {request.id or '<id_unknown>'}] "
    return type(error)(f"{name}{str(error).removeprefix(name)}")


class _MeasuredEngine:
    """An engine that counts the rows it adds to its batches."""

    def __init__(self, engine: Engine, metrics: ModelMetrics) -> None:
        self._engine, self._metrics = engine, metrics
        self.probe, self.terminate = engine.probe, engine.terminate

    def run(self, batch: Pictures) -> dict[str, NDArray[Any]]:
        if rows := self._engine.padding(len(batch)):
            self._metrics.padded(rows)
        return self._engine.run(batch)


def queue_options(request: pb.ModelInferRequest) -> tuple[int, float]:
    """Read `priority` and `timeout` as Triton's clients send them; the latter in microseconds.

    Returns:
        The priority and the timeout in seconds; 0 where there is none.

    Raises:
        InvalidRequest: one of them is no integer of at least 0.
    """
    if not request.parameters:
        return 0, 0.0
    priority = _whole_number(request, "priority", ("int64_param", "uint64_param"))
    return priority, _whole_number(request, "timeout", ("int64_param",)) / 1e6


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
