"""How the cost of Nyquist grows: with the request, the connections, the cores, the models."""

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from itertools import accumulate

from benchmarks import repositories
from benchmarks.bench import Bench, folder
from benchmarks.model import MeasuredModel
from benchmarks.plan import BATCHES, TARGET_CONCURRENCY
from benchmarks.results import Fact
from benchmarks.servers import NYQUIST, AttachedServer, Contender, nyquist_with
from benchmarks.work import Work, closed, tensors

MODEL = "fashion_blur"
OF_ANY_SIZE = "resnet18_open"
FEW = 4
"""Calls in flight where each is large."""

CONNECTIONS = (1, 10, 100, 1000)
SIDES = (64, 96, 128, 192, 256)
LOADED = (1, 10, 100)


def grow(bench: Bench) -> None:
    """Measure every curve, and one export."""
    subject, sizes = repositories.find(MODEL), repositories.find(OF_ANY_SIZE)
    one, light_s, heavy_s = tensors(subject, 1), bench.plan.light_s, bench.plan.heavy_s / 2
    over_connections = {n: closed(one, TARGET_CONCURRENCY, light_s, n) for n in CONNECTIONS}
    in_batches = {n: closed(tensors(subject, n), FEW, light_s) for n in BATCHES}
    of_sides = {n: closed(tensors(sizes, 1, n), FEW, heavy_s) for n in SIDES}
    _one_server(bench, "connections", subject, over_connections)
    _one_server(bench, "client batch", subject, in_batches)
    _one_server(bench, "picture side", sizes, of_sides)
    _many_servers(bench, "cores", subject, _on_cores(), lambda _: 1)
    _many_servers(bench, "models loaded", subject, dict.fromkeys(LOADED, NYQUIST), lambda n: n)
    _export(bench, subject)


def _on_cores() -> dict[int, Contender]:
    """Return Nyquist on the first core, the first two, and so on up to all that there are."""
    cores = [str(core) for core in sorted(os.sched_getaffinity(0))]
    return {
        len(some): nyquist_with(prefix=["taskset", "-c", ",".join(some)])
        for some in accumulate([core] for core in cores)
    }


def _one_server(
    bench: Bench, experiment: str, subject: MeasuredModel, works: Mapping[int, Work]
) -> None:
    """Measure one server under different work."""
    of: dict[str, Fact] = {"experiment": experiment, "model": subject.name, "server": "nyquist"}
    with folder() as files, ExitStack() as stack:
        repository = repositories.alone(subject, files / "repository")
        server = bench.started(stack, NYQUIST, subject, repository, of)
        if server is None:
            return
        for number in bench.rounds(experiment):
            with server.awake():
                for value, work in works.items():
                    facts = {"value": value, **work.facts, "round": number}
                    bench.window(server, work, {**of, **facts})


def _many_servers(
    bench: Bench,
    experiment: str,
    subject: MeasuredModel,
    contenders: Mapping[int, Contender],
    copies: Callable[[int], int],
) -> None:
    """Measure different servers under the same work, in turns.

    Args:
        bench: where.
        experiment: its name.
        subject: the model that is asked for.
        contenders: the servers, by the value that grows.
        copies: how many models the server of a value has.
    """
    of: dict[str, Fact] = {"experiment": experiment, "model": subject.name, "server": "nyquist"}
    with folder() as files, ExitStack() as stack:
        servers = {}
        for value, contender in contenders.items():
            (files / str(value)).mkdir()
            target = files / str(value) / "repository"
            served = repositories.copies(subject, copies(value), target)
            facts = {**of, "value": value}
            servers[value] = bench.started(stack, contender, subject, served, facts)
        for number in bench.rounds(experiment):
            for value, server in servers.items():
                if server is not None:
                    _both_loads(bench, server, subject, {**of, "value": value, "round": number})


def _both_loads(
    bench: Bench, server: AttachedServer, subject: MeasuredModel, of: Mapping[str, Fact]
) -> None:
    with server.awake():
        for calls in (1, TARGET_CONCURRENCY):
            work = closed(tensors(subject, 1), calls, bench.plan.light_s)
            bench.window(server, work, {**of, **work.facts})


def _export(bench: Bench, subject: MeasuredModel) -> None:
    of: dict[str, Fact] = {"experiment": "export", "model": subject.name, "round": 1}
    if bench.results.has(**of):
        return
    with folder() as files:
        seconds = repositories.build(["--only", subject.name], files)
    bench.results.add(of, {"build_s": seconds})
