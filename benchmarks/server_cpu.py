"""CPU time an image: the server at concurrency, and bare onnxruntime, in turns on one machine.

python -m benchmarks.server_cpu MODEL [--requests N] [--concurrency N] [--rounds N] [--threads N]
                                      [--peer PORT PID]

The server's time is that of its process, user and system, over requests of one picture; the
client is a process of its own and not counted. Bare onnxruntime runs the same session options over
as many pictures, one at a time and in batches of the mean size that the server made. The figures
are medians of the rounds, with the least and the most. --peer names another server of the same
model and protocol that runs already, to be measured in the same rounds.
"""

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from time import process_time

import grpc
import numpy as np
import onnxruntime as ort

from server import tensors
from server.cores import available_cores
from server.engine import CPU, Execution, open_session
from server.manifest import read_manifest
from server.pb import inference_pb2 as pb
from server.session_settings import SessionSettings

ROOT = Path(__file__).parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
METHOD = "/inference.GRPCInferenceService/ModelInfer"


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process, with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def request_body(folder: Path) -> bytes:
    """Build a request of one random picture for the model in a folder."""
    manifest = read_manifest(folder, 1)
    picture = _random(manifest.input.datatype, (1, *manifest.input.shape))
    request = pb.ModelInferRequest(model_name=folder.name, raw_input_contents=[picture.tobytes()])
    request.inputs.add(
        name=manifest.input.name, datatype=manifest.input.datatype, shape=picture.shape
    )
    return request.SerializeToString()


def _random(datatype: str, shape: Sequence[int]) -> "np.ndarray[tuple[int, ...], np.dtype]":
    generator = np.random.default_rng(0)
    return (generator.random(shape) * 255).astype(tensors.DTYPES[datatype])


async def load(target: str, body: bytes, requests: int, concurrency: int) -> None:
    """Send requests over closed loops and four connections."""
    left = iter(range(requests))

    async def caller(channel: grpc.aio.Channel) -> None:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        for _ in left:
            await call(body)

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(min(4, concurrency))]
    await asyncio.gather(*(caller(channels[n % len(channels)]) for n in range(concurrency)))
    for channel in channels:
        await channel.close()


def bare(folder: Path, pictures: int, batch: int, threads: int) -> float:
    """Return onnxruntime's CPU seconds a picture, in this process."""
    manifest = read_manifest(folder, 1)
    plan = Execution("cpu", threads=threads).plan(SessionSettings(), [CPU], available_cores())
    session = open_session((folder / "1" / "model.onnx").read_bytes(), plan, [CPU])
    feed = {manifest.input.name: _random(manifest.input.datatype, (batch, *manifest.input.shape))}
    for _ in range(3):
        session.run(None, feed)
    runs = max(1, pictures // batch)
    began = process_time()
    for _ in range(runs):
        session.run(None, feed)
    return (process_time() - began) / (runs * batch)


class OneModelServer:
    """A server of one model as a process."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._folder, self._threads = folder, threads

    def __enter__(self) -> "OneModelServer":
        self._repository = tempfile.TemporaryDirectory()
        (Path(self._repository.name) / self._folder.name).symlink_to(self._folder.resolve())
        command = [sys.executable, "-m", "server", "--repository", self._repository.name]
        ports = ["--port", "0", "--metrics-port", "0", "--drain-s", "0"]
        self.process = subprocess.Popen(  # noqa: S603 - the project's own server
            [*command, *ports, "--provider", "cpu", "--threads", str(self._threads)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None  # noqa: S101 - for mypy: it is a pipe
        for line in self.process.stderr:
            if found := re.search(r"gRPC on \S+:(\d+), metrics on (\S+)", line):
                self.target, self.metrics = f"127.0.0.1:{found[1]}", found[2]
                return self
        raise SystemExit("the server did not start")

    def __exit__(self, *exception: object) -> None:
        self.process.terminate()
        self.process.wait()
        self._repository.cleanup()

    def mean_batch(self) -> float:
        """Return pictures a run, since the start."""
        with urllib.request.urlopen(self.metrics) as answer:  # noqa: S310 - http, loopback
            text = answer.read().decode()
        total, count = (
            float(re.search(rf"nyquist_batch_size_{part}\{{.*\}} (\S+)", text)[1])  # type: ignore[index] # it is there
            for part in ("sum", "count")
        )
        return total / count


def main() -> None:
    """Measure one model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--peer", type=int, nargs=2, metavar=("PORT", "PID"))
    parser.add_argument("--bare", type=int, help="only bare onnxruntime, in batches of this size")
    arguments = parser.parse_args()
    folder = arguments.repository / arguments.model
    if arguments.bare:
        print(bare(folder, arguments.requests, arguments.bare, arguments.threads))  # noqa: T201 - read by the parent
        return
    body = request_body(folder)
    served, alone, together, peer = [], [], [], []
    with OneModelServer(folder, arguments.threads) as server:
        for _ in range(arguments.rounds):
            served.append(_under_load(server.target, server.process.pid, body, arguments))
            mean = server.mean_batch()
            alone.append(_bare_elsewhere(1))
            together.append(_bare_elsewhere(max(1, round(mean))))
            if arguments.peer:
                port, pid = arguments.peer
                peer.append(_under_load(f"127.0.0.1:{port}", pid, body, arguments))
    print(  # noqa: T201 - its output
        json.dumps(
            {
                "model": arguments.model,
                "onnxruntime": ort.__version__,
                "concurrency": arguments.concurrency,
                "mean batch": round(mean, 2),
                "server us/img": _spread(served, 1e6),
                "bare us/img, batch 1": _spread(alone, 1e6),
                "bare us/img, mean batch": _spread(together, 1e6),
                "server / bare, batch 1": _ratios(served, alone),
                "server / bare, mean batch": _ratios(served, together),
                **(
                    {"peer us/img": _spread(peer, 1e6), "peer / server": _ratios(peer, served)}
                    if peer
                    else {}
                ),
            },
            indent=2,
        )
    )


def _under_load(target: str, pid: int, body: bytes, arguments: argparse.Namespace) -> float:
    """Return a server's CPU seconds a request, once every caller has had an answer."""
    asyncio.run(load(target, body, arguments.concurrency, arguments.concurrency))
    before = cpu_seconds(pid)
    asyncio.run(load(target, body, arguments.requests, arguments.concurrency))
    return (cpu_seconds(pid) - before) / arguments.requests


def _bare_elsewhere(batch: int) -> float:
    """Measure bare onnxruntime in a process of its own, with this one's arguments."""
    command = [sys.executable, "-m", "benchmarks.server_cpu", *sys.argv[1:], "--bare", str(batch)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603 - this script
    return float(ended.stdout)


def _ratios(served: Sequence[float], bare: Sequence[float]) -> str:
    """Compare medians, and the least values, which foreign load inflates the least."""
    middle, least = (f(served) / f(bare) for f in (statistics.median, min))
    return f"{middle:.3f} (least / least: {least:.3f})"


def _spread(values: Sequence[float], factor: float) -> str:
    low, middle, high = (f(values) * factor for f in (min, statistics.median, max))
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


if __name__ == "__main__":
    main()
