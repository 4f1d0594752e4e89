"""Many calls of every kind at once, each answer compared with the first one of its kind.

python -m tests.server.mixture TARGET [--requests N] [--in-flight N] [--pid P]

Models, tensors raw and typed, picture files, classes, errors and streams; the server runs already.
Prints what each kind got, and with the server's pid its memory every 100,000 requests.
"""

import argparse
import asyncio
import io
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.tensors import bytes_elements

SERVICE = "/inference.GRPCInferenceService/"
OF_A_STREAM = 8
STEP = 100_000

Call = tuple[str, bytes]
"""Name of a method, and its message."""


def tensor(model: str, seed: int, rows: int = 1, *, typed: bool = False, classes: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).random((rows, 1, 48, 48), np.float32)
    request = pb.ModelInferRequest(model_name=model)
    image = request.inputs.add(name="image", datatype="FP32", shape=pixels.shape)
    if typed:
        image.contents.fp32_contents.extend(pixels.ravel().tolist())
    else:
        request.raw_input_contents.append(pixels.tobytes())
    if classes:
        request.outputs.add(name="logits").parameters["classification"].int64_param = classes
    return request.SerializeToString()


def picture(model: str, seed: int, *, progressive: bool = False) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", progressive=progressive)
    raw = bytes_elements([file.getvalue()])
    request = pb.ModelInferRequest(model_name=model, raw_input_contents=[raw])
    request.inputs.add(name="image", datatype="BYTES", shape=(1,))
    return request.SerializeToString()


def calls(models: list[str]) -> list[Call]:
    """Return one call of each kind for each model, and those that are for none."""
    unknown = pb.ModelInferRequest(model_name="nobody").SerializeToString()
    kinds = [("ModelInfer", unknown), ("ModelInfer", b"\xff"), ("ServerLive", b"")]
    for model in models:
        short = pb.ModelInferRequest.FromString(tensor(model, 0))
        short.raw_input_contents[0] = b"\0"
        kinds += [
            *(("ModelInfer", tensor(model, seed)) for seed in range(4)),
            ("ModelInfer", tensor(model, 5, rows=3)),
            ("ModelInfer", tensor(model, 6, typed=True)),
            ("ModelInfer", tensor(model, 7, classes=3)),
            ("ModelInfer", picture(model, 8)),
            ("ModelInfer", picture(model, 9, progressive=True)),
            ("ModelInfer", short.SerializeToString()),
            ("ModelStreamInfer", tensor(model, 10)),
            ("ModelReady", pb.ModelReadyRequest(name=model).SerializeToString()),
        ]
    return kinds


class Mixture:
    """Sends calls of all kinds in turn, so many at a time.

    Attributes:
        outcomes: how often each kind got what it got the first time, by status.
        wrong: what got something else.
        sent: requests so far; each of a stream is one.
    """

    def __init__(self, channel: grpc.aio.Channel, kinds: list[Call]) -> None:
        self._channel, self._kinds = channel, kinds
        self._first: dict[Call, Any] = {}
        self.outcomes: Counter[str] = Counter()
        self.wrong: Counter[str] = Counter()
        self.sent = 0

    async def send(self, requests: int, in_flight: int) -> None:
        for kind in self._kinds:
            self._first[kind] = await self._answer(kind)
        await asyncio.gather(*(self._caller(requests, at) for at in range(in_flight)))

    async def _caller(self, requests: int, at: int) -> None:
        while self.sent < requests:
            kind = self._kinds[at % len(self._kinds)]
            at += 1
            self.sent += OF_A_STREAM if kind[0] == "ModelStreamInfer" else 1
            got = await self._answer(kind)
            status = got if isinstance(got, str) else "OK"
            if got == self._first[kind]:
                self.outcomes[f"{kind[0]}: {status}"] += 1
            else:
                self.wrong[f"{kind[0]}: {status}"] += 1

    async def _answer(self, kind: Call) -> Any:
        method, body = kind
        try:
            if method != "ModelStreamInfer":
                unary: Any = self._channel.unary_unary(SERVICE + method)
                return await unary(body, timeout=60)
            stream: Any = self._channel.stream_stream(SERVICE + method)
            return [answer async for answer in stream(_repeated(body), timeout=60)]
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name} {error.details()}"


async def _repeated(body: bytes) -> AsyncIterator[bytes]:
    for _ in range(OF_A_STREAM):
        yield body


def memory_mib(pid: int) -> int:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmRSS:")[2].split()[0]) // 1024


async def watch(mixture: Mixture, pid: int) -> None:
    """Print the memory of the server each time that so many requests more were sent."""
    told = -1
    while True:
        if mixture.sent // STEP > told:
            told = mixture.sent // STEP
            line = f"{mixture.sent} requests, {memory_mib(pid)} MiB, wrong {dict(mixture.wrong)}\n"
            sys.stdout.write(line)
            sys.stdout.flush()
        await asyncio.sleep(0.2)


async def run(options: argparse.Namespace) -> Mixture:
    async with grpc.aio.insecure_channel(options.target) as channel:
        mixture = Mixture(channel, calls(options.models))
        watching = asyncio.create_task(watch(mixture, options.pid)) if options.pid else None
        await mixture.send(options.requests, options.in_flight)
        if watching:
            watching.cancel()
        return mixture


def main() -> int:
    """Run it from the command line; exit 1 if a call was lost or got another answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--in-flight", type=int, default=64)
    parser.add_argument("--models", nargs="+", default=["fashion_strided", "fashion_blur"])
    parser.add_argument("--pid", type=int, help="of the server")
    mixture = asyncio.run(run(parser.parse_args()))
    lines = [f"{count:9} {kind[:150]}" for kind, count in mixture.outcomes.most_common()]
    sys.stdout.write("\n".join([*lines, f"wrong: {dict(mixture.wrong)}", ""]))
    return 1 if mixture.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
