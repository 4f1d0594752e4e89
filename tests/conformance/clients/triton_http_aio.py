"""tritonclient over HTTP, asynchronous: python triton_http_aio.py TARGET PICTURE."""

import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http.aio as triton  # type: ignore[import-not-found] # of its own environment
from rows import row  # type: ignore[import-not-found] # beside this script

MODEL = "fashion_strided"
ZEROS = np.zeros((2, 1, 48, 48), np.float32)


def tensor(values: Any = ZEROS, datatype: str = "FP32") -> Any:
    given = triton.InferInput("image", list(values.shape), datatype)
    given.set_data_from_numpy(values)
    return given


async def shape(client: Any, model: str, given: Any, **options: Any) -> tuple[int, ...]:
    answer = await client.infer(model, [given], **options)
    return tuple(answer.as_numpy("logits").shape)


async def reloaded(client: Any) -> bool:
    await client.unload_model(MODEL)
    gone = not await client.is_model_ready(MODEL)
    await client.load_model(MODEL)
    return gone and bool(await client.is_model_ready(MODEL))


async def main(target: str, file: bytes) -> None:
    async with triton.InferenceServerClient(target) as client:
        files = np.array([file, file], dtype=np.object_)
        rows: dict[str, tuple[Coroutine[Any, Any, Any], Any]] = {
            "ServerLive": (client.is_server_live(), True),
            "ServerReady": (client.is_server_ready(), True),
            "ModelReady": (client.is_model_ready(MODEL, "1"), True),
            "ModelReady, unknown model": (client.is_model_ready("nobody"), False),
            "RepositoryModelUnload, -Load": (reloaded(client), True),
            "ModelInfer": (shape(client, MODEL, tensor()), (2, 10)),
            "ModelInfer, gzip": (
                shape(
                    client,
                    MODEL,
                    tensor(),
                    request_compression_algorithm="gzip",
                    response_compression_algorithm="gzip",
                ),
                (2, 10),
            ),
            "ModelInfer, picture as BYTES": (
                shape(client, "efficientnet_lite0", tensor(files, "BYTES")),
                (2, 1000),
            ),
        }
        for call, (answer, right) in rows.items():
            result = await asyncio.gather(answer, return_exceptions=True)
            row(call, lambda got=result[0], wanted=right: told(got) == wanted)


def told(result: Any) -> Any:
    """Return a result, or raise the error that it is."""
    if isinstance(result, BaseException):
        raise result
    return result


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
