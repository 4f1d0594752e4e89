"""How the server's memory grows, over requests and over loads of a model, and that a leak shows.

python -m tests.server.memory requests [--count N] [--leak]      through a real server
python -m tests.server.memory loads [--count N] [--leak]         open, ask and close a model

Prints the growth of the resident memory by quarters, and its slope over the last three: the first
fills caches and arenas. With --leak the same run keeps what it should let go, on purpose.
"""

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import grpc
import numpy as np

from nyquist.server.artifact.manifest import read_manifest
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.scheduling.budget import QueueBudget
from nyquist.server.serving.loading import load_model
from nyquist.server.serving.served_model import ServedModel
from nyquist.server.telemetry.metrics import Metrics
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pictures import ImageDecoder
from nyquist.server.wire.request_head import Incoming
from nyquist.server.wire.tensors import DTYPES
from tests.processes import ROOT, RunningServer, start_server

SAMPLES = 40
CONCURRENCY = 32
WRONG_EVERY = 5
"""Every fifth request is refused: what an error keeps is a leak as well."""

MIB = 1 << 20
LEAKING_SERVER = """
import sys
from nyquist.server.__main__ import main
from nyquist.server.scheduling.batcher import Batcher
kept, submit = [], Batcher.submit
def leaking(self, pictures, options):
    kept.append(bytes(65536))
    return submit(self, pictures, options)
Batcher.submit = leaking
sys.exit(main())
"""


@dataclass(frozen=True)
class Growth:
    """Resident memory in bytes, sampled evenly over `count` requests or loads."""

    count: int
    resident: tuple[int, ...]

    @property
    def settled(self) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        """The samples without the first quarter."""
        return np.array(self.resident[len(self.resident) // 4 :], np.float64)

    @property
    def slope(self) -> float:
        """Bytes for each request or load, by least squares over the settled samples."""
        steps = np.arange(len(self.settled)) * self.count / (len(self.resident) - 1)
        return float(np.polyfit(steps, self.settled, 1)[0])

    def __str__(self) -> str:
        quarters = np.array(self.resident)[np.linspace(0, len(self.resident) - 1, 5).astype(int)]
        shown = " ".join(f"{value / MIB:.1f}" for value in quarters)
        return f"{self.count} done; MiB at each quarter: {shown}; slope {self.slope:.1f} B each"


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def request_for(folder: Path) -> pb.ModelInferRequest:
    """Build a request of one picture of noise."""
    wanted = read_manifest(folder, 1).input
    noise = np.random.default_rng(0).random((1, *wanted.shape)).astype(DTYPES[wanted.datatype])
    request = pb.ModelInferRequest(model_name=folder.name, raw_input_contents=[noise.tobytes()])
    request.inputs.add(name=wanted.name, datatype=wanted.datatype, shape=noise.shape)
    return request


async def _sampled(
    count: int, step: Callable[[int], Awaitable[None]], sample: Callable[[], int]
) -> Growth:
    block = max(1, count // SAMPLES)
    resident = [sample()]
    for _ in range(count // block):
        await step(block)
        resident.append(sample())
    return Growth(count, tuple(resident))


def over_requests(folder: Path, count: int, *, leak: bool = False) -> Growth:
    """Send requests over closed loops to a server of the model in `folder` alone."""
    with tempfile.TemporaryDirectory() as repository:
        (Path(repository) / folder.name).symlink_to(folder.resolve())
        server = start_server(Path(repository), code=LEAKING_SERVER if leak else "")
    try:
        return asyncio.run(_over_requests(server, folder, count))
    finally:
        server.stop()


async def _over_requests(server: RunningServer, folder: Path, count: int) -> Growth:
    good = request_for(folder)
    body = good.SerializeToString()
    good.inputs[0].shape[-1] += 1
    wrong = good.SerializeToString()
    async with grpc.aio.insecure_channel(server.target) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer"
        )

        async def send(requests: int) -> None:
            left = iter(range(requests))

            async def caller() -> None:
                for number in left:
                    if number % WRONG_EVERY:
                        await call(body)
                    else:
                        assert (await call(wrong).code()) is grpc.StatusCode.INVALID_ARGUMENT

            await asyncio.gather(*(caller() for _ in range(CONCURRENCY)))

        return await _sampled(count, send, lambda: resident_bytes(server.process.pid))


def over_loads(folder: Path, count: int, *, leak: bool = False) -> Growth:
    """Load a model, ask it once, close it; in this process."""
    request = request_for(folder).SerializeToString()
    metrics, budget, execution = Metrics(), QueueBudget(MIB), Execution("cpu", threads=1)
    images, kept = ImageDecoder(MIB), list[Any]()

    async def cycle(times: int) -> None:
        for _ in range(times):
            loaded = load_model(folder, execution)
            model = ServedModel(loaded, metrics.model(folder.name, "1"), images, budget)
            await model.infer(Incoming(request), perf_counter(), None)
            await model.close()
            if leak:
                kept.append(loaded)

    def sample() -> int:
        gc.collect()
        return resident_bytes(os.getpid())

    return asyncio.run(_sampled(count, cycle, sample))


def over_loads_elsewhere(folder: Path, count: int, *, leak: bool = False) -> Growth:
    """Measure `over_loads` in a process of its own, whose memory nothing else fills."""
    command = [sys.executable, "-m", "tests.server.memory", "loads", "--raw"]
    options = ["--model", str(folder), "--count", str(count), *(["--leak"] if leak else [])]
    ended = subprocess.run(
        [*command, *options], cwd=ROOT, capture_output=True, timeout=240, check=True
    )
    return Growth(count, tuple(map(int, ended.stdout.split())))


def main() -> None:
    """Measure one kind of growth and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("over", choices=("requests", "loads"))
    parser.add_argument("--model", type=Path, default=ROOT / "model_repository/fashion_strided")
    parser.add_argument("--count", type=int)
    parser.add_argument("--leak", action="store_true")
    parser.add_argument("--raw", action="store_true", help="print the samples alone")
    arguments = parser.parse_args()
    if arguments.over == "requests":
        growth = over_requests(arguments.model, arguments.count or 200_000, leak=arguments.leak)
    else:
        growth = over_loads(arguments.model, arguments.count or 200, leak=arguments.leak)
    print(*growth.resident if arguments.raw else [growth])  # noqa: T201 - its output


if __name__ == "__main__":
    main()
