"""Requests that are lost while models change: python -m tests.reloads [--requests N] [--reloads N].

callers that never pause | a model reloaded again and again | another one damaged and repaired
"""

import argparse
import asyncio
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import copy_model, damage, touch
from tests.processes import ROOT, RunningServer, start_server
from tests.requests import fashion_request

RELOADED = "fashion_strided"
DAMAGED = "fashion_blur"
CALLERS = 16


@dataclass
class Outcome:
    """What came of the calls.

    Attributes:
        answers: calls by the status that they ended with, or by WRONG for another answer than
            before the first change.
        reloads: that were answered with success.
        refusals: loads of the damaged model that were answered with its reason.
    """

    answers: Counter[str] = field(default_factory=Counter)
    reloads: int = 0
    refusals: int = 0


async def change_under_load(
    server: RunningServer, folder: Path, least: int, reloads: int
) -> Outcome:
    """Call both models until there are `least` calls and all changes have been made."""
    outcome, changed = Outcome(), asyncio.Event()
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        async with asyncio.TaskGroup() as tasks:
            for number in range(CALLERS):
                name = (RELOADED, DAMAGED)[number % 2]
                tasks.create_task(_call(stub, name, outcome, changed, least))
            await _change(stub, folder, outcome, reloads)
            changed.set()
    return outcome


async def _call(
    stub: stubs.GRPCInferenceServiceStub,
    name: str,
    outcome: Outcome,
    changed: asyncio.Event,
    least: int,
) -> None:
    request = fashion_request(model=name)
    right: pb.ModelInferResponse | None = None
    while not changed.is_set() or outcome.answers.total() < least:
        try:
            answer = await stub.ModelInfer(request)
        except grpc.RpcError as error:
            outcome.answers[f"{error.code().name}: {error.details()}"] += 1
            continue
        right = right or answer
        outcome.answers["OK" if answer == right else "WRONG"] += 1


async def _change(
    stub: stubs.GRPCInferenceServiceStub, folder: Path, outcome: Outcome, reloads: int
) -> None:
    graph = folder / DAMAGED / "1" / "model.onnx"
    for number in range(reloads):
        touch(folder / RELOADED / "config.pbtxt")
        outcome.reloads += await _load(stub, RELOADED)
        if number % 5 == 0:
            sound = damage(graph)
            outcome.refusals += not await _load(stub, DAMAGED)
            graph.write_bytes(sound)
            await _load(stub, DAMAGED)


async def _load(stub: stubs.GRPCInferenceServiceStub, name: str) -> bool:
    try:
        await stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=name))
    except grpc.RpcError:
        return False
    return True


def run(repository: Path, least: int, reloads: int) -> Outcome:
    """Serve copies of two models, change them under load, and stop the server."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for name in (RELOADED, DAMAGED):
            copy_model(repository, folder, name)
        server = start_server(folder)
        try:
            return asyncio.run(change_under_load(server, folder, least, reloads))
        finally:
            assert server.stop() == 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--reloads", type=int, default=50)
    options = parser.parse_args()
    print(run(ROOT / "model_repository", options.requests, options.reloads))  # noqa: T201 - the command line
