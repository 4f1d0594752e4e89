"""Mutated requests against a live server: only documented statuses, and the next good answer right.

hypothesis -> bytes -> choices -> a good request, mutated -> many in flight -> statuses

python -m tests.server.mutations --cases 1000000 --seconds 720

It starts a server of its own, or takes the one at --target. Two processes send, because one would
wait while the server answers and the other way round.
"""

import argparse
import asyncio
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import grpc
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nyquist.server.wire.pb import inference_pb2 as pb
from tests.processes import ROOT, RunningServer, start_server
from tests.server.memory import MIB, resident_bytes

MODEL = "fashion_strided"
SERVICE = "/inference.GRPCInferenceService/"
PICTURE_BYTES = 4 * 48 * 48
BATCH = 64
"""Cases of one example: they fly together, which is faster, and may meet in one batch."""

CASE_BYTES = 32
EXAMPLES = 20
"""Examples between two looks at the clock."""

WARM_CASES = 20_000
"""Cases before the memory of a server counts: they fill its caches and arenas."""

DOCUMENTED = {
    "OK",
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "UNIMPLEMENTED",
    "DEADLINE_EXCEEDED",  # of the parameter timeout
}
LEAK = re.compile(r"Traceback|/\w+/\w+/|0x[0-9a-f]{6,}|\.py\b|site-packages")
"""A path, an address or code in the text of an error. Names that the caller sent hold none."""

NAMES = ("", "image", "logits", MODEL, "..", "../x", "a/b", "\0", "é", "1", "x" * 300)
SIZES = (-(2**63), -1, 0, 1, 2, 48, 64, 65, 2**31, 2**32, 2**62, 2**63 - 1)
DATATYPES = ("FP32", "FP16", "UINT8", "BYTES", "INT64", "BOOL", "", "fp32")
LENGTHS = (0, 1, 4, PICTURE_BYTES - 1, PICTURE_BYTES, PICTURE_BYTES + 1, 2 * PICTURE_BYTES)
KEYS = ("timeout", "priority", "classification", "sequence_id", "triton_x", "headers",
        "shared_memory_region", "binary_data_output", "", "z")  # fmt: skip
VALUES = (("bool_param", True), ("int64_param", -1), ("int64_param", 2**62), ("int64_param", 3),
          ("string_param", "x"), ("double_param", 1e308), ("double_param", float("nan")),
          ("uint64_param", 2**64 - 1))  # fmt: skip
FIELDS = ("fp32_contents", "int_contents", "uint_contents", "int64_contents", "bool_contents",
          "fp64_contents", "bytes_contents")  # fmt: skip
METHODS = (*["ModelInfer"] * 12, "ModelReady", "ModelMetadata", "ServerReady", "Nope")


class Choices:
    """Decisions read from bytes, so that drawing a case costs hypothesis one draw, not a hundred.

    Zeros are the first of everything: what hypothesis shrinks a failing case towards.
    """

    def __init__(self, drawn: bytes) -> None:
        self._drawn, self._at = drawn, 0

    def below(self, end: int) -> int:
        """Return a number from 0 to end - 1, for ends up to 256."""
        at, self._at = self._at, self._at + 1
        return self._drawn[at] % end if at < len(self._drawn) else 0

    def one_of(self, options: Sequence[Any]) -> Any:
        """Return one of these."""
        return options[self.below(len(options))]


def good_request() -> pb.ModelInferRequest:
    """Ask for the logits of a black picture."""
    request = pb.ModelInferRequest()
    request.CopyFrom(_good_request())
    return request


@cache
def _good_request() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name=MODEL, raw_input_contents=[bytes(PICTURE_BYTES)])
    request.inputs.add(name="image", datatype="FP32", shape=(1, 1, 48, 48))
    return request


def change_name(request: pb.ModelInferRequest, choices: Choices) -> None:
    """Give the model, the version, the id or the input another name."""
    where = choices.one_of(("model_name", "model_version", "id", "name"))
    message: Any = the_input(request) if where == "name" else request
    setattr(message, where, choices.one_of(NAMES))


def change_datatype(request: pb.ModelInferRequest, choices: Choices) -> None:
    """Call the elements something else."""
    the_input(request).datatype = choices.one_of(DATATYPES)


def change_shape(request: pb.ModelInferRequest, choices: Choices) -> None:
    """Make one axis another size, or all of them."""
    shape = the_input(request).shape
    if choices.below(2) and len(shape):
        shape[choices.below(len(shape))] = choices.one_of(SIZES)
    else:
        shape[:] = [choices.one_of(SIZES) for _ in range(choices.below(7))]


def change_contents(request: pb.ModelInferRequest, choices: Choices) -> None:
    """Send another number of raw contents, of another length."""
    count, length = choices.one_of((1, 0, 2)), choices.one_of(LENGTHS)
    request.raw_input_contents[:] = [bytes(length)] * count


