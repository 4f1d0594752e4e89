"""Requests that are lost while models change in a bucket: python -m tests.server.changing_bucket.

callers that never pause | versions that come object by object | a store that fails, and one that
lies | a restart without the store
"""

import argparse
import asyncio
import math
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import fsspec
import grpc
import pytest

from nyquist.server.telemetry import names
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import add_version, copy_model, edit_manifest
from tests.processes import ROOT, RunningServer, start_server
from tests.requests import fashion_request
from tests.server.receiver import until
from tests.server.stores import BUCKET, ENVIRONMENT, Answer, Faulty, faulty, put, s3_server, sound

CHANGED = "fashion_strided"
STEADY = "fashion_blur"
CALLERS = 16
EVERY = 3
"""Changes, between two faults of a kind."""


@dataclass
class Outcome:
    """What came of the calls.

    Attributes:
        answers: calls by the status that they ended with, or by WRONG for another answer than
            before the first change.
        versions: of the model that changes, that have answered.
        failures: looks at the bucket that failed, as the server counts them.
        offline: versions that were served after a restart without the bucket.
        wanted: calls, once all changes have been made.
    """

    answers: Counter[str] = field(default_factory=Counter)
    versions: set[str] = field(default_factory=set)
    failures: int = 0
    offline: set[tuple[str, str]] = field(default_factory=set)
    wanted: float = math.inf


async def change_under_load(
    server: RunningServer, changes: "Changes", least: int, pause_s: float, outcome: Outcome
) -> None:
    """Call both models until there are `least` calls and all changes have been made."""
    async with grpc.aio.insecure_channel(server.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        async with asyncio.TaskGroup() as tasks:
            for number in range(CALLERS):
                name = (CHANGED, STEADY)[number % 2]
                tasks.create_task(_call(stub, name, outcome, pause_s))
            await asyncio.to_thread(changes.make)
            outcome.wanted = least


async def _call(
    stub: stubs.GRPCInferenceServiceStub,
    name: str,
    outcome: Outcome,
    pause_s: float,
) -> None:
    request = fashion_request(model=name)
    right: list[bytes] = []
    while outcome.answers.total() < outcome.wanted:
        await asyncio.sleep(pause_s)
        try:
            answer = await stub.ModelInfer(request)
        except grpc.RpcError as error:
            outcome.answers[f"{error.code().name}: {error.details()}"] += 1
            continue
        if name == CHANGED:
            outcome.versions.add(answer.model_version)
        right = right or list(answer.raw_output_contents)
        same = right == list(answer.raw_output_contents)
        outcome.answers["OK" if same else "WRONG"] += 1


class Changes:
    """What happens to the bucket.

    Args:
        server: that looks at it.
        bucket: its files.
        proxy: before it.
        folder: of the models, here.
        count: of changes.
    """

    def __init__(
        self, server: RunningServer, bucket: Any, proxy: Faulty, folder: Path, count: int
    ) -> None:
        self._server, self._bucket, self._proxy = server, bucket, proxy
        self._folder, self._count = folder, count

    def make(self) -> None:
        """Make all of them, each once the server has met the one before."""
        for number in range(self._count):
            self._publish(number + 2)
            if number % EVERY == 0:
                self._fail()
            elif number % EVERY == 1:
                self._lie(number + 2)

    def _publish(self, version: int) -> None:
        """Let a version come object by object, and wait until it is served."""
        fresh = add_version(self._folder / CHANGED, version)
        put(self._bucket, BUCKET, files_of(fresh, self._folder))
        until(lambda: (CHANGED, str(version)) in served(self._server), rest)

    def _fail(self) -> None:
        before = failures(self._server)
        self._proxy.fault = _unavailable
        until(lambda: failures(self._server) > before, rest)
        self._proxy.fault = sound

    def _lie(self, version: int) -> None:
        """Let a version come with another graph than its manifest says, and take it away."""
        fresh = add_version(self._folder / STEADY, version)
        wrong = {f"{version}/model.onnx": "0" * 64}
        edit_manifest(
            self._folder / STEADY, lambda content: content["files"].update(wrong), version
        )
        before = failures(self._server)
        put(self._bucket, BUCKET, files_of(fresh, self._folder))
        until(lambda: failures(self._server) > before, rest)
        self._bucket.rm(f"{BUCKET}/{STEADY}/{version}", recursive=True)
        shutil.rmtree(fresh)


def _unavailable(method: str, path: str, answer: Answer) -> Answer:
    del method, path, answer
    return 503, b"<Error><Code>ServiceUnavailable</Code></Error>"


def rest() -> None:
    """Leave the server to its callers between two questions."""
    time.sleep(0.1)


def files_of(folder: Path, root: Path) -> dict[str, bytes]:
    """Return the files below a folder by their paths below the root, the manifests last."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    files.sort(key=lambda path: path.name == "manifest.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def served(server: RunningServer) -> set[tuple[str, str]]:
    """Return the versions that are ready."""
    with grpc.insecure_channel(server.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    return {(model.name, model.version) for model in index.models}


def failures(server: RunningServer) -> int:
    """Return how many looks have failed."""
    with urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{names.SOURCE_FAILURES}{{")]
    return int(float(line.split()[-1]))


def run(repository: Path, least: int, changes: int, *options: str, pause_s: float = 0.0) -> Outcome:
    """Serve two models from a bucket, change it under load, and start again without it.

    Args:
        repository: that has them.
        least: calls.
        changes: of the bucket.
        options: of the server that meets them.
        pause_s: between two calls of a caller.
    """
    outcome = Outcome()
    with (
        tempfile.TemporaryDirectory() as scratch,
        s3_server() as upstream,
        pytest.MonkeyPatch.context() as environment,
    ):
        folder = Path(scratch)
        kept = ("--drain-s", "0", "--cache", f"{folder}/cache", "--source-timeout-s", "1")
        with faulty(upstream) as proxy:
            for name, value in {**ENVIRONMENT, "AWS_ENDPOINT_URL": proxy.url}.items():
                environment.setenv(name, value)
            bucket = fsspec.filesystem(
                "s3", skip_instance_cache=True, endpoint_url="http://{}:{}".format(*upstream)
            )
            bucket.mkdir(BUCKET)
            for name in (CHANGED, STEADY):
                put(bucket, BUCKET, files_of(copy_model(repository, folder, name), folder))
            server = start_server(f"s3://{BUCKET}", ("--poll-s", "0.1", *kept, *options))
            try:
                made = Changes(server, bucket, proxy, folder, changes)
                asyncio.run(change_under_load(server, made, least, pause_s, outcome))
                outcome.failures = failures(server)
            finally:
                assert server.stop() == 0
        server = start_server(f"s3://{BUCKET}", kept)
        outcome.offline = served(server)
        assert server.stop() == 0
    return outcome


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    print(  # noqa: T201 - the command line
        run(
            ROOT / "model_repository",
            asked.requests,
            asked.changes,
            *("--workers", str(asked.workers)),
        )
    )
