"""One model on every server and in bare onnxruntime, in turns."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks import repositories
from benchmarks.bench import Bench, folder
from benchmarks.model import MeasuredModel
from benchmarks.plan import BATCHES, DETAILED, FRACTIONS, TARGET_CONCURRENCY
from benchmarks.results import Fact
from benchmarks.servers import ALL, NYQUIST, AttachedServer
from benchmarks.work import Work, closed, jpeg_file, poisson, tensors

ROOT = Path(__file__).parent.parent
CLIENT_BATCH = 8


def compare(bench: Bench, subject: MeasuredModel) -> None:
    """Measure one model; the servers run beside each other, all but one of them paused."""
    about: dict[str, Fact] = {"experiment": "model", "model": subject.name}
    if not bench.results.has(**about):
        bench.results.add(about, {"mmacs": subject.mmacs})
    with folder() as files, ExitStack() as stack:
        servers = _start(bench, subject, files, stack)
        for number in bench.rounds(subject.name):
            _measure_bare(bench, subject, number)
            for turn in range(len(servers)):
                _take_turns(bench, servers[(turn + number - 1) % len(servers)], subject, number)


def _start(
    bench: Bench, subject: MeasuredModel, files: Path, stack: ExitStack
) -> list[AttachedServer]:
    repository = repositories.alone(subject, files / "repository")
    started: list[AttachedServer | None] = [AttachedServer(*one) for one in bench.plan.attached]
    for contender in (one for one in ALL if one.name in bench.plan.servers):
        of = _facts(subject, contender.name)
        started.append(bench.started(stack, contender, subject, repository, of))
    return [server for server in started if server is not None]


def _facts(subject: MeasuredModel, server: str) -> dict[str, Fact]:
    return {"experiment": "servers", "model": subject.name, "server": server}


def _take_turns(bench: Bench, server: AttachedServer, subject: MeasuredModel, number: int) -> None:
    with server.awake():
        for work in _works(bench, subject, server.name):
            of = {**_facts(subject, server.name), **work.facts, "round": number}
            bench.window(server, work, of)


def _works(bench: Bench, subject: MeasuredModel, server: str) -> Iterator[Work]:
    single, seconds = tensors(subject, 1), bench.seconds(subject, server)
    for concurrency in bench.plan.concurrencies(subject.name, server):
        yield closed(single, concurrency, seconds)
    if subject.name not in DETAILED or server.startswith("echo"):
        return
    yield closed(tensors(subject, CLIENT_BATCH), TARGET_CONCURRENCY, seconds)
    if server == NYQUIST.name:
        yield closed(jpeg_file(subject), TARGET_CONCURRENCY, seconds, payload="jpeg")
        for fraction in FRACTIONS:
            yield poisson(single, fraction, bench.plan.open_s)


def _measure_bare(bench: Bench, subject: MeasuredModel, number: int) -> None:
    sizes = ",".join(str(size) for size in BATCHES if size <= subject.max_batch_size)
    times = ["--seconds", str(bench.plan.bare_s)]
    _run_bare(bench, "bare", subject, number, [*times, "--batches", sizes])
    if subject.name in DETAILED:
        _run_bare(bench, "bare jpeg", subject, number, [*times, "--jpeg"])


def _run_bare(
    bench: Bench, experiment: str, subject: MeasuredModel, number: int, options: list[str]
) -> None:
    of: dict[str, Fact] = {"experiment": experiment, "model": subject.name}
    if bench.results.select(**of, round=number):
        return
    command = [sys.executable, "-m", "benchmarks.bare", str(subject.folder), *options]
    ended = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own command
    for line in ended.stdout.splitlines():
        row = json.loads(line)
        bench.results.add({**of, **row["of"], "round": number}, row["figures"])
