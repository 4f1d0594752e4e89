"""MLServer's stubs, types, codecs and converters: python mlserver_client.py TARGET PICTURE."""

import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found] # of its own environment
from mlserver.grpc import converters  # type: ignore[import-not-found] # as above
from mlserver.grpc import dataplane_pb2 as ml_pb
from mlserver.grpc import dataplane_pb2_grpc as ml_stubs
from mlserver.types import (  # type: ignore[import-not-found] # as above
    InferenceRequest,
    RequestInput,
)
from rows import refused, row  # type: ignore[import-not-found] # beside this script

MODEL = "fashion_strided"
ZEROS = np.zeros((2, 1, 48, 48), np.float32)


def converted(values: Any, model: str = MODEL, *, raw: bool) -> Any:
    given = NumpyCodec.encode_input("image", values)
    return converters.ModelInferRequestConverter.from_types(
        InferenceRequest(inputs=[given]), model_name=model, model_version=None, use_raw=raw
    )


def answered(stub: Any, request: Any, classes: int = 10) -> bool:
    answer = converters.ModelInferResponseConverter.to_types(stub.ModelInfer(request))
    return NumpyCodec.decode_output(answer.outputs[0]).shape == (2, classes)


def pictured(stub: Any, file: bytes) -> bool:
    given = RequestInput(name="image", shape=[2], datatype="BYTES", data=[file, file])
    request = converters.ModelInferRequestConverter.from_types(
        InferenceRequest(inputs=[given]), "efficientnet_lite0", None, use_raw=True
    )
    return answered(stub, request, classes=1000)


def described(stub: Any) -> bool:
    metadata = stub.ModelMetadata(ml_pb.ModelMetadataRequest(name=MODEL))
    provider = metadata.parameters["execution_provider"].string_param
    return list(metadata.inputs[0].shape) == [-1, 1, 48, 48] and provider.endswith("Provider")


def indexed(stub: Any) -> bool:
    index = stub.RepositoryIndex(ml_pb.RepositoryIndexRequest())
    return (MODEL, "READY") in [(one.name, one.state) for one in index.models]


def reloaded(stub: Any) -> bool:
    stub.RepositoryModelUnload(ml_pb.RepositoryModelUnloadRequest(model_name=MODEL))
    gone = not stub.ModelReady(ml_pb.ModelReadyRequest(name=MODEL)).ready
    stub.RepositoryModelLoad(ml_pb.RepositoryModelLoadRequest(model_name=MODEL))
    return gone and stub.ModelReady(ml_pb.ModelReadyRequest(name=MODEL)).ready


def main(target: str, picture: str) -> None:
    with grpc.insecure_channel(target) as channel:
        stub = ml_stubs.GRPCInferenceServiceStub(channel)
        row("ServerLive", lambda: stub.ServerLive(ml_pb.ServerLiveRequest()).live)
        row("ServerReady", lambda: stub.ServerReady(ml_pb.ServerReadyRequest()).ready)
        row("ModelReady", lambda: stub.ModelReady(ml_pb.ModelReadyRequest(name=MODEL)).ready)
        row("ServerMetadata", lambda: stub.ServerMetadata(ml_pb.ServerMetadataRequest()).name)
        row("ModelMetadata", lambda: described(stub))
        row("RepositoryIndex", lambda: indexed(stub))
        row("RepositoryModelUnload, -Load", lambda: reloaded(stub))
        row("ModelInfer, raw", lambda: answered(stub, converted(ZEROS, raw=True)))
        row("ModelInfer, typed", lambda: answered(stub, converted(ZEROS, raw=False)))
        file = Path(picture).read_bytes()
        row("ModelInfer, picture as BYTES", lambda: pictured(stub, file))
        unknown = converted(ZEROS, "nobody", raw=True)
        row(
            "error of an unknown model",
            lambda: refused(lambda: stub.ModelInfer(unknown), "NOT_FOUND", "'nobody'"),
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