def add_typed(request: pb.ModelInferRequest, choices: Choices) -> None:
    """Send typed contents, instead of raw ones or beside them."""
    if choices.below(2):
        request.ClearField("raw_input_contents")
    name = choices.one_of(FIELDS)
    value = b"x" if name == "bytes_contents" else 1
    count = choices.one_of((1, 48, PICTURE_BYTES // 4))
    getattr(the_input(request).contents, name).extend([value] * count)


def add_tensor(request: pb.ModelInferRequest, choices: Choices) -> None:
    """Send a further input, none at all, or ask for a further output."""
    what = choices.below(4)
    if what == 0:
        request.ClearField("inputs")
    elif what == 1:
        request.inputs.add(name=choices.one_of(NAMES), datatype="FP32", shape=[1])
    else:
        request.outputs.add(name=choices.one_of(NAMES))


def add_parameter(request: pb.ModelInferRequest, choices: Choices) -> None:
    """Set a parameter of the request, of its input or of an output."""
    where: Any = choices.one_of((request, the_input(request), None))
    if where is None:
        where = request.outputs.add(name="logits")
    setattr(where.parameters[choices.one_of(KEYS)], *choices.one_of(VALUES))


MUTATIONS = (change_name, change_datatype, change_shape, change_contents, add_typed, add_tensor,
             add_parameter)  # fmt: skip


def the_input(request: pb.ModelInferRequest) -> pb.ModelInferRequest.InferInputTensor:
    """Return the first input; where there is none, one that is not sent."""
    return request.inputs[0] if request.inputs else pb.ModelInferRequest.InferInputTensor()


def case(choices: Choices) -> tuple[str, bytes]:
    """Return a method and the bytes of a good request after one to four mutations.

    Every fourth has up to four bytes overwritten too, where the fields are.
    """
    request = good_request()
    for _ in range(1 + choices.below(4)):
        choices.one_of(MUTATIONS)(request, choices)
    body = bytearray(request.SerializeToString())
    if choices.below(4) == 3:
        for _ in range(1 + choices.below(4)):
            if body:
                body[choices.below(min(len(body), 200))] = choices.below(256)
    return choices.one_of(METHODS), bytes(body)


@dataclass
class Run:
    """What a run has sent and seen. Make it inside `open_run`.

    Attributes:
        channel: to the server.
        codes: how often each status came.
        answer: the logits of the good request, before any other.
    """

    channel: grpc.aio.Channel
    codes: Counter[str] = field(default_factory=Counter)
    answer: bytes = b""

    def __post_init__(self) -> None:
        self._calls: dict[str, Any] = {
            name: self.channel.unary_unary(SERVICE + name) for name in set(METHODS)
        }

    async def ask_well(self) -> bytes:
        """Return the logits that the server answers a good request with."""
        body = await self._calls["ModelInfer"](good_request().SerializeToString(), timeout=30)
        return pb.ModelInferResponse.FromString(body).raw_output_contents[0]

    async def send(self, cases: list[tuple[str, bytes]]) -> None:
        """Send cases together, and a good request after them.

        Raises:
            AssertionError: a status is none of the documented, a text leaks, or the good answer
                is another one than before.
        """
        flying = [self._calls[method](body, timeout=30) for method, body in cases]
        for (method, body), call in zip(cases, flying, strict=True):
            code, details = (await call.code()).name, await call.details() or ""
            self.codes[code] += 1
            if code not in DOCUMENTED:
                raise AssertionError(f"{method} of {body[:400]!r} got {code}: {details}")
            if LEAK.search(details):
                raise AssertionError(f"{method} of {body[:400]!r} leaks: {details}")
        if await self.ask_well() != self.answer:
            raise AssertionError(f"a good request is answered otherwise after {cases}")


@contextmanager
def open_run(target: str) -> Iterator[tuple[asyncio.Runner, Run]]:
    """Yield a run against a server, and the event loop to send its cases on."""
    with asyncio.Runner() as loop:

        async def opened() -> Run:
            run = Run(grpc.aio.insecure_channel(target, [("grpc.max_send_message_length", -1)]))
            run.answer = await run.ask_well()
            return run

        run = loop.run(opened())
        try:
            yield loop, run
        finally:
            loop.run(run.channel.close())


def mutate(target: str, cases: int, seconds: float = float("inf")) -> Counter[str]:
    """Send so many cases, or as many as the time allows; return the statuses.

    Raises:
        AssertionError: as Run.send says; hypothesis prints the smallest case it found.
    """
    ends = time.monotonic() + seconds
    with open_run(target) as (loop, run):

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            derandomize=False,  # which hypothesis does on a CI, and draws the same again and again
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
        )
        @given(st.binary(min_size=BATCH * CASE_BYTES, max_size=BATCH * CASE_BYTES))
        def example(drawn: bytes) -> None:
            parts = range(0, len(drawn), CASE_BYTES)
            loop.run(run.send([case(Choices(drawn[at : at + CASE_BYTES])) for at in parts]))

        while run.codes.total() < cases and time.monotonic() < ends:
            example()
    return run.codes


def mutate_from(workers: int, target: str, cases: int, seconds: float) -> Counter[str]:
    """Let several processes share the cases."""
    shares = [(target, -(-cases // workers), seconds)] * workers
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(mutate, *zip(*shares, strict=True)), Counter[str]())


@contextmanager
def own_server() -> Iterator[RunningServer]:
    """Serve the one model that the cases are for."""
    with tempfile.TemporaryDirectory() as repository:
        (Path(repository) / MODEL).symlink_to(ROOT / "model_repository" / MODEL)
        server = start_server(Path(repository))
        try:
            yield server
        finally:
            status = server.stop()
    if status:
        raise AssertionError(f"the server ended with {status}")


def main() -> int:
    """Run it from the command line; an assertion is the failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", help="HOST:PORT of a server (default: one is started)")
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=720.0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    if options.target:
        _report(options, options.target)
        return 0
    with own_server() as server:
        pid = server.process.pid
        mutate(server.target, min(WARM_CASES, options.cases // 10))
        before = resident_bytes(pid)
        _report(options, server.target)
        after = resident_bytes(pid)
    sys.stdout.write(f"memory of the server: {before / MIB:.1f} MiB, then {after / MIB:.1f} MiB\n")
    return 0


def _report(options: argparse.Namespace, target: str) -> None:
    began = time.monotonic()
    codes = mutate_from(options.workers, target, options.cases, options.seconds)
    took = time.monotonic() - began
    sys.stdout.write(
        f"{codes.total()} cases in {took:.0f} s ({codes.total() / took:.0f}/s): {dict(codes)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
