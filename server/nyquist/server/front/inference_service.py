"""inference.GRPCInferenceService: the thin thing between gRPC and the models.

ModelInfer and ModelStreamInfer take the bytes of requests and give the bytes of answers, so that
the transport can be exchanged; the other calls are small and use message objects.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from importlib.metadata import version
from operator import methodcaller
from time import perf_counter
from typing import Protocol

import grpc
from google.protobuf.message import Message

from nyquist.server.artifact.model_config import PLATFORM
from nyquist.server.front.calls import Behaviour, Context, MethodHandler
from nyquist.server.front.control_calls import ControlCalls
from nyquist.server.front.request_version import version_number
from nyquist.server.front.stream import ordered_answers
from nyquist.server.serving.registry import Registry, Serving
from nyquist.server.wire.encode import field_start
from nyquist.server.wire.errors import ModelNotFound, ModelNotReady, NyquistError, Stopping
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pictures import FORMATS
from nyquist.server.wire.request_head import LONG_BYTES, Heads, Incoming, Requests
from nyquist.server.wire.signature import Signature, TensorSpec

SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = (
    "classification",
    "model_repository",
    "model_repository(unload_dependents)",
    "model_configuration",
    "statistics",
    "trace",
    "logging",
    "parameters",
    "binary_tensor_data",
)
STREAM_IN_FLIGHT = 64
"""Requests of one stream that are answered at a time."""

_FINAL = pb.ModelInferResponse(
    parameters={"triton_final_response": pb.InferParameter(bool_param=True)}
).SerializeToString()
_STOPPING = "Server is stopping and has stopped accepting new inference requests"

logger = logging.getLogger(__name__)


class Others(Protocol):
    """The other processes of a server."""

    def everywhere(self, name: str, alone: Behaviour) -> Behaviour:
        """Return what answers a call for all of them; `alone` does so for this one."""

    def ready(self, name: str = "") -> bool:
        """Say whether a model, or everything, is ready in all of them."""


class InferenceService:
    """The calls of the Open Inference Protocol, and the extensions.

    Args:
        registry: what is served; it may change while the server runs.
        control: the calls that look after the models and the server.
        default_deadline_s: of a ModelInfer that comes without one; None leaves it without.
        others: the other processes of this server; None is without.

    Attributes:
        draining: set to say that nothing here is ready, while everything is still answered.
        accepted: inference requests taken in so far.
        finished: those of them that are over: answered, refused or given up by the caller.
    """

    def __init__(
        self,
        registry: Registry,
        control: ControlCalls,
        default_deadline_s: float | None,
        others: Others | None = None,
    ) -> None:
        self._registry, self._control, self._others = registry, control, others
        self._default_deadline_s = default_deadline_s
        self._requests = Requests()
        self._names: Heads[tuple[str, int | None]] = Heads()
        self._loop = asyncio.get_running_loop()
        self._ending, self._refusing = asyncio.Event(), False
        self.draining = False
        self.accepted = 0
        self.finished = 0

    def handler(self) -> grpc.GenericRpcHandler:
        """Return what `grpc.aio.Server.add_generic_rpc_handlers` takes."""
        handlers = {
            "ServerLive": _unary(self.server_live, pb.ServerLiveRequest),
            "ServerReady": _unary(self.server_ready, pb.ServerReadyRequest),
            "ModelReady": _unary(self.model_ready, pb.ModelReadyRequest),
            "ServerMetadata": _unary(self.server_metadata, pb.ServerMetadataRequest),
            "ModelMetadata": _unary(self.model_metadata, pb.ModelMetadataRequest),
            "ModelInfer": grpc.unary_unary_rpc_method_handler(self.model_infer),
            "ModelStreamInfer": grpc.stream_stream_rpc_method_handler(self.model_stream_infer),
        }
        for name, (behaviour, request) in self._control.calls().items():
            handlers[name] = _unary(
                self._others.everywhere(name, behaviour) if self._others else behaviour, request
            )
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def end_streams(self) -> None:
        """Read no more of any stream, and load nothing more; calls are answered as they come."""
        self._ending.set()
        self._control.stop()

    def refuse(self) -> None:
        """Do so, and answer every inference request that comes from now on with UNAVAILABLE."""
        self.end_streams()
        self._refusing = True

    @property
    def ready(self) -> bool:
        """Whether every model that is served answers and the server is not stopping."""
        return self.alone_ready and (self._others is None or self._others.ready())

    @property
    def alone_ready(self) -> bool:
        """The same of this process, whatever the others are like."""
        return not self.draining and self._registry.ready

    def signature(self, name: str, version_asked: str) -> Signature:
        """Return what a model takes and gives.

        Raises:
            NyquistError: there is no such model or version, or it is not ready.
        """
        return self._resolve(name, version_asked).model.signature

    async def server_live(
        self, request: pb.ServerLiveRequest, context: Context
    ) -> pb.ServerLiveResponse:
        """Answer that the process answers."""
        return pb.ServerLiveResponse(live=True)

    async def server_ready(
        self, request: pb.ServerReadyRequest, context: Context
    ) -> pb.ServerReadyResponse:
        """Say whether every model is ready."""
        return pb.ServerReadyResponse(ready=self.ready)

    async def model_ready(
        self, request: pb.ModelReadyRequest, context: Context
    ) -> pb.ModelReadyResponse:
        """Say whether one model is ready; an unknown one is not, which is no error."""
        try:
            serving = self._resolve(request.name, request.version)
        except (ModelNotFound, ModelNotReady):
            return pb.ModelReadyResponse(ready=False)
        ready = serving.model.ready and not self.draining
        if self._others is not None:
            ready = ready and self._others.ready(request.name)
        return pb.ModelReadyResponse(ready=ready)

    async def server_metadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name the server, its release and its extensions."""
        return pb.ServerMetadataResponse(
            name="nyquist", version=version("nyquist-serving"), extensions=EXTENSIONS
        )

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Describe a model's tensors, with the batch as a leading -1, and what runs it."""
        model = self._resolve(request.name, request.version).model
        manifest = model.described
        served = self._registry.served(manifest.name)
        facts = {"execution_provider": model.provider, "sha256": manifest.graph_sha256}
        facts |= manifest.head.parameters()
        if model.max_batch_size:
            facts["max_batch_size"] = str(model.max_batch_size)
        if picture := manifest.signature.picture:
            facts |= {"image_formats": ",".join(FORMATS), **picture.parameters()}
        return pb.ModelMetadataResponse(
            name=manifest.name,
            versions=[str(one.model.described.version) for one in served],
            platform=PLATFORM,
            inputs=[_tensor_metadata(one) for one in manifest.inputs],
            outputs=[_tensor_metadata(output) for output in manifest.outputs],
            parameters={key: pb.InferParameter(string_param=fact) for key, fact in facts.items()},
        )

    async def model_infer(self, body: bytes, context: Context) -> bytes:
        """Answer a request within its deadline."""
        remaining_s = context.time_remaining()
        if remaining_s is None:
            remaining_s = self._default_deadline_s
        return await self._infer(self._requests.read(body), remaining_s)

    async def model_stream_infer(
        self, bodies: AsyncIterator[bytes], context: Context
    ) -> AsyncIterator[bytes]:
        """Answer requests in their order, side by side; an error is an answer of its own."""
        async for answer in ordered_answers(
            bodies, self._stream_answer, STREAM_IN_FLIGHT, self._ending
        ):
            yield answer
        if self._ending.is_set():
            await context.abort(grpc.StatusCode.UNAVAILABLE, _STOPPING)

    async def _stream_answer(self, body: bytes) -> bytes:
        """Return the bytes of a ModelStreamInferResponse, whatever the request is like."""
        request, request_id = self._requests.read(body), ""
        try:
            request_id = request.id
            answer = await self._infer(request, None)
        except NyquistError as error:
            return _stream_error(request_id, str(error))
        except Exception:
            logger.exception("unexpected error in ModelStreamInfer")
            return _stream_error(request_id, "internal error; see the log")
        final = answer + _FINAL
        return field_start(2, len(final)) + final

    async def _infer(self, request: Incoming, remaining_s: float | None) -> bytes:
        began = perf_counter()
        if self._refusing:
            raise Stopping(_STOPPING)
        self.accepted += 1
        deadline = None if remaining_s is None else self._loop.time() + remaining_s
        try:
            name, number = self._names.get(request.head) or await self._read_names(request)
            with self._registry.find(name, number) as model:
                return await model.infer(request, began, deadline)
        finally:
            self.finished += 1

    async def _read_names(self, request: Incoming) -> tuple[str, int | None]:
        """Parse a request, and return which model and version it is for."""
        if len(request.body) > LONG_BYTES:
            await asyncio.to_thread(lambda: request.message)
        message = request.message
        names = message.model_name, version_number(message.model_version)
        self._names.remember(request.head, names)
        return names

    def _resolve(self, name: str, version_asked: str) -> Serving:
        return self._registry.find(name, version_number(version_asked))


def _unary(behaviour: Behaviour, request: type[Message]) -> MethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=request.FromString,
        response_serializer=methodcaller("SerializeToString"),
    )


def _stream_error(request_id: str, message: str) -> bytes:
    response = pb.ModelStreamInferResponse(error_message=message)
    response.infer_response.id = request_id
    return response.SerializeToString()


def _tensor_metadata(tensor: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=tensor.whole
    )
