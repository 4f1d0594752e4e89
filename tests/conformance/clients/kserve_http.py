"""KServe's InferenceRESTClient: python kserve_http.py TARGET PICTURE."""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import httpx  # type: ignore[import-not-found,unused-ignore] # of its own environment
import numpy as np
from kserve import InferInput, InferRequest  # type: ignore[import-not-found] # as above
from kserve.inference_client import (  # type: ignore[import-not-found] # as above
    InferenceRESTClient,
    RESTConfig,
)
from rows import row  # type: ignore[import-not-found] # beside this script

MODEL = "fashion_strided"
ZEROS = np.zeros((2, 1, 48, 48), np.float32)


def request(model: str, values: Any, datatype: str, *, binary: bool) -> Any:
    given = InferInput("image", list(values.shape), datatype)
    given.set_data_from_numpy(values, binary_data=binary)
    return InferRequest(model_name=model, infer_inputs=[given])


async def answered(client: Any, url: str, asked: Any, classes: int) -> bool:
    answer = await client.infer(url, asked, model_name=asked.model_name)
    return bool(answer.outputs[0].as_numpy().shape == (2, classes))


async def refused(client: Any, url: str) -> bool:
    try:
        await answered(client, url, request("nobody", ZEROS, "FP32", binary=True), 10)
    except httpx.HTTPStatusError as error:
        return bool(error.response.status_code == 404)
    return False


async def main(target: str, file: bytes) -> None:
    url = f"http://{target}"
    files = np.array([file] * 2, dtype=np.object_)
    pictures = request("efficientnet_lite0", files, "BYTES", binary=True)
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    calls: dict[str, Coroutine[Any, Any, object]] = {
        "ServerLive": client.is_server_live(url),
        "ServerReady": client.is_server_ready(url),
        "ModelReady": client.is_model_ready(url, MODEL),
        "ModelInfer": answered(client, url, request(MODEL, ZEROS, "FP32", binary=True), 10),
        "ModelInfer, JSON": answered(client, url, request(MODEL, ZEROS, "FP32", binary=False), 10),
        "ModelInfer, picture as BYTES": answered(client, url, pictures, 1000),
        "error of an unknown model": refused(client, url),
    }
    for call, answer in calls.items():
        (result,) = await asyncio.gather(answer, return_exceptions=True)
        row(call, lambda got=result: told(got))
    await client.close()


def told(result: Any) -> Any:
    """Return a result, or raise the error that it is."""
    if isinstance(result, BaseException):
        raise result
    return result


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
