"""tritonclient, asynchronous: python triton_aio.py TARGET PICTURE."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc.aio as triton  # type: ignore[import-not-found] # of its own environment
from rows import row  # type: ignore[import-not-found] # beside this script

MODEL = "fashion_strided"
ZEROS = np.zeros((2, 1, 48, 48), np.float32)


def tensor(values: Any = ZEROS, datatype: str = "FP32") -> Any:
    given = triton.InferInput("image", list(values.shape), datatype)
    given.set_data_from_numpy(values)
    return given


async def is_logits(answer: Awaitable[Any], classes: int = 10) -> bool:
    return (await answer).as_numpy("logits").shape == (2, classes)


async def has(answer: Awaitable[Any], field: str) -> bool:
    return bool(getattr(await answer, field))


async def many(client: Any) -> bool:
    """Fifty requests at a time, each with an answer of its own."""
    calls = [client.infer(MODEL, [tensor()], request_id=str(number)) for number in range(50)]
    answers = await asyncio.gather(*calls)
    return [answer.get_response().id for answer in answers] == [str(n) for n in range(50)]


async def streamed(client: Any) -> bool:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, model in enumerate([MODEL, "nobody", MODEL]):
            yield {"model_name": model, "inputs": [tensor()], "request_id": str(number)}

    answers = [answer async for answer in client.stream_infer(requests())]
    return [error is None for _, error in answers] == [True, False, True]


async def main(target: str, file: bytes) -> None:
    client = triton.InferenceServerClient(target)
    files = np.array([file] * 2, dtype=np.object_)
    calls = {
        "ServerLive": client.is_server_live(),
        "ServerReady": client.is_server_ready(),
        "ModelReady": client.is_model_ready(MODEL),
        "ServerMetadata": has(client.get_server_metadata(), "extensions"),
        "ModelMetadata": has(client.get_model_metadata(MODEL), "inputs"),
        "ModelConfig": has(client.get_model_config(MODEL), "config"),
        "ModelStatistics": has(client.get_inference_statistics(MODEL), "model_stats"),
        "RepositoryIndex": has(client.get_model_repository_index(), "models"),
        "TraceSetting": has(client.get_trace_settings(), "settings"),
        "LogSettings": has(client.get_log_settings(), "settings"),
        "ModelInfer": is_logits(client.infer(MODEL, [tensor()])),
        "ModelInfer, gzip": is_logits(
            client.infer(MODEL, [tensor()], compression_algorithm="gzip")
        ),
        "ModelInfer, deflate": is_logits(
            client.infer(MODEL, [tensor()], compression_algorithm="deflate")
        ),
        "ModelInfer, 50 at a time": many(client),
        "ModelInfer, picture as BYTES": is_logits(
            client.infer("efficientnet_lite0", [tensor(files, "BYTES")]), classes=1000
        ),
        "ModelStreamInfer": streamed(client),
    }
    for call, answer in calls.items():
        try:
            result = await answer
        except Exception as error:  # noqa: BLE001 - whatever a client raises is its result
            result = f"{type(error).__name__}: {error}"
        row(call, lambda outcome=result: outcome)
    await client.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]).read_bytes()))
