"""What one request makes the server do, counted, not timed: the same on every machine.

python -m benchmarks.guard            # compare with the committed baseline; exit status 1: it grew
python -m benchmarks.guard --renew    # take what is counted as the new baseline

The server runs in this process and is called over gRPC, one request at a time. Counted are the
Python functions, C functions and lines that run in its threads, outside of the event loop and gRPC;
the calls of protobuf messages' methods, which parse, fill and serialize them; and the most bytes
that Python and numpy held for a request at once. Each figure is a median over requests.
"""

import argparse
import asyncio
import gc
import json
import statistics
import sys
import sysconfig
import tempfile
import threading
import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import BuiltinFunctionType, FrameType
from typing import Any

import grpc
from google.protobuf.message import Message

from benchmarks.connection import METHOD
from benchmarks.model import MeasuredModel, Request
from benchmarks.repositories import BUILT, alone
from nyquist.server.app import Server
from nyquist.server.settings import Settings

MODEL = "fashion_blur"
BATCH = 8
REQUESTS = 15
WARM_UP = 5
ALLOWED = 1.10
BASELINE = Path(__file__).parent / "guard.json"

Call = Callable[[bytes], Any]
Figures = dict[str, int]
Tracer = Callable[[FrameType, str, object], Any]

_STDLIB = Path(sysconfig.get_path("stdlib"))
_NOT_OURS = (
    *(str(_STDLIB / name) for name in ("asyncio/", "concurrent/", "selectors.py", "threading.py")),
    str(Path(grpc.__file__).parent),  # the caller is in this process too
)


def compare(counted: Figures, baseline: Figures) -> list[str]:
    """Return a line for each figure that has grown by more than ALLOWED."""
    return [
        f"{name}: {counted[name]:,} a request, baseline {before:,}, "
        f"at most {int(before * ALLOWED):,} are allowed"
        for name, before in baseline.items()
        if counted[name] > before * ALLOWED
    ]


def count() -> Figures:
    """Return what one request of BATCH pictures costs."""
    subject = MeasuredModel(BUILT / MODEL)
    with tempfile.TemporaryDirectory() as folder:
        repository = alone(subject, Path(folder) / "repository")
        return asyncio.run(_count(subject.tensor_request(BATCH), repository))


async def _count(request: Request, repository: Path) -> Figures:
    counter = _Counter()
    with counter:  # before the server starts its threads
        async with _served(repository) as call:
            for _ in range(WARM_UP):
                request.check(await call(request.body))
            steps = [await counter.during(call, request.body) for _ in range(REQUESTS)]
    async with _served(repository) as call:
        peaks = await _peaks(call, request.body)
    figures = {name: statistics.median_low(step[name] for step in steps) for name in _Counter.NAMES}
    return {**figures, "peak bytes": statistics.median_low(peaks)}


@asynccontextmanager
async def _served(repository: Path) -> AsyncIterator[Call]:
    """Run a server in this process, and hand out a call of its ModelInfer."""
    settings = Settings(
        repository=repository, provider="cpu", threads=1, port=0, metrics_port=0, drain_s=0
    )
    async with (
        Server(settings) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(METHOD)
        yield call


async def _peaks(call: Call, body: bytes) -> list[int]:
    """Return the most bytes that Python and numpy held for each request at once."""
    peaks = []
    tracemalloc.start()
    try:
        for _ in range(WARM_UP + REQUESTS):
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            await call(body)
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return peaks[WARM_UP:]


class _Counter:
    """Counts while it is entered, in every thread that starts then and in this one."""

    NAMES = ("Python calls", "C calls", "lines", "protobuf calls")

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def __enter__(self) -> None:
        for module in (threading, sys):
            module.setprofile(self._profile)
            module.settrace(self._trace)

    def __exit__(self, *exception: object) -> None:
        for module in (threading, sys):
            module.settrace(None)
            module.setprofile(None)

    async def during(self, call: Call, body: bytes) -> Counter[str]:
        """Return what one call counts."""
        self._counts = Counter()
        await call(body)
        return self._counts

    def _profile(self, frame: FrameType, event: str, argument: object) -> None:
        if frame.f_code.co_filename.startswith(_NOT_OURS):
            return
        if event == "call":
            self._counts["Python calls"] += 1
        elif event == "c_call":
            self._counts["C calls"] += 1
            self._counts["protobuf calls"] += _of_protobuf(argument)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Tracer | None:
        del argument
        if frame.f_code.co_filename.startswith(_NOT_OURS):
            return None
        self._counts["lines"] += event == "line"
        return self._trace


def _of_protobuf(function: object) -> bool:
    owner = function.__self__ if isinstance(function, BuiltinFunctionType) else None
    kind = owner if isinstance(owner, type) else type(owner)
    return issubclass(kind, Message) or kind.__module__.startswith("google.")


def main() -> int:
    """Compare or renew; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--renew", action="store_true", help=f"write {BASELINE.name}")
    arguments = parser.parse_args()
    counted = count()
    print(json.dumps(counted, indent=2))  # noqa: T201 - its output
    if arguments.renew:
        BASELINE.write_text(json.dumps(counted, indent=2) + "\n")
        return 0
    grown = compare(counted, json.loads(BASELINE.read_text()))
    print("\n".join(grown) or "nothing has grown")  # noqa: T201 - its output
    return int(bool(grown))


if __name__ == "__main__":
    sys.exit(main())
