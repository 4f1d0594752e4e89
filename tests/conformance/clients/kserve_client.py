"""KServe's InferenceGRPCClient: python kserve_client.py TARGET PICTURE."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from kserve import (  # type: ignore[import-not-found] # of its own environment
    InferenceGRPCClient,
    InferInput,
    InferRequest,
)
from kserve.protocol.grpc import (  # type: ignore[import-not-found] # as above
    grpc_predict_v2_pb2 as kserve_pb,
)
from kserve.protocol.grpc import (
    grpc_predict_v2_pb2_grpc as kserve_stubs,
)
from rows import row  # type: ignore[import-not-found] # beside this script

MODEL = "fashion_strided"
ZEROS = np.zeros((2, 1, 48, 48), np.float32)


def request(model: str, values: Any, datatype: str, *, binary: bool) -> Any:
    given = InferInput("image", list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[given])


async def answered(client: Any, asked: Any, classes: int) -> bool:
    answer = await client.infer(asked)
    return answer.outputs[0].as_numpy().shape == (2, classes)


async def refused(client: Any) -> bool:
    try:
        await client.infer(request("nobody", ZEROS, "FP32", binary=True))
    except grpc.RpcError as error:
        return error.code() is grpc.StatusCode.NOT_FOUND
    return False


async def reloaded(target: str) -> bool:
    """KServe's own proto has the model's name in another field than Triton's."""
    async with grpc.aio.insecure_channel(target) as channel:
        stub = kserve_stubs.GRPCInferenceServiceStub(channel)
        asked = kserve_pb.RepositoryModelUnloadRequest(model_name=MODEL)
        unloaded = await stub.RepositoryModelUnload(asked)
        loaded = await stub.RepositoryModelLoad(
            kserve_pb.RepositoryModelLoadRequest(model_name=MODEL)
        )
    return bool(unloaded.isUnloaded and loaded.isLoaded and loaded.model_name == MODEL)


async def main(target: str, file: bytes) -> None:
    client = InferenceGRPCClient(target)
    files = np.array([file] * 2, dtype=np.object_)
    raw = request(MODEL, ZEROS, "FP32", binary=True)
    typed = request(MODEL, ZEROS, "FP32", binary=False)
    pictures = request("efficientnet_lite0", files, "BYTES", binary=True)
    calls = {
        "ServerLive": client.is_server_live(),
        "ServerReady": client.is_server_ready(),
        "ModelReady": client.is_model_ready(MODEL),
        "ModelInfer, raw": answered(client, raw, 10),
        "ModelInfer, typed": answered(client, typed, 10),
        "ModelInfer, picture as BYTES": answered(client, pictures, 1000),
        "RepositoryModelUnload, -Load": reloaded(target),
        "error of an unknown model": refused(client),
    }
    for call, answer in calls.items():
        try:
            result = await answer
        except Exception as error:  # noqa: BLE001 - whatever a client raises is its result
            failure = error

            def result_of(raised: Exception = failure) -> object:
                raise raised

            row(call, result_of)
        else:
            row(call, lambda outcome=result: outcome)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
