"""inference.GRPCInferenceService: the thin thing between gRPC and the models.

ModelInfer takes the bytes of a request and gives the bytes of its answer, so that the transport
can be exchanged; the other calls are small and use message objects.
"""

import asyncio
import re
from collections.abc import Mapping
from importlib.metadata import version
from operator import methodcaller
from time import perf_counter

import grpc
from google.protobuf.message import Message

from server.decode import parse_request
from server.errors import InvalidRequest, ModelNotFound, Stopping
from server.interceptors import Behaviour, Context, MethodHandler
from server.manifest import Tensor
from server.model_config import PLATFORM
from server.pb import inference_pb2 as pb
from server.served_model import ServedModel

SERVICE = "inference.GRPCInferenceService"
EXTENSIONS = ("classification",)

_VERSION = re.compile(r"[0-9]{1,18}")


class InferenceService:
    """The six calls of the Open Inference Protocol.

    Args:
        models: what is served, by name; the owner may change it while the server runs.

    Attributes:
        draining: set to say that nothing here is ready, while everything is still answered.
        refusing: set to answer every inference request that comes from now on with UNAVAILABLE.
        accepted: inference requests taken in so far.
        finished: those of them that are over: answered, refused or given up by the caller.
    """

    def __init__(self, models: Mapping[str, ServedModel]) -> None:
        self._models = models
        self.draining = False
        self.refusing = False
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
        }
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    @property
    def ready(self) -> bool:
        """Whether every model takes requests and the server is not stopping."""
        return not self.draining and all(model.ready for model in self._models.values())

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
            model = self._resolve(request.name, request.version)
        except ModelNotFound:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=model.ready and not self.draining)

    async def server_metadata(
        self, request: pb.ServerMetadataRequest, context: Context
    ) -> pb.ServerMetadataResponse:
        """Name the server, its release and its extensions."""
        return pb.ServerMetadataResponse(
            name="nyquist", version=version("nyquist"), extensions=EXTENSIONS
        )

    async def model_metadata(
        self, request: pb.ModelMetadataRequest, context: Context
    ) -> pb.ModelMetadataResponse:
        """Describe a model's tensors, with the batch as a leading -1, and what runs it."""
        model = self._resolve(request.name, request.version)
        manifest = model.manifest
        return pb.ModelMetadataResponse(
            name=manifest.name,
            versions=[str(manifest.version)],
            platform=PLATFORM,
            inputs=[_tensor_metadata(manifest.input)],
            outputs=[_tensor_metadata(output) for output in manifest.outputs],
            parameters={"execution_provider": pb.InferParameter(string_param=model.provider)},
        )

    async def model_infer(self, body: bytes, context: Context) -> bytes:
        """Answer a request within its deadline."""
        began = perf_counter()
        if self.refusing:
            raise Stopping("Server is stopping and has stopped accepting new inference requests")
        self.accepted += 1
        remaining = context.time_remaining()
        deadline = None if remaining is None else asyncio.get_running_loop().time() + remaining
        try:
            request = parse_request(body)
            model = self._resolve(request.model_name, request.model_version)
            return await model.infer(request, began, deadline)
        finally:
            self.finished += 1

    def _resolve(self, name: str, version_asked: str) -> ServedModel:
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(f"Request for unknown model: '{name}' is not found")
        if version_asked and _version_number(version_asked) != model.manifest.version:
            raise ModelNotFound(
                f"Request for unknown model: '{name}' version {version_asked} is not found"
            )
        return model


def _version_number(text: str) -> int:
    if not (_VERSION.fullmatch(text) and int(text) > 0):
        raise InvalidRequest(
            f"failed to get model version from specified version string '{text}', "
            "version should be an integral value > 0"
        )
    return int(text)


def _unary(behaviour: Behaviour, request: type[Message]) -> MethodHandler:
    return grpc.unary_unary_rpc_method_handler(
        behaviour,
        request_deserializer=request.FromString,
        response_serializer=methodcaller("SerializeToString"),
    )


def _tensor_metadata(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=(-1, *tensor.shape)
    )
